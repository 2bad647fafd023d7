"""write rollouts as a LeRobotDataset"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efn_ros.commands.bank._common import add_filters, progress, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="directory of a LeRobotDataset, version 3.0")
    add_filters(parser)
    parser.add_argument("--fps", type=float, default=0.0, help="frames a second; default: what the stamps give")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.convert.lerobot import export

    rollouts = select(BankReader(args.bank).snapshot().rollouts, args.where)
    frames = export(rollouts, args.dataset, fps=args.fps, progress=progress("episodes"))
    result = {"episodes": len(rollouts), "frames": frames, "dataset": str(args.dataset)}
    print(json.dumps(result) if args.json else f"{len(rollouts)} episodes, {frames} frames: {args.dataset}")
    return 0
