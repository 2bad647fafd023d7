# SPDX-License-Identifier: MIT
"""Check this machine, the installation and a running graph, and name the remedy for what is amiss."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from efn_ros.commands._checks import host, software
from efn_ros.commands._checks.finding import Check, Finding, Status, run_check

DEFAULT_BANK = Path("~/.ros/efn_bank").expanduser()
LISTEN_S = 3.0
COLORS = {Status.OK: 32, Status.WARN: 33, Status.FAIL: 31}  # of a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, for a script")
    parser.add_argument("--bank", type=Path, default=DEFAULT_BANK, help="bank whose disk is checked")
    parser.add_argument("--namespace", default="efn", help="of the running graph")
    parser.add_argument("--graph", default="", help="name of the graph that should run there, such as agibot_g1")
    parser.add_argument(
        "--seconds", type=float, default=LISTEN_S, help="how long to listen to it (default %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        1 if a check failed, else 0.
    """
    findings = []
    for finding in examine(args):
        findings.append(finding)
        if not args.json:
            _print(finding)
    counts = {status: sum(finding.status == status for finding in findings) for status in Status}
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print("\n" + ", ".join(f"{count} {status.value}" for status, count in counts.items()))
    return 1 if counts[Status.FAIL] else 0


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Yield the findings of all checks, as they are made."""
    checks: dict[str, Check] = {
        "Python": software.check_python,
        "ROS 2": software.check_ros,
        "discovery": software.check_discovery,
        "versions": software.check_versions,
        "shared memory": host.check_shared_memory,
        "GPU": host.check_gpu,
        "renderer": host.check_renderer,
        "disk": partial(host.check_bank_disk, args.bank.expanduser()),
        "clock": host.check_clock,
        "real time": host.check_real_time,
        "LIBERO": host.check_libero,
        "graph": partial(_check_graph, args),
    }
    for name, check in checks.items():
        yield from run_check(name, check)


def _check_graph(args: argparse.Namespace) -> Iterator[Finding]:
    from efn_ros.commands._checks.graph import check_graph
    from efn_ros.ros import discovery

    discovery.configure()
    yield from check_graph(args.namespace, args.graph, args.seconds)


def _print(finding: Finding) -> None:
    status = f"{finding.status.value:<5}"
    if sys.stdout.isatty():
        status = f"\x1b[{COLORS[finding.status]}m{status}\x1b[0m"
    print(f"{status} {finding.name:<15} {finding.text}", flush=True)
    if finding.remedy:
        print(f"{'':<21} -> {finding.remedy}", flush=True)
