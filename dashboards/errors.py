"""What can go wrong while a report is made, in one line each."""

from __future__ import annotations

import re
from typing import Final

_LOGIN: Final = re.compile(r"://[^/\s@]*@")
_LONGEST: Final = 300


class BadInput(Exception):
    """Something cannot be shown. The command prints the message alone and exits with code 2."""


def public(text: str) -> str:
    """Without user names and passwords of URLs."""
    return _LOGIN.sub("://", text)


def reason(fault: BaseException) -> str:
    """The first line of what another library says, without passwords."""
    lines = str(fault).strip().splitlines()
    return public(lines[0] if lines else type(fault).__name__)[:_LONGEST]
