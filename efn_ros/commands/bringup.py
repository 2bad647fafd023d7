"""start a robot's graph: every node a process, until Ctrl-C"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from efn_ros.ros.bringup import Bringup
from efn_ros.runtime.graph import Graph, dry_run, robots

WATCH_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("robot", choices=robots(), help="which config/<robot>.yaml")
    parser.add_argument("--params-file", type=Path, action="append", default=[], help="laid over the robot's own")
    parser.add_argument("--dry-run", action="store_true", help="a simulated robot in place of the real one")
    parser.add_argument("--bank", help="directory of the experience bank; default: what the robot's file says")
    parser.add_argument("--namespace", default="efn")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warn", "error", "fatal"))
    parser.add_argument("--use-sim-time", action="store_true", help="take time from /clock")
    parser.add_argument("--no-autostart", action="store_true", help="leave the lifecycle to a manager")
    parser.add_argument("--on-exit", choices=("restart", "stop"), help="what follows when a node dies")


def run(args: argparse.Namespace) -> int:
    settings = {"autostart": not args.no_autostart, "use_sim_time": args.use_sim_time}
    settings |= {"bank": args.bank} if args.bank else {}
    overlays = [dry_run(args.robot), *args.params_file] if args.dry_run else args.params_file
    graph = Graph.load(args.robot, overlays, **settings)
    if args.on_exit:
        graph = Graph(graph.robot, graph.nodes, args.on_exit)

    def end(signum, frame) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
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
