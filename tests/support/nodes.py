"""A Ray cluster of several nodes on this machine, in a process of its own that a test talks to.

As a program: a line `add`, `kill` or `end` on standard input does so, and is answered on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class Nodes:
    """A head, which the driver joins, and the nodes beside it, of one CPU each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()

    def ask(self, command: str) -> str:
        """`add` a node, or `kill` the one that was added last, as a power cut would."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster ended"
        return line


@contextmanager
def cluster() -> Iterator[Nodes]:
    """A head and one more node, until the end of the context. Both ask for the token that is in the environment, if any."""
    command = [sys.executable, __file__]
    # Apart from other Rays on this machine, and by a short name: there is a limit to the names of sockets.
    with (
        tempfile.TemporaryDirectory(prefix="gbc-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            command,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            env={**os.environ, "RAY_TMPDIR": folder, "RAY_prestart_worker_first_driver": "0"},
        ) as process,
    ):  # fmt: skip
        nodes = Nodes(process)
        try:
            yield nodes
        finally:
            if process.poll() is None:
                nodes.ask("end")
            process.wait(60)


def main() -> None:
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster_of_nodes = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    added = [cluster_of_nodes.add_node(**size)]
    print(cluster_of_nodes.address, flush=True)
    for line in sys.stdin:
        match line.strip():
            case "kill":
                cluster_of_nodes.remove_node(added.pop(), allow_graceful=False)
            case "add":
                added.append(cluster_of_nodes.add_node(**size))
            case "end":
                break
        print("done", flush=True)
    cluster_of_nodes.shutdown()
    print("done", flush=True)


if __name__ == "__main__":
    main()
