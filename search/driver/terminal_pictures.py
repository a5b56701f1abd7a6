"""Pictures in a terminal, by the protocol of kitty, that of iTerm2, or sixel; which of them a terminal has."""

from __future__ import annotations

import base64
import fcntl
import io
import math
import os
import re
import select
import struct
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from rich.console import Console, ConsoleOptions
from rich.segment import ControlType, Segment

if TYPE_CHECKING:
    from PIL.Image import Image

_ANSWER_WITHIN: Final = 0.5  # seconds; every terminal in use answers, one far away later
_UNKNOWN_CELL: Final = (6, 12)
"""Pixels of a character where the terminal does not say: a small one, so that a picture never needs more lines than it has."""
_LARGEST: Final = (800, 600)  # pixels; xterm draws 1000 × 1000 at most
_CHUNK: Final = 4096  # characters; kitty takes no more at once
_NO_TEXT: Final = [(ControlType.CURSOR_FORWARD, 0)]
"""Marks a segment as one that takes no room, so that Rich passes it on as it is."""


def graphics_protocol(choice: str, console: Console, environment: Mapping[str, str] = os.environ) -> str | None:
    """The protocol in which this terminal is sent pictures, `kitty`, `iterm` or `sixel`; None for no pictures.

    `choice` is one of these, `none`, or `auto`: then the environment names the terminal, or the terminal is asked whether it
    has sixel. What is no terminal gets no pictures, whatever the choice; tmux and screen pass on sixel alone.
    """
    if choice == "none" or console.quiet or console.is_dumb_terminal or not (console.is_terminal and _is_tty(console)):
        return None
    between = "TMUX" in environment or "STY" in environment or environment.get("TERM", "").startswith(("tmux", "screen"))
    if choice == "auto":
        choice = "none" if between else _named(environment)
        return choice if choice != "none" else ("sixel" if _has_sixel() else None)
    return None if between and choice != "sixel" else choice


class TerminalPicture:
    """A picture as Rich prints it: in its own size, or as large as the terminal's width and half its height allow.

    Source: the protocols at https://sw.kovidgoyal.net/kitty/graphics-protocol/ and https://iterm2.com/documentation-images.html
    """

    def __init__(self, content: bytes, protocol: str, cell: tuple[int, int] | None = None) -> None:
        """`content` is that of a PNG file, `cell` the width and height of a character in pixels.

        Raises:
            OSError: the content is no picture.
        """
        from PIL import Image

        self._content, self._protocol, self._cell = content, protocol, cell
        self._image = Image.open(io.BytesIO(content))
        self._image.load()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Make room by empty lines, so that nothing scrolls while the terminal draws, and draw into them."""
        cell = self._cell or cell_size(console)
        room = (options.max_width * cell[0], max(1, console.height // 2) * cell[1])
        image = _shrunk(self._image, room)
        content = self._content if image is self._image else _png(image)
        lines = max(1, image.height // cell[1])
        if self._protocol == "kitty":
            drawing = _kitty(content, lines)
        elif self._protocol == "iterm":
            drawing = _iterm(content, lines)
        else:
            from search.driver import sixel

            drawing, lines = sixel.encode(image), math.ceil(image.height / cell[1])
        for _ in range(lines):
            yield Segment.line()
        yield Segment(f"\x1b7\x1b[{lines}A{drawing}\x1b8", control=_NO_TEXT)


def cell_size(console: Console) -> tuple[int, int]:
    """Width and height of a character in pixels."""
    try:
        size = fcntl.ioctl(console.file.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN_CELL
    lines, columns, width, height = struct.unpack("HHHH", size)
    return (width // columns, height // lines) if lines and columns and width >= columns and height >= lines else _UNKNOWN_CELL


def _is_tty(console: Console) -> bool:
    """True if what is written reaches a terminal: Rich is told otherwise by FORCE_COLOR."""
    try:
        return os.isatty(console.file.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _named(environment: Mapping[str, str]) -> str:
    """The protocol of the terminal that the environment names; `none` where it names none that we know."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or "WEZTERM_PANE" in environment:
        return "iterm"
    return "iterm" if environment.get("LC_TERMINAL") == "iTerm2" else "none"  # a variable that ssh hands on


def _has_sixel() -> bool:
    """Ask the terminal for its attributes (DA1); 4 among them is sixel. False without an answer in time.

    A process in the background does not ask: the kernel would stop it.
    """
    try:
        terminal = os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return False
        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal, termios.TCSANOW)  # else the answer is shown, and comes with the next line
        try:
            os.write(terminal, b"\x1b[c")
            return "4" in _attributes(terminal)
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    except (OSError, termios.error):
        return False
    finally:
        os.close(terminal)


def _attributes(terminal: int) -> list[str]:
    """The numbers in the answer to a question for attributes; none if it does not come."""
    answer, until = b"", time.monotonic() + _ANSWER_WITHIN
    while (left := until - time.monotonic()) > 0 and select.select([terminal], [], [], left)[0]:
        answer += os.read(terminal, 1024)
        if match := re.search(rb"\x1b\[\?([0-9;]*)c", answer):
            return match[1].decode().split(";")
    return []


def _shrunk(image: Image, room: tuple[int, int]) -> Image:
    """The image itself, or a smaller one that fits into `room`, pixels in width and height."""
    share = min(room[0] / image.width, room[1] / image.height, _LARGEST[0] / image.width, _LARGEST[1] / image.height)
    if share >= 1:
        return image
    return image.resize((max(1, int(image.width * share)), max(1, int(image.height * share))))


def _png(image: Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _kitty(content: bytes, lines: int) -> str:
    """Show a PNG (f=100) on so many lines (r), leave the cursor (C=1), and do not answer (q=2)."""
    text = base64.b64encode(content).decode()
    chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    first = f"a=T,f=100,r={lines},C=1,q=2,"
    return "".join(
        f"\x1b_G{first if not number else ''}m={int(number < len(chunks) - 1)};{chunk}\x1b\\"
        for number, chunk in enumerate(chunks)
    )


def _iterm(content: bytes, lines: int) -> str:
    """Show a PNG on so many lines."""
    text = base64.b64encode(content).decode()
    return f"\x1b]1337;File=inline=1;size={len(content)};height={lines};preserveAspectRatio=1:{text}\a"
