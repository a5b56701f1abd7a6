"""A decoder of sixel, as far as the tests need it."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray


def decode(sequence: str) -> NDArray[np.float64]:
    """The picture that a sixel sequence draws, [height, width, 3] in percent; NaN where it draws nothing."""
    columns, lines, body = re.fullmatch(r'\x1bP[\d;]*q"1;1;(\d+);(\d+)(.*)\x1b\\', sequence).groups()  # type: ignore[union-attr]
    picture = np.full((int(lines), int(columns), 3), np.nan)
    palette: dict[int, list[int]] = {}
    row, column, colour = 0, 0, 0
    for register, count, sixel, control in re.findall(r"#([\d;]+)|!(\d+)([?-~])|([$\-?-~])", body):
        if register:
            colour, *channels = map(int, register.split(";"))
            if channels:
                assert channels[0] == 2 and len(channels) == 4, "red, green and blue"
                palette[colour] = channels[1:]
        elif control == "$":
            column = 0
        elif control == "-":
            row, column = row + 6, 0
        else:
            until = column + int(count or 1)
            for bit in range(6):
                if (ord(sixel or control) - 63) >> bit & 1:
                    picture[row + bit, column:until] = palette[colour]
            column = until
    return picture
