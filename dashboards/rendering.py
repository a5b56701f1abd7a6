"""HTML from the templates, which escape every text, and the one file that a page is."""

from __future__ import annotations

import base64
import functools
import json
import math
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from dashboards.collapse import Sign
from dashboards.errors import ReportError
from records.addresses import first_line
from records.format import duration

if TYPE_CHECKING:
    from jinja2 import Environment

STATE_WORDS: Final = {"complete": "complete", "stopped": "stopped early", "failed": "failed", "running": "open"}
"""States of trials, as readers are told."""

# A page asks the network for nothing. Plotly's WebGL figures compile their own code, hence unsafe-eval.
_POLICY: Final = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"


def render(template: str, **context: Any) -> Markup:
    """A template of `dashboards/templates/`, filled."""
    return Markup(_environment().get_template(template).render(context))


def render_page(
    title: str,
    header: Markup,
    sections: Sequence[tuple[str, str, Markup]],
    command: str,
    data: Any = None,
    refresh: int | None = None,
) -> str:
    """The whole file; `sections` are (id, name in the table of contents, content), `data` is for the figures of all trials.

    With `refresh` the browser loads it again after so many seconds.
    plotly.js comes last, once, and runs when the page is there to be read.
    """
    from plotly.offline import get_plotlyjs

    own = files("dashboards")
    return render(
        "page.html",
        title=title,
        header=header,
        sections=sections,
        data=data,
        refresh=refresh,
        policy=_POLICY,
        made=f"Made {datetime.now():%Y-%m-%d %H:%M} by python dashboards/report.py {command}",
        style=Markup(own.joinpath("page.css").read_text("utf-8")),
        script=Markup(own.joinpath("page.js").read_text("utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def format_number(value: float | None, digits: int = 4) -> str:
    """For people: `0.4731`, `2.1e-05`, `12,310`, `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def badge(state: str) -> Markup:
    """The state of a trial, in its colour."""
    return Markup('<span class="badge {}">{}</span>').format(state, STATE_WORDS[state])


def sign_list(signs: Sequence[Sign]) -> Markup:
    """The sentence of each sign, its name on hovering."""
    return Markup("").join(Markup('<span class="sign" title="{}">{}</span>').format(sign.name, sign.words) for sign in signs)


def to_json(data: Any) -> Markup:
    """Data for the page's script: floats have five significant digits, and null where JSON has no number."""
    content = json.dumps(_compact(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(content.replace("<", "\\u003c"))  # or a name in it could close the element


def check_can_write(path: Path) -> None:
    """Refuse a place for a page before its sweeps are read, which takes long.

    Raises:
        ReportError: it is a folder, or its folder, or the one in which that would be made, cannot be written.
    """
    if path.is_dir():
        raise ReportError(f"{path}: is a folder; name a file in it")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        raise ReportError(f"{path}: cannot be written: {fault.strerror or first_line(fault, None)}") from None


def write_page(path: Path, content: str) -> tuple[Path, int]:
    """Put a page in its place whole; returns the place and the size in bytes.

    The process's number is in the temporary file's name: if it is killed, the next start of the sweep deletes the file.

    Raises:
        ReportError: the file cannot be written.
    """
    data = content.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)  # mkstemp's are for their owner alone
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as fault:
        raise ReportError(f"{path}: cannot be written: {fault.strerror or first_line(fault, None)}") from None
    return path, len(data)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: format_number(value) if isinstance(value, float) else value,
    )
    environment.filters |= {"number": format_number, "json": to_json, "data_url": _data_url, "duration": duration}
    environment.tests["a_number"] = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    environment.tests["finite"] = math.isfinite
    environment.globals |= {"badge": badge, "sign_list": sign_list}
    return environment


def _data_url(text: str) -> str:
    return f"data:text/plain;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _compact(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.5g}") if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _compact(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_compact(value) for value in data]
    return data
