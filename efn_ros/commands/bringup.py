# SPDX-License-Identifier: MIT
"""Start a graph: every node in a process of its own, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from efn_ros.ros.bringup import Bringup
from efn_ros.runtime.graph import Graph, dry_run, graphs

WATCH_S = 0.2


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select a graph and its parameters."""
    names = ", ".join(graphs())
    parser.add_argument("graph", help=f"one of {names}, or the path of a document like those in config/graphs")
    parser.add_argument("--params-file", type=Path, action="append", default=[], help="laid over the graph's own")
    parser.add_argument("--dry-run", action="store_true", help="replace the real robot by a simulated one")
    parser.add_argument("--namespace", default="efn", help="of every node and topic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_graph_arguments(parser)
    parser.add_argument("--bank", help="directory of the experience bank; default: that of the graph")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warn", "error", "fatal"))
    parser.add_argument("--use-sim-time", action="store_true", help="take time from /clock")
    parser.add_argument("--no-autostart", action="store_true", help="leave the lifecycle to a manager")
    parser.add_argument("--on-exit", choices=("restart", "stop"), help="reaction to a node that dies")


def graph_name(args: argparse.Namespace) -> str:
    """Return the graph that the arguments select."""
    return dry_run(args.graph) if args.dry_run else args.graph


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    settings = {"autostart": not args.no_autostart, "use_sim_time": args.use_sim_time}
    settings |= {"bank": args.bank} if args.bank else {}
    try:
        graph = Graph.load(graph_name(args), args.params_file, **settings)
    except (FileNotFoundError, ValueError) as error:
        print(f"efn bringup: {error}", file=sys.stderr)
        return 2
    if args.on_exit:
        graph = replace(graph, on_exit=args.on_exit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Bringup(graph, namespace=args.namespace, log_level=args.log_level) as bringup:
        try:
            while True:
                bringup.watch()
                time.sleep(WATCH_S)
        except KeyboardInterrupt:
            return 0
        except RuntimeError as error:
            print(error)
            return 1
