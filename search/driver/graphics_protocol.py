"""The protocol in which a terminal is sent pictures: by its name in the environment, or by its answer to a question."""

from __future__ import annotations

import os
import re
import select
import termios
import time
import tty
from collections.abc import Mapping
from typing import Final

from rich.console import Console

_ANSWER_WITHIN: Final = 0.5  # seconds; every terminal in use answers, one far away later


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
