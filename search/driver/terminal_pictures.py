"""Pictures in a terminal, by the protocol of kitty, that of iTerm2, or sixel."""

from __future__ import annotations

import base64
import fcntl
import io
import math
import struct
import termios
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console, ConsoleOptions
from rich.segment import ControlType, Segment

if TYPE_CHECKING:
    from PIL.Image import Image

_UNKNOWN_CELL: Final = (6, 12)
"""Pixels of a character where the terminal does not say: a small one, so that a picture never needs more lines than it has."""
_LARGEST: Final = (800, 600)  # pixels; xterm draws 1000 × 1000 at most
_CHUNK: Final = 4096  # characters; kitty takes no more at once
_NO_TEXT: Final = [(ControlType.CURSOR_FORWARD, 0)]
"""Marks a segment as one that takes no room, so that Rich passes it on as it is."""


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
