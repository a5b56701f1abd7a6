"""Pictures in a terminal: each protocol is decoded again, and the terminals are real pseudo-terminals."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.driver.graphics_protocol import graphics_protocol
from search.driver.terminal_pictures import TerminalPicture
from tests.support import ROOT, missing, sixel
from tests.support.runs import FOLDER, Run

CELL = (10, 20)
AUTO = "xterm-256color"


def png(*shape: int, seed: int = 0) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def written(content: bytes, protocol: str, width: int = 80, height: int = 24) -> str:
    """All that reaches a terminal of so many characters."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    console.print(TerminalPicture(content, protocol, CELL))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def kitty_content(text: str) -> tuple[dict[str, str], bytes]:
    """The keys of the first chunk, and the file that all chunks hold."""
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    keys = [dict(part.split("=") for part in head.split(",")) for head, _ in chunks]
    assert [chunk_keys["m"] for chunk_keys in keys] == ["1"] * (len(keys) - 1) + ["0"] and all(
        len(part) <= 4096 for _, part in chunks
    )
    assert all(chunk_keys.keys() == {"m"} for chunk_keys in keys[1:])
    return keys[0], base64.b64decode("".join(part for _, part in chunks))


def iterm_content(text: str) -> tuple[dict[str, str], bytes]:
    head, content = re.search(r"\x1b\]1337;File=([^:]*):([^\a]*)\a", text).groups()  # type: ignore[union-attr]
    return dict(part.split("=") for part in head.split(";")), base64.b64decode(content)


def test_kitty_gets_the_file_in_chunks() -> None:
    content = png(80, 120, 3)
    keys, sent = kitty_content(written(content, "kitty"))
    assert sent == content and len(content) > 2 * 4096
    assert keys == {"a": "T", "f": "100", "r": "4", "C": "1", "q": "2", "m": "1"}


def test_iterm_gets_the_file() -> None:
    content = png(80, 120, 3)
    keys, sent = iterm_content(written(content, "iterm"))
    assert sent == content
    assert keys == {"inline": "1", "size": str(len(content)), "height": "4", "preserveAspectRatio": "1"}


def percent(image: Image.Image) -> np.ndarray:
    """The colours of a picture, [height, width, 3] in percent."""
    return np.asarray(image.convert("RGB"), dtype=float) * 100 / 255


def drawn(content: bytes) -> np.ndarray:
    """The picture of a PNG file as a terminal with sixel draws it, in percent."""
    return sixel.decode(re.search(r"\x1bP.*?\x1b\\", written(content, "sixel"))[0])  # type: ignore[index]


@pytest.mark.parametrize("shape", [(80, 120), (9, 7), (5, 30, 3), (1, 15, 3)])
def test_sixel_draws_greys_and_few_colours_as_they_are(shape: tuple[int, ...]) -> None:
    content = png(*shape)
    expected = percent(Image.open(io.BytesIO(content)))
    assert drawn(content).shape == expected.shape
    assert np.abs(drawn(content) - expected).max() <= 0.5 + 1e-9  # percent, in whole numbers


def test_sixel_of_many_colours_is_near_the_picture() -> None:
    down, right = np.mgrid[:120, :120] * 2
    picture = np.stack([down, right, np.full_like(down, 128)], axis=-1).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    decoded = drawn(content.getvalue())
    assert len(np.unique(decoded.reshape(-1, 3), axis=0)) <= 255
    assert np.abs(decoded - percent(Image.fromarray(picture))).mean() < 3  # 15 × 15 colours would be off by 1.6 on average


@pytest.mark.parametrize("protocol", ["kitty", "iterm", "sixel"])
def test_the_picture_has_room_of_its_own_and_the_cursor_comes_back(protocol: str) -> None:
    text = written(png(90, 120), protocol)
    lines, up = len(re.match(r"\n*", text)[0]), int(re.search(r"\x1b7\x1b\[(\d+)A", text)[1])  # type: ignore[index]
    assert lines == up == (5 if protocol == "sixel" else 4) and text.endswith("\x1b8") and "\n" not in text[lines:]


def test_a_large_picture_is_made_smaller_in_its_own_shape() -> None:
    content = png(600, 1800)
    _, sent = kitty_content(written(content, "kitty", width=60, height=40))
    assert pixels(sent).shape == (200, 600)  # the width of 60 characters
    _, sent = iterm_content(written(content, "iterm", width=400, height=20))
    assert pixels(sent).shape == (200, 600)  # half the height of 20 lines
    assert pixels(iterm_content(written(content, "iterm", width=400, height=400))[1]).shape == (266, 800)


@pytest.fixture
def terminal() -> Iterator[Console]:
    far, near = pty.openpty()
    with open(near, "w") as file:
        yield Console(file=file, _environ={})
    os.close(far)


@pytest.mark.parametrize(
    ("choice", "environment", "expected"),
    [
        ("auto", {"TERM": "xterm-kitty"}, "kitty"),
        ("auto", {"TERM": AUTO, "KITTY_WINDOW_ID": "1"}, "kitty"),
        ("auto", {"TERM": "xterm-ghostty"}, "kitty"),
        ("auto", {"TERM": AUTO, "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ("auto", {"TERM": AUTO, "LC_TERMINAL": "iTerm2"}, "iterm"),
        ("auto", {"TERM": AUTO, "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ("kitty", {"TERM": AUTO}, "kitty"),
        ("sixel", {"TERM": AUTO}, "sixel"),
        ("none", {"TERM": "xterm-kitty"}, None),
        ("kitty", {"TERM": "tmux-256color"}, None),
        ("iterm", {"TERM": AUTO, "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ("sixel", {"TERM": "tmux-256color", "TMUX": "/tmp/tmux-0/default,1,0"}, "sixel"),
    ],
)  # fmt: skip
def test_the_environment_names_the_terminal(
    terminal: Console, choice: str, environment: dict[str, str], expected: str | None
) -> None:
    assert graphics_protocol(choice, terminal, environment) == expected


def test_what_is_no_terminal_gets_no_pictures(terminal: Console, tmp_path: Path) -> None:
    environment = {"TERM": "xterm-kitty"}
    assert graphics_protocol("kitty", Console(file=io.StringIO(), force_terminal=True), environment) is None
    with open(tmp_path / "log", "w") as file:
        assert graphics_protocol("kitty", Console(file=file, force_terminal=True), environment) is None
    for changes in ({"quiet": True}, {"force_terminal": False}):
        assert graphics_protocol("kitty", Console(file=terminal.file, **changes), environment) is None  # type: ignore[arg-type]
    assert graphics_protocol("kitty", Console(file=terminal.file, _environ={"TERM": "dumb"}), environment) is None


RUN_IN_A_TERMINAL = """
import os, sys
from pathlib import Path
os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session's first terminal is the one that controls it
import termios
from rich.console import Console
from search.driver.progress import ProgressDisplay
from search.driver.graphics_protocol import graphics_protocol
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep

before, console = termios.tcgetattr(0), Console()
protocols = [graphics_protocol("auto", console) for _ in range(2)]
assert termios.tcgetattr(0) == before
with ProgressDisplay(SweepConfig.parse(tiny_sweep(), "test"), console, protocols[1]) as progress:
    progress.started(7, 0)
    progress.reported(7, 12, {"ssim/coverage": 0.25})
    progress.ended(7, "complete", None)
    progress.new_best(7, 0.25, Path(sys.argv[1]))
print(f"protocols {protocols}")
"""


def test_the_live_table_in_a_terminal_that_is_asked_for_sixel(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    path.write_bytes(png(60, 100))
    far, near = pty.openpty()
    fcntl.ioctl(near, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 1600, 800))
    environment = {key: value for key, value in os.environ.items() if key not in ("TMUX", "STY", "KITTY_WINDOW_ID")}
    environment |= {"TERM": AUTO, "TERM_PROGRAM": "", "LC_TERMINAL": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN_IN_A_TERMINAL, str(path)]
    child = subprocess.Popen(command, stdin=near, stdout=near, stderr=near, start_new_session=True, env=environment)
    os.close(near)
    shown, answers = b"", [b"\x1b[?6c", b"\x1b[?62;4;22c"]
    while select.select([far], [], [], 60)[0]:
        try:
            shown += os.read(far, 65536)
        except OSError:  # its other side is closed
            break
        if answers and shown.endswith(b"\x1b[c"):
            os.write(far, answers.pop(0))
    os.close(far)
    text = shown.decode()
    assert child.wait(timeout=30) == 0 and "protocols [None, 'sixel']" in text, text
    assert not missing(["trial 0007", "ssim/coverage 0.250", "samples.png", "1 of 4 trials"], text)
    assert "?6" not in text, "no answer was echoed"
    sixel_text = re.search(r"\x1bP.*?\x1b\\", text)
    assert sixel_text and np.abs(sixel.decode(sixel_text[0]) - percent(Image.open(path))).max() <= 0.5 + 1e-9
    assert "0007" in text[: sixel_text.start()] and "0007" in text[sixel_text.end() :], (
        "the table comes again below the picture"
    )


def test_a_new_best_is_shown_once(run_folder: None) -> None:
    run = Run(trials=4, scheduler={"name": "none"})
    run.play(0.1, 0.3, 0.2)
    run.finish()
    first, second = [line for line in run.screen.getvalue().splitlines() if "samples.png" in line]
    assert not missing(["ssim/coverage 0.100", f"{FOLDER}/trials/0000/samples.png"], first)
    assert not missing(["ssim/coverage 0.300", f"{FOLDER}/trials/0001/samples.png"], second)
    later = Run(trials=4, scheduler={"name": "none"})
    later.recorder.reconcile()
    later.play(0.25)
    later.finish()
    assert "samples.png" not in later.screen.getvalue()


def test_a_trial_that_misses_what_is_required_is_not_the_best(run_folder: None) -> None:
    run = Run(trials=1, scheduler={"name": "none"}, objective={"require": {"kkt/active": 0.5}})
    run.play(0.1)
    run.finish()
    assert "samples.png" not in run.screen.getvalue()
