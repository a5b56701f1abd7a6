"""Faults for sweeps that run: each is done to real processes and files, none is simulated in the program under test."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from unittest.mock import patch

import psutil

from search.driver.retention import read_history
from tests.support.drivers import Driver, start_server
from tests.support.machine import JumpingClock, ray_sessions, set_clock
from tests.support.stores import lay_down_earlier_sweep
from tests.support.workplace import Workplace

PATIENCE: Final = 300.0
"""Seconds until something that must happen has happened, on a machine that has other things to do."""

# A factory of the user's own. In workers, every pass through the network looks for an order, and takes time, so that there
# is a middle of a trial to disturb.
NETWORK: Final = """
import os, sys, time
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent

def disturb(_, inputs):
    # A pass with few images is a look at the network before training: what fails there fails for good, and rightly.
    if "worker" not in os.path.basename(sys.argv[0]) or len(inputs[0]) < 8:
        return
    time.sleep(0.02)
    for order in ("raise", "exit", "hang"):
        try:
            os.rename(HERE / order, HERE / f"{order}.taken")
        except FileNotFoundError:
            continue
        if order == "raise":
            raise RuntimeError("on purpose")
        if order == "exit":
            os._exit(3)
        time.sleep(3600)

def net():
    found = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    found.register_forward_pre_hook(disturb)
    return found
"""


class Run:
    """A driver, and what it has said so far."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        start_server()  # with the true clock
        with patch.dict(os.environ, environment):
            self.process = Driver("run", [*command, "--no-report"], folder, set_clock, fresh_workers=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def reports(self) -> int:
        return sum("  step " in line for line in list(self.lines))

    def until(self, happened: Callable[[], bool], awaited: str) -> bool:
        """Wait for something; False when the driver ended first."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < deadline, f"{awaited}: never happened\n{self.output}"
            time.sleep(0.02)
        return True

    def more_reports(self, count: int) -> bool:
        wanted = self.reports + count
        return self.until(lambda: self.reports >= wanted, f"{count} more reports")

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


class Chaos:
    """One sweep, its faults, and what is needed to do them."""

    def __init__(self, workplace: Workplace, name: str, command: list[str], rng: random.Random) -> None:
        """Keep what is needed; the folder of `workplace` is on a small disk of its own where that can be had (`small_disk`)."""
        self.workplace, self.name, self.command, self.rng = workplace, name, command, rng
        self.clock = JumpingClock(workplace.folder.parent)
        self.runs: list[Run] = []
        self.sessions = ray_sessions()
        (workplace.folder / "chaotic.py").write_text(NETWORK)

    @property
    def run(self) -> Run:
        return self.runs[-1]

    @property
    def sweep(self) -> Path:
        return self.workplace.folder / "mlruns" / "sweeps" / self.name

    def start(self, *more: str) -> Run:
        self.runs.append(Run([*self.command, *more], self.workplace.folder, self.clock.environment))
        return self.run

    def do(self, fault: str) -> None:
        """Do it, and wait until it has had its effect. The driver may be running afterwards or not."""
        getattr(self, "_" + fault.replace(" ", "_").replace("-", "_"))()

    # The driver ends: in good order where it can.

    def _sigint(self) -> None:
        self._signal(signal.SIGINT)

    def _sigterm(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        self.run.process.send_signal(number)
        self._expect_130("the same command continues", "continue  python search/run.py")

    def _kill_driver(self) -> None:
        """Alone: Ray's daemons and workers are left, and the next driver starts at once."""
        self.run.process.send_signal(signal.SIGKILL)
        self.run.end()

    def _kill_all(self) -> None:
        self.workplace.kill_everything(self.run.process)
        self.run.end()

    def _kill_raylet(self) -> None:
        self._daemon("raylet").kill()
        self._expect_130("stopped: Ray's own processes died")

    def _kill_gcs(self) -> None:
        self._daemon("gcs_server").kill()
        self._expect_130("stopped: Ray's own processes died")

    def _full_disk(self) -> None:
        ballast = self.workplace.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        self._expect_130("stopped: no space left on the disk of ")
        ballast.unlink()

    def _cut_checkpoint(self) -> None:
        self._damage(lambda content: content[: self.rng.randrange(1, len(content))])

    def _flip_checkpoint(self) -> None:
        def flip(content: bytes) -> bytes:
            position = self.rng.randrange(len(content))
            return content[:position] + bytes([content[position] ^ (1 << self.rng.randrange(8))]) + content[position + 1 :]

        self._damage(flip)

    def _damage(self, harm: Callable[[bytes], bytes]) -> None:
        """The last checkpoint of an open trial; the one before is whole, and what a reader then finds."""
        self._kill_all()
        folders = sorted(
            path.parent for path in self.sweep.glob("trials/*/previous.ckpt") if path.with_name("last.ckpt").exists()
        )
        if not folders:  # killed before the second report of any
            return
        folder = self.rng.choice(folders)
        path = folder / "last.ckpt"
        path.write_bytes(harm(path.read_bytes()))
        whole, damaged = read_history(folder)
        assert whole is not None and whole.file == "previous.ckpt" and damaged == [path]

    # Something happens while no driver runs.

    def _two_drivers(self) -> None:
        self._kill_all()
        both = [Run(self.command, self.workplace.folder, self.clock.environment) for _ in range(2)]
        first, second = both
        first.until(lambda: second.process.poll() is not None, "the end of one of two drivers")
        winner, loser = (first, second) if second.process.poll() is not None else (second, first)
        code = loser.end()
        assert code == 0 or (code == 2 and "is being run already" in loser.output), loser.output  # 0: there was nothing left
        self.runs += [loser, winner]

    def _truncate_study(self) -> None:
        self._kill_all()
        path = self.sweep / "study.db"
        with contextlib.closing(sqlite3.connect(path)) as study:
            study.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        whole = path.read_bytes()
        path.write_bytes(whole[: self.rng.randrange(len(whole))])
        damaged = path.read_bytes()
        refused = Run(self.command, self.workplace.folder, self.clock.environment)
        assert refused.end() == 2 and "study.db: damaged" in refused.output and refused.output.count("\n") == 1, refused.output
        assert path.read_bytes() == damaged
        path.write_bytes(whole)

    def _lose_settings(self) -> None:
        self._kill_all()
        (self.sweep / "sweep.yaml").unlink()
        self._start_and_expect("sweep.yaml is gone; it is written again from the study")

    def _lose_mlflow(self) -> None:
        self._kill_all()
        for path in self.workplace.folder.glob("mlflow.db*"):
            path.unlink()
        self._start_and_expect("mlflow.db is gone; it is made again from the study and the files of its trials")

    def _move_folder(self) -> None:
        self._kill_all()
        old = self.workplace.folder
        self.workplace.folder = old.rename(old.with_name(f"{old.name}-moved"))
        self._start_and_expect("the addresses are set right")

    def _earlier_version(self) -> None:
        """Beside the sweep, one that an earlier version began is continued, killed, and continued to its end."""
        folder = self.workplace.folder.parent / f"earlier-{len(self.runs)}"
        folder.mkdir()
        lay_down_earlier_sweep(folder)
        command = ["--config", "mlruns/sweeps/before/sweep.yaml"]
        broken_off = Run(command, folder, self.clock.environment)
        broken_off.more_reports(1)
        self.workplace.kill_everything(broken_off.process)
        last = Run(command, folder, self.clock.environment)
        assert last.end() == 0 and "Traceback" not in last.output, last.output
        code, output = Workplace(folder, dataset="digits").look("--check", "before")
        assert code == 0, output
        shutil.rmtree(folder)

    def _start_and_expect(self, text: str) -> None:
        """Start the same command and wait until it prints `text`."""
        self.start()
        assert self.run.until(lambda: text in self.run.output, text), self.run.output

    def _expect_130(self, *texts: str) -> None:
        code, output = self.run.end(), self.run.output
        assert "Traceback" not in output and "(raylet)" not in output, output
        if code == 0:  # it came to its end before it felt the fault
            return
        assert code == 130 and any(text in output for text in texts), (code, output)

    # A worker ends, and the driver goes on.

    def _kill_worker(self) -> None:
        workers = [child for child in self._family() if "ray::ImplicitFunc" in "".join(child.cmdline())]
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rng.choice(workers).kill()

    def _raise(self) -> None:
        self._order("raise")

    def _exit(self) -> None:
        self._order("exit")

    def _hang(self) -> None:
        before = self._hangs()
        if self._order("hang"):
            self.run.until(lambda: self._hangs() > before, "the end of a worker that hangs")

    def _hangs(self) -> int:
        return sum(text.count("Timeout (") for text in map(_text, self.sweep.glob("trials/*/error.log")))

    def _order(self, order: str) -> bool:
        """Somebody's next pass obeys; False when the sweep came to its end first."""
        taken = self.workplace.folder / f"{order}.taken"
        taken.unlink(missing_ok=True)
        (self.workplace.folder / order).touch()
        done = self.run.until(taken.exists, f"order {order}")
        (self.workplace.folder / order).unlink(missing_ok=True)
        return done

    # Nobody ends.

    def _lock_study(self) -> None:
        self._lock(self.sweep / "study.db")

    def _lock_mlflow(self) -> None:
        self._lock(self.workplace.folder / "mlflow.db")

    def _lock(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(self.rng.uniform(1, 7))  # MLflow's own patience is five seconds
            connection.execute("ROLLBACK")

    def _stop_and_continue(self) -> None:
        """Suspend the driver as Ctrl-Z or a sleeping machine does; its workers go on meanwhile."""
        process = psutil.Process(self.run.process.pid)
        process.suspend()
        time.sleep(self.rng.uniform(5, 60))
        process.resume()

    def _clock_forward(self) -> None:
        self.clock.jump(self.rng.uniform(1, 48) * 3600)

    def _clock_back(self) -> None:
        self.clock.jump(-self.rng.uniform(1, 48) * 3600)
        self._expect_130("stopped: the clock was set back by ")

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.run.process.pid).children(recursive=True))
        return []

    def _daemon(self, name: str) -> psutil.Process:
        (daemon,) = [child for child in self._family() if child.name() == name]
        return daemon


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
