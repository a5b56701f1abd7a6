"""Parts that all commands share: a strict parser of flags, and one line on stderr for each thing that cannot be used.

Nothing heavy is imported before a fault has to be explained.
"""

from __future__ import annotations

import argparse
import difflib
import io
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from gbc.errors import BadInput

_LARGEST: Final = 2**63 - 1
_LONG: Final = re.compile(r"\S{300,}")


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and no empty values, and explains a fault in one line."""

    def __init__(self, *, clean: Callable[[str], str] = str, **options: Any) -> None:
        """`clean` takes what must not be shown out of a message; the other options are the base's."""
        super().__init__(**{"allow_abbrev": False, **options})
        self._clean = clean

    def parse_args(self, arguments: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as the base class does; exit with code 2 if an argument cannot be used."""
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        for before, argument in zip(["", *arguments], arguments, strict=False):
            if not argument.strip() or re.fullmatch(r"--[\w-]+=\s*", argument):
                flag = argument.partition("=")[0] or before
                self.error(f"{flag}: the value is empty (a shell variable that is not set?)")
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            self.error(self._hint(unknown[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        """One line on stderr, and exit code 2."""
        message = message.removeprefix("argument ")
        if message.endswith(": expected one argument"):
            flag = message.partition(":")[0]
            message = f"{flag}: needs a value; one that begins with a dash is written {flag.rpartition('/')[2]}=VALUE"
        self.exit(2, f"error: {_LONG.sub(_cut, self._clean(message))}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"
        raise argparse.ArgumentError(action, f"unknown {value!r}; {remedy}")

    def _hint(self, argument: str) -> str:
        flag = argument.partition("=")[0]
        known, parsers = set[str](), [self]
        for parser in parsers:
            known |= {name for name in parser._option_string_actions if name.startswith("--")}
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    parsers += action.choices.values()
        if not flag.startswith("-"):
            return f"{argument!r} is no flag; see --help"
        if near := difflib.get_close_matches(flag, sorted(known), n=1):
            return f"{flag} is not a flag of this command; did you mean {near[0]}?"
        from gbc.config import TrialConfig

        key = flag.lstrip("-").replace("-", "_")
        if "--set" in known and key in TrialConfig.model_fields:
            return f"{flag} is not a flag; write --set {key}=VALUE"
        return f"{flag} is not a flag of this command; see --help"


def whole(text: str) -> int:
    """A whole number below 2^63, also one written as 1e3."""
    try:
        number = int(text) if len(text) <= 20 else float(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
    if not abs(number) <= _LARGEST or number != int(number):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number below 2^63")
    return int(number)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


def seed(text: str) -> int:
    """A seed: from 0 to 2^63 − 1."""
    number = whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number}: a seed is at least 0")
    return number


def real(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number")
    return number


@contextmanager
def progress(label: str, count: int, *, shown_from: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work on stderr, as a bar on a terminal and as ten lines elsewhere.

    `label` names the `count` pieces of work; fewer than `shown_from` are not worth a line. Yields a function
    to call with the number of those that were just done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, done = Console(stderr=True), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=count < shown_from or not console.is_terminal) as bar:
        task = bar.add_task(label, total=count)

        def advance(number: int) -> None:
            nonlocal done
            tenths, done = 10 * done // count, done + number
            bar.update(task, completed=done)
            if count >= shown_from and not console.is_terminal and 10 * done // count > tenths:
                print(f"{label} {done}/{count}", file=sys.stderr)

        yield advance


def check_can_write(out: Path, flag: str = "--out") -> None:
    """Refuse an `out`, the value of a flag, that nothing can be written to, before hours are spent. Nothing is left.

    Raises:
        BadInput: its folder, or the one in which that would be made, cannot be written.
    """
    folder = out.absolute() if out.is_dir() else out.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        raise BadInput(f"{flag} {out}: {folder}: cannot be written: {fault.strerror}") from None


def guarded(run: Callable[[], int], clean: Callable[[str], str] = str) -> int:
    """The exit code of a command: 2 with a line on stderr for each fault in its input, 130 when it is interrupted.

    `clean` takes what must not be shown out of a message. A character that a stream cannot encode is replaced.
    SIGTERM interrupts as Ctrl-C does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run()
    except BadInput as fault:
        for line in clean(str(fault)).splitlines():
            print(f"error: {_LONG.sub(_cut, line)}", file=sys.stderr)
        return 2
    except OSError as fault:
        if not fault.filename:
            raise
        print(f"error: {clean(_shown(str(fault.filename)))}: {fault.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def _cut(match: re.Match[str]) -> str:
    return f"{match[0][:150]}…{match[0][-50:]}"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:50]}…")
