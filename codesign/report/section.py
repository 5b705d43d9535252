"""A section of the review page: static markup, data for the browser, and the script that draws it.

What the script can use, once the page has loaded plotly.js and `static/page.js`::

    codesign.sections["frontier"] = (root, data, page) => { ... }

- ``root``: the section's element; ``data``: its `Section.data`; called once, in the page's order.
- ``page.designs``: the designs of the run in the order of the frontier, each ``{index, name, precision, arch: {n_layers, ...},
  loss, values: {latency_s, ...}, low: {...}, high: {...}, p_budget, p_front, marks: [...]}``; ``page.known``: known models, alike,
  with ``baseline`` and ``note``; ``page.design(name)``: one of both. ``page.facts``: run, device, budget, workload.
- ``page.select(name)`` chooses a design everywhere; ``page.selected`` is its name; ``page.onSelect(fn)`` calls fn(design)
  now, if one is chosen, and at each choice.
- ``page.filter(names or null)`` keeps a set of designs bright and dims the others; ``page.onFilter(fn)`` calls fn(Set or null).
- ``page.plot(element, build, {label})`` draws ``build(theme) -> {data, layout}`` with Plotly (theme's fonts and colours merged
  into the layout) once the element comes near the window, and again at each change of theme or size and before printing.
  Returns ``{update(), on(event, fn), element}``: update() builds again in the next frame; on() is Plotly's (``element.on`` exists
  only after the first drawing).
- ``page.theme``: ``{dark, print, ink, muted, grid, paper, panel, blue, orange, green, pink, sky, yellow, vermillion, grey, series: [...],
  symbols: [...]}`` (Okabe-Ito, told apart with any colour vision); ``page.onTheme(fn)``.
- ``page.format``: ``seconds, bytes, count, energy, power, number, percent, metric(key, value)``; ``page.metricTitle(key)``,
  ``page.archText(arch)``.
- ``page.table(element, columns, rows, {onRow, caption})`` makes a real table: columns ``[{title, value(row), text(row), left}]``,
  sortable by its headers, rows that Enter or a click choose.
- ``page.whenOpen(details, build)`` calls build() when a ``<details>`` is opened and before it is printed (all are, but those with
  ``data-screen``).
- ``page.escape(text)`` before any text from data goes into innerHTML; prefer textContent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from codesign.errors import MissingExtraError

__all__ = ["Section", "column", "render_template", "significant", "static_text", "strict_json"]

_LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the page.

    key: its id in the page and the name of its data; title: the heading; html: its static markup, already escaped (see
    `render_template`): introduction, controls, empty ``<div class="plot" id="...">`` and the table fallback; data: JSON values;
    script: JavaScript that registers ``codesign.sections[key]``.
    """

    key: str
    title: str
    html: str
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    script: str = ""


def static_text(name: str) -> str:
    """A file of ``codesign/report/static``."""
    return (files("codesign.report") / "static" / name).read_text(encoding="utf-8")


def render_template(name: str, /, **values: Any) -> str:
    """A template of ``codesign/report/templates`` with all values escaped for HTML.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError.of("jinja2", "report", "the review page") from error
    from codesign.report.words import FILTERS

    loader = PackageLoader("codesign.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FILTERS)
    return str(environment.get_template(name).render(**values))


def strict_json(data: Any) -> str:
    """JSON (no NaN, no infinity) that is safe inside a script element: ``<``, ``>`` and ``&`` are written as escapes.

    Example:
        >>> strict_json({"name": "</script>"})
        '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def significant(value: float, digits: int = 4) -> float | int | None:
    """A number with so many significant digits, as an int where it is whole; None where it is not finite.

    Example:
        >>> significant(0.0123456), significant(1234567.0), significant(float("nan"))
        (0.01235, 1235000, None)
    """
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) and abs(short) < 2**53 else short


def column(values: Sequence[Any]) -> Any:
    """A column of JSON values in little room; `page.js` reads them back.

    ``{"all": v}`` where all are equal; ``{"of": [...], "at": "AAB...", "w": 1 or 2}`` where few differ (one or two letters of base64's
    alphabet each); ``{"repeat": v, "n": column}`` for lists that repeat one value; else the list.

    Example:
        >>> column([3, 3, 3]), column([1, 2, 1, 1, 2, 1, 2, 1])
        ({'all': 3}, {'of': [1, 2], 'at': 'ABAABABA', 'w': 1})
        >>> column([["x", "x"], ["x"]])
        {'repeat': 'x', 'n': [2, 1]}
    """
    items = list(values)
    levels: dict[str, int] = {}
    kinds: list[Any] = []
    keys = [json.dumps(item) for item in items]
    for key, item in zip(keys, items, strict=True):
        if key not in levels:
            levels[key] = len(kinds)
            kinds.append(item)
    if len(kinds) == 1:
        return {"all": kinds[0]}
    if all(isinstance(item, list) and item for item in kinds):
        first = kinds[0][0]
        if all(part == first for item in kinds for part in item):
            return {"repeat": first, "n": column([len(item) for item in items])}
    if 4 * len(kinds) > len(items) or len(kinds) > len(_LEVELS) ** 2:
        return items
    n, width = len(_LEVELS), 1 if len(kinds) <= len(_LEVELS) else 2
    letters = [
        _LEVELS[i] if width == 1 else _LEVELS[i // n] + _LEVELS[i % n] for i in range(len(kinds))
    ]  # fmt: skip
    return {"of": kinds, "at": "".join(letters[levels[key]] for key in keys), "w": width}
