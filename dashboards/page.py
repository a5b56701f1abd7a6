"""HTML of a page: what is escaped, how figures and tables look, and the one file they end up in."""

from __future__ import annotations

import base64
import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dashboards.errors import BadInput, reason
from dashboards.panels import Panel

# A page asks the network for nothing. Plotly's WebGL figures compile their own code, hence unsafe-eval.
_POLICY: Final = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"


class Html(str):
    """Text that is markup already. Everything else is escaped where it enters a page."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything, safe to stand in a page; a number in at most four digits."""
    if isinstance(value, Html):
        return value
    return Html(escape(number(value) if isinstance(value, float) else str(value)))


def number(value: float | None, digits: int = 4) -> str:
    """For people: `0.4731`, `2.1e-05`, `12,310`, `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag attribute="…">children</tag>`; `class_` is `class`, `aria_label` is `aria-label`; True stands for itself."""
    shown = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    opened = f"<{tag}{shown}>"
    if tag in ("br", "img", "input", "link", "meta"):
        return Html(opened)
    return Html(f"{opened}{''.join(text(child) for child in children)}</{tag}>")


def paragraph(*children: object, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *children, class_=class_)


def section(identity: str, title: str, *children: object) -> Html:
    """A part of the page that its table of contents names."""
    return element("section", element("h2", title), *children, id=identity)


def grid(panels: Iterable[Panel]) -> Html:
    """Figures side by side, as many as fit."""
    return element("div", *[figure(panel) for panel in panels], class_="grid")


def figure(panel: Panel) -> Html:
    """A figure that is drawn when it comes into view."""
    style = f"height:{panel.height}px" + (f";min-width:{panel.least}px" if panel.least else "")
    chart = element(
        "div", data_script("spec", panel.figure), class_="chart", role="img", style=style,
        aria_label=f"{panel.title}. {panel.caption}",
    )  # fmt: skip
    return element(
        "figure", element("h3", panel.title), element("div", chart, class_="scroll"),
        element("figcaption", panel.caption) if panel.caption else Html(""), class_="wide" if panel.wide else None,
    )  # fmt: skip


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str = "", sortable: bool = False) -> Html:
    """A table that scrolls in its own frame where it is too wide; numbers are aligned to the right."""
    titles = [element("th", element("button", title, type="button") if sortable else title, scope="col") for title in head]
    body = [element("tr", *[_cell(cell) for cell in row]) for row in rows]
    inner = [element("caption", caption)] if caption else []
    inner += [element("thead", element("tr", *titles)), element("tbody", *body)]
    found = element("table", *inner, class_="sortable" if sortable else None)
    return element("div", found, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def _cell(value: object) -> Html:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return element("td", "–", class_="number", data_value="")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return element("td", value, class_="number", data_value=value)
    return element("td", value)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, as tiles."""
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", *tiles, class_="facts")


def details(summary: str, *children: object) -> Html:
    """Something that opens on a click."""
    return element("details", element("summary", summary), *children)


def download(name: str, content: str, words: str) -> Html:
    """A link that saves a text which the page carries with it."""
    encoded = base64.b64encode(content.encode()).decode()
    return element("a", words, href=f"data:text/plain;charset=utf-8;base64,{encoded}", download=name)


def data_script(kind: str, data: Any, identity: str | None = None) -> Html:
    """Data for the page's script."""
    content = json.dumps(_compact(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    safe = Html(content.replace("<", "\\u003c"))  # or a name in it could close the element
    return element("script", safe, type="application/json", class_=kind, id=identity)


def _compact(data: Any) -> Any:
    """With floats of five significant digits, and null for what JSON has no number for."""
    if isinstance(data, float):
        return float(f"{data:.5g}") if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _compact(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_compact(value) for value in data]
    return data


def document(title: str, header: Html, sections: Sequence[tuple[str, str, Html]], data: Html, made: str) -> str:
    """The whole file.

    Sections are (id, name in the table of contents, content); plotly.js comes last, once, and is
    run when the page is there to be read.
    """
    from plotly.offline import get_plotlyjs

    here = files("dashboards")
    style, script = here.joinpath("page.css").read_text("utf-8"), here.joinpath("page.js").read_text("utf-8")
    links = [element("li", element("a", name, href=f"#{identity}")) for identity, name, _ in sections]
    head = (
        Html('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(style)),
    )
    body = (
        header,
        element("nav", element("ol", *links), aria_label="Contents"),
        element("main", *[content for _, _, content in sections]),
        element("footer", paragraph(made)),
        data,
        element("script", Html(get_plotlyjs()), type="text/plain", id="plotly"),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"


def write(path: Path, content: str) -> int:
    """Put a page in its place whole; returns its size in bytes.

    Raises:
        BadInput: the file cannot be written.
    """
    data = content.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)  # mkstemp's are for their owner alone
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as fault:
        raise BadInput(f"{path}: cannot be written: {fault.strerror or reason(fault)}") from None
    return len(data)
