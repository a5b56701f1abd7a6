"""Every fault of a value, a flag or a file: exit code 2, a clear line for each fault, nothing written.

The cases are made, not listed: every key of a sweep and every flag of every command meets values of every wrong kind, and every
file that is read is damaged in every way. A mutation that happens to be valid ends where training would begin.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import re
import shutil
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest
import yaml

from dashboards import report
from gbc.__main__ import main as gbc
from gbc.__main__ import parser as gbc_parser
from gbc.command_line import guarded
from gbc.config import TrialConfig
from gbc.plain_yaml import BYTES, parse
from gbc.settings import Config
from search import export, run, ui
from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support.exports import trained

BOMB: Final = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
VALUES: Final = (
    "", "[]", "{}", "x", "-1", "[1, 2]", "{a: 1}", "'1'", "1e400", ".nan", "true", "[[[1]]]", "0", "2024-02-30", "!!int foo",
    "!!float foo", "!!timestamp x", "!!python/name:os.system ''", "*nowhere", "&a [*a]", "[" * 3000, "9" * 5000, "7" * 20,
    "0x" + "f" * 400, r'"\0"', r'"\ud800"', "<b>x</b>", "../../x", "y" * 5000, "1e-320", "cuda:99", "[", "{a: 1, a: 2}", "!x 1",
    "a: b: c", "5000000000000", "null", "[0, 999]", "{log10: [0, 5000]}", "{choice: [1, 1]}", "- x", "@x",
)  # fmt: skip
WORDS: Final = (
    "", " ", "x", "-1", "1e400", "nan", "9" * 5000, "\udcff", "y" * 5000, "[", "{a: 1}", "../../x", "0",
    "1e-320", "a=b", "lr=!!int foo", "lr=[", "lr=&a [*a]", "=", "lr", "lr.x=1", "trial=1", "9223372036854775808", "x:min,y",
)  # fmt: skip
CONTENTS: Final = {
    "empty": b"", "a list": b"[]", "null": b"null", "a word": b"x", "not text": b"\xff\xfe\x00", "unfinished": b'{"a": [',
    "bomb": BOMB.encode(), "deep": b"[" * 100_000, "twice": b"a: 1\na: 2\n", "large": b"# x\n" * (BYTES // 3),
    "object": b"{}", "nul": b"a: \x00", "tag": b"!!python/object:os.system {}", "two": b"--- a\n--- b", "number": b"9" * 5000,
}  # fmt: skip


SWEEP_TEXT: Final = yaml.safe_dump(tiny_sweep())
TRIAL_TEXT: Final = yaml.safe_dump(TINY)
made_once: Final = functools.cache(gbc_parser)


class Reached(Exception):
    """The input was taken: from here on it would be work."""


def reach(*_: object, **__: object) -> NoReturn:
    raise Reached


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("gbc.__main__.parser", made_once)
    (tmp_path / "tiny.yaml").write_text(SWEEP_TEXT)
    (tmp_path / "trial.yaml").write_text(TRIAL_TEXT)
    for name in (
        "gbc.training.tasks.obtain", "gbc.classifiers.pretrain.obtain", "gbc.studies.circle.run", "gbc.studies.runs.complete",
        "gbc.studies.stationarity_figure.run", "gbc.studies.lambda_figure.run", "search.driver.sweep.run_sweep",
        "gbc.export.synthetic_sets.write_arrays", "gbc.export.remeasure.remeasure", "gbc.studies.audit.audit_classifier",
        "gbc.metrics.features.obtain",
    ):  # fmt: skip
        monkeypatch.setattr(name, reach)


def verdict(main: Callable[[list[str]], int], arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """The fault in how a command takes its input; None where it is refused as it should be, or accepted."""
    before, shown = sorted(Path.cwd().rglob("*")), " ".join(argument[:40] for argument in arguments)
    try:
        code = main(list(arguments))
    except SystemExit as fault:
        code = int(fault.code or 0)
    except Reached:
        code = 0
    except BaseException as fault:
        return f"{shown}: {type(fault).__name__}: {str(fault)[:200]}"
    error = capsys.readouterr().err
    if code == 0:
        return None
    lines = error.splitlines()
    if code != 2 or not lines or not all(line.startswith("error: ") and len(line) < 600 for line in lines) or len(lines) > 11:
        return f"{shown}: exit code {code}, stderr {error[:300]!r}"
    written = [str(path) for path in sorted(Path.cwd().rglob("*")) if path not in before]
    return f"{shown}: wrote {written}" if written else None


def keys(model: type[Config], prefix: str = "") -> Iterator[str]:
    """Every setting of a model, with a dot before parts."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Config):
                yield from keys(part, f"{prefix}{name}.")


KEYS: Final = [
    *keys(SweepConfig), "space.lr", "space.lr.log10", "space.batch_size.choice", "space.lr.points", "unknown",
    "space.lr.when", "space.lr.when.batch_size", "space.classifier/name", "space.classifier/name.choice",
    "space.classifier/hidden",
]  # fmt: skip


@pytest.mark.parametrize(("number", "key"), enumerate(KEYS), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_of_a_sweep(number: int, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six values each, of all kinds in turn, on a line that YAML has nothing else on."""
    wrong = []
    rest = yaml.safe_dump({name: content for name, content in tiny_sweep().items() if name != key.partition(".")[0]})
    for value in (*VALUES[:3], *(VALUES[(3 + 5 * number + step) % len(VALUES)] for step in range(5))):
        *parents, last = (part.replace("/", ".") for part in key.split("."))  # a slash: the key itself has a dot
        lines = ["  " * depth + f"{parent}:" for depth, parent in enumerate(parents)]
        text = "\n".join([*lines, "  " * len(parents) + f"{last}: {value}"])
        (tmp_path / "tiny.yaml").write_text(rest + text + "\n", errors="surrogateescape")
        if fault := verdict(run.main, ["--config", "tiny.yaml", "--dry-run"], capsys):
            wrong.append(fault + f" <- {key}: {value[:40]}")
    assert not wrong, "\n".join(wrong)


def flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Every flag of a command but --help."""
    return [action for action in parser._actions if action.option_strings and action.dest != "help"]


def commands() -> dict[str, tuple[Callable[[list[str]], int], list[str], argparse.ArgumentParser]]:
    """Each command: its function, words that make it whole, and its parser."""
    parsers = next(action.choices for action in gbc_parser()._actions if isinstance(action.choices, dict))
    parsers["data"] = next(action for action in parsers["data"]._actions if isinstance(action.choices, dict)).choices["build"]
    small = ["--config", "trial.yaml"]
    arguments = {
        "pretrain": small, "audit": small, "homogeneity": [*small, "--out", "new"], "train": [*small, "--out", "new"],
        "sample": ["--model", "model", "--out", "new.npz"], "evaluate": ["--model", "model"], "distil": ["--model", "model"],
        "leak": ["--model", "model"],
        "baseline": ["activation", "--out", "new"], "circle": ["--out", "new"], "stationarity": ["--out", "new"],
        "results": ["comparison.yaml", "--out", "new.md"], "data": ["build", "--data-root", "none", "--out", "new"],
    }  # fmt: skip
    gbc_commands = {name: (gbc, [name, *arguments[name]], parser) for name, parser in parsers.items()}
    return gbc_commands | {
        "run": (run.main, ["--config", "tiny.yaml", "--dry-run"], run.parser()),
        "export": (export.main, ["--sweep", "none", "--out", "new"], export.parser()),
        "ui": (ui.main, [], ui.parser()),
        "report": (report.main, ["--sweep", "tiny"], report.parser()),
    }


COMMANDS: Final = commands()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Path:
    return trained(classifier_cache, tmp_path_factory.mktemp("exported") / "model").folder


COMPARISON: Final = {"title": "x", "seeds": [0], "trial": TINY, "rows": {"one": {"about": "x"}}}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_every_command(command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments, parser = COMMANDS[command]
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "comparison.yaml").write_text(yaml.safe_dump(COMPARISON))
    wrong = []
    for number, action in enumerate(flags(parser)):
        flag, takes = action.option_strings[0], action.nargs != 0
        if command == "run" and flag in ("--list", "--json", "--repair", "--dry-run"):
            takes = False
        values = [*WORDS[:2], *(WORDS[(2 + 7 * number + step) % len(WORDS)] for step in range(7))] if takes else ["", "x"]
        for value in values:
            if fault := verdict(main, [*arguments, f"{flag}={value}"], capsys):
                wrong.append(fault)
    for more in (["--unknown"], ["--unknown=1"], ["\udcff"], ["--ou", "x"], [""]):
        if fault := verdict(main, [*arguments, *more], capsys):
            wrong.append(fault)
    assert not wrong, "\n".join(wrong)


def damaged(path: Path) -> Iterator[str]:
    """Put each kind of damage at `path`, and say which it is."""
    for kind, content in CONTENTS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield kind
    path.unlink()
    path.mkdir()
    yield "a folder"
    path.rmdir()


FILES: Final[dict[str, tuple[Callable[[list[str]], int], str]]] = {
    "tiny.yaml": (run.main, "--config tiny.yaml --dry-run"),
    "mlruns/sweeps/tiny/sweep.yaml": (run.main, "--config tiny.yaml --dry-run"),
    "mlruns/sweeps/tiny/warm_start.json": (run.main, "--config tiny.yaml --warm-start other --dry-run"),
    "trial.yaml": (gbc, "train --config trial.yaml --out new"),
    "comparison.yaml": (gbc, "results comparison.yaml --out new.md"),
    "new/comparison/one/0.json": (gbc, "results comparison.yaml --out new.md"),
    "new/comparison/controls.json": (gbc, "results comparison.yaml --out new.md --page-only"),
    "net.safetensors": (run.main, "--config tiny.yaml --weights net.safetensors --dry-run"),
    "net.pt": (run.main, "--config tiny.yaml --weights net.pt --dry-run"),
    "net.yaml": (run.main, "--config tiny.yaml --weights net.safetensors --dry-run"),
    "mlruns/sweeps/other/sweep.yaml": (report.main, "--sweep other"),
    "mlruns/sweeps/other/study.db": (report.main, "--sweep other"),
    "model/config.json": (gbc, "sample --model model --out new.npz"),
    "model/generator.safetensors": (gbc, "evaluate --model model"),
    "set.npz": (gbc, "distil --samples set.npz --config trial.yaml"),
}
CARD: Final = {"class_names": list("0123456789"), "shape": [1, 28, 28], "samples": 100}


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_read(name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments = FILES[name]
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "comparison.yaml").write_text(yaml.safe_dump(COMPARISON))
    (tmp_path / "net.safetensors").write_bytes((model / "generator.safetensors").read_bytes())
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(CARD))
    (tmp_path / name).unlink(missing_ok=True)
    wrong = [fault + f" <- {kind}" for kind in damaged(tmp_path / name) if (fault := verdict(main, arguments.split(), capsys))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("key", [key for key in keys(TrialConfig) if not key.startswith("experts.")])
def test_every_setting_by_flag(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = len(key)
    values = [VALUES[(number + 11 * step) % len(VALUES)] for step in range(3)]
    argument_lists = [["train", "--config", "trial.yaml", "--out", "new", "--set", f"{key}={value}"] for value in values]
    assert not [fault for arguments in argument_lists if (fault := verdict(gbc, arguments, capsys))]


def test_a_set_that_the_disk_cannot_hold_is_refused_at_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("set.npz", "set/"):
        assert gbc(["sample", "--model", str(model), "--out", out, "--count", "1e15"]) == 2
        assert "--count 1000000000000000: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gbc(["sample", "--model", str(model), "--out", "set.npz", "--seed", str(2**63)])
    assert re.search(r"--seed: .*2\^63", capsys.readouterr().err)
    assert gbc(["sample", "--model", str(model), "--out", "set.npz", "--label", str(2**63)]) == 2
    assert str(2**63) in capsys.readouterr().err


def test_a_character_that_cannot_be_encoded_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert guarded(lambda: print("λ", flush=True) or 0) == 0  # type: ignore[func-returns-value]
    assert stream.buffer.getvalue() == b"?\n"  # type: ignore[attr-defined]


def test_a_signal_ends_the_reading() -> None:
    def read() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return len(str(parse("a: [" + "1, " * 5000, "x")))

    assert guarded(read) == 130


def test_the_table_is_large_and_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    settings = sum(not key.startswith("experts.") for key in keys(TrialConfig))
    assert (
        8 * len(KEYS)
        + 3 * settings
        + len(FILES) * (len(CONTENTS) + 1)
        + sum(len(flags(parser)) for _, _, parser in COMMANDS.values())
        > 500
    )

    def raises(_: list[str]) -> int:
        raise RecursionError("deep")

    def writes(_: list[str]) -> int:
        Path("left").write_text("")
        print("error: x", file=sys.stderr)
        return 2

    assert "RecursionError: deep" in (verdict(raises, [], capsys) or "")
    assert "exit code 1" in (verdict(lambda _: 1, [], capsys) or "")
    assert "exit code 2" in (verdict(lambda _: 2, [], capsys) or "")  # it said nothing
    assert "wrote" in (verdict(writes, [], capsys) or "")
