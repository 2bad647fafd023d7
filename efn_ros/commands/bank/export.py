# SPDX-License-Identifier: MIT
"""Write rollouts as a LeRobotDataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import add_filters, progress, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="directory of a LeRobotDataset, version 3.0")
    add_filters(parser)
    parser.add_argument("--fps", type=float, default=0.0, help="frames a second; default: from the time stamps")


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.convert.lerobot import export

    rollouts = select(BankReader(args.bank).snapshot().rollouts, args.where)
    frames = export(rollouts, args.dataset, fps=args.fps, progress=progress("episodes"))
    data = {"episodes": len(rollouts), "frames": frames, "dataset": str(args.dataset)}
    return Output(data, f"{len(rollouts)} episodes, {frames} frames: {args.dataset}")
