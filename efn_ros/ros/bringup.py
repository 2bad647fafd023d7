# SPDX-License-Identifier: MIT
"""Bring-up of a graph on a machine without `ros2 launch`: one process for each node, watched and ended together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

from efn_ros.runtime.experiments import node_module
from efn_ros.runtime.graph import RESTART, Graph, NodeSpec, enclave_arguments

END_S = 3.0  # from SIGINT to SIGKILL
RESTART_DELAY_S = 1.0
EARLY_S, EARLY_DEATHS = 5.0, 3  # a node that dies so early so many times in a row is not restarted
PR_SET_PDEATHSIG = 1


class Bringup:
    """Processes of a graph; a context manager in which they run. `watch` is to be called regularly."""

    def __init__(
        self, graph: Graph, *, namespace: str = "efn", log_level: str = "info", output: Path | None = None
    ) -> None:
        """Prepare the processes.

        Args:
            graph: The graph.
            namespace: Of every node and topic.
            log_level: Of the nodes.
            output: Directory for the output of the nodes, one file each; None: the terminal.
        """
        self._graph, self._namespace, self._log_level, self._output = graph, namespace, log_level, output
        self._parameters = tempfile.TemporaryDirectory(prefix="efn_")
        self._running: dict[str, tuple[subprocess.Popen, float]] = {}  # node -> process, and when it started
        self._restart_at: dict[str, float] = {}  # node that died -> when it is restarted
        self._early: Counter[str] = Counter()  # node -> early deaths in a row

    def __enter__(self) -> Bringup:
        for node in self._graph.nodes:
            self._start(node)
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def process(self, node: str) -> subprocess.Popen:
        """Return the process of a node."""
        return self._running[node][0]

    def watch(self) -> None:
        """Restart nodes that died.

        Raises:
            RuntimeError: A node died and the graph is to stop, or the node died early too often.
        """
        now = time.monotonic()
        for node in self._graph.nodes:
            name = node.name
            if name in self._restart_at:
                if now >= self._restart_at[name]:
                    del self._restart_at[name]
                    self._start(node)
                continue
            process, started = self._running[name]
            if process.poll() is None:
                continue
            self._early[name] = self._early[name] + 1 if now - started < EARLY_S else 0
            if self._graph.on_exit != RESTART or self._early[name] >= EARLY_DEATHS:
                raise RuntimeError(f"{name} died with exit code {process.returncode}; the graph stops")
            print(f"{name} died with exit code {process.returncode}; it is restarted", file=sys.stderr, flush=True)
            self._restart_at[name] = now + RESTART_DELAY_S

    def end(self) -> None:
        """Send SIGINT to all processes, then SIGKILL to those that still run after END_S."""
        processes = [process for process, _ in self._running.values()]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + END_S
        for process in processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        self._parameters.cleanup()

    def _start(self, node: NodeSpec) -> None:
        file = Path(self._parameters.name) / f"{node.name}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": node.parameters}}))
        names = [("__ns", f"/{self._namespace.strip('/')}"), ("__node", node.name), *node.remappings]
        command = [sys.executable, "-c", f"from {node_module(node.executable)} import main; main()", "--ros-args"]
        command += ["--params-file", str(file), "--log-level", f"{node.name}:={self._log_level}"]
        command += enclave_arguments(self._namespace, node.name)
        command += [word for source, target in names for word in ("-r", f"{source}:={target}")]
        output = None
        if self._output is not None:
            self._output.mkdir(parents=True, exist_ok=True)
            output = (self._output / f"{node.name}.log").open("ab")
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=_end_with(os.getpid()))
        if output:
            output.close()
        self._running[node.name] = (process, time.monotonic())


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function for the new process, so that it ends with its parent and gets no Ctrl-C from the terminal."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
