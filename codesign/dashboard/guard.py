"""What every request must pass and every answer carries.

- Host: a page elsewhere can give its own name this machine's address (DNS rebinding), and would then be of one origin with the
  dashboard; it cannot change the Host that the browser sends. Addresses written as numbers need no DNS, so they are safe.
- POST: a token from a form of this dashboard (the cookie is SameSite=Strict, and says nothing by itself), and an Origin that is ours.
- Answers: a content security policy that lets nothing run or load but what this server sends.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, request, session

from codesign.dashboard.serve import Settings

__all__ = ["REPORT_POLICY", "csrf_token", "guard", "host_allowed", "style_nonce"]

#: A report is one file with its scripts inside. Sandboxed without allow-same-origin it has an origin of its own: whatever
#: a run's file may have smuggled into it can neither read the dashboard nor start a search, and it can load nothing.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-modals allow-popups; default-src 'none'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(app: Flask, settings: Settings) -> None:
    """Put the checks before, and the headers behind, all that an app answers."""

    def before() -> None:
        if not host_allowed(request.headers.get("Host", ""), settings):
            abort(403, description=f"this dashboard does not answer to the name {request.headers.get('Host', '')!r}; "
                                   "open the address that 'codesign dashboard' printed")  # fmt: skip
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            _check_origin()
            expected = str(session.get("csrf", ""))
            if not expected or not hmac.compare_digest(request.form.get("csrf", "").encode(), expected.encode()):
                abort(403, description="this form is from before the dashboard was started; load the page again")

    def after(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", _policy())
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response

    app.before_request(before)
    app.after_request(after)


def host_allowed(header: str, settings: Settings) -> bool:
    """Whether the Host of a request is one of this machine's.

    Example:
        >>> [host_allowed(host, Settings()) for host in ("127.0.0.1:8750", "localhost", "[::1]:8750", "evil.example:8750")]
        [True, True, True, False]
    """
    try:
        parts = urlsplit(f"//{header}")
        name, _ = (parts.hostname or "").rstrip("."), parts.port  # a port that is none raises
    except ValueError:
        return False
    if not name or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return False
    if name in ("localhost", settings.host.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not settings.local and name in (socket.gethostname().lower(), socket.getfqdn().lower())
    return address.is_loopback or not settings.local


def _check_origin() -> None:
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        abort(403, description="this request came from a page of another site")


def csrf_token() -> str:
    """The token of this browser's session, which a form of this dashboard sends back."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    return str(session["csrf"])


def style_nonce() -> str:
    """This answer's nonce: for the style elements that plotly.js adds (`static/dashboard.js` hands it on)."""
    if "nonce" not in g:
        g.nonce = secrets.token_urlsafe(16)
    return str(g.nonce)


def _policy() -> str:
    style = f"'self' 'nonce-{style_nonce()}'"
    rules: dict[str, Any] = {
        "default-src": "'none'", "script-src": "'self'", "style-src": style, "img-src": "'self' data: blob:",
        "connect-src": "'self'", "form-action": "'self'", "base-uri": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in rules.items())
