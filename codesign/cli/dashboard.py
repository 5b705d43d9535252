"""`codesign dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["dashboard"]


def dashboard(
    results: Annotated[str, typer.Option(help="Folder of the runs.")] = "results",
    store: Annotated[
        str | None,
        typer.Option(help="SQLite file or postgresql:// URL; default: CODESIGN_STORE, else your data folder."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to serve on; 0: a free one.")] = 8750,
    host: Annotated[
        str, typer.Option(help="Address to bind to. Other than this machine's own: it shows, and starts nothing.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Serve runs, training runs and measurements as pages on this machine, and start searches from them; Ctrl-C ends it.

    Example: codesign dashboard --results results --open
    """
    import sys
    from pathlib import Path

    from codesign.dashboard import Settings, serve

    settings = Settings(results=Path(results), store=store, host=host, port=port)

    def ready(address: str) -> None:
        if not settings.local:
            print(
                f"warning: bound to {host}: whoever reaches this machine can see all runs and measurements; searches cannot be "
                "started there. For yourself alone: --host 127.0.0.1",
                file=sys.stderr,
            )
        print(f"codesign dashboard at {address} (Ctrl-C ends it)", flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    serve(settings, ready)
    print("stopped")
