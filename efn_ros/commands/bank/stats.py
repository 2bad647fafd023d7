"""rollouts, steps, bytes; by task, outcome and exploration; which rollouts corrected most in successes"""

from __future__ import annotations

import argparse
import json

from efn_ros.commands.bank._common import group_name, whole_rollouts

MAX_CREDITED = 10  # rollouts that are shown; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    rollouts = whole_rollouts(args.bank)
    contents = summary.contents([r.record for r in rollouts])
    modes, credited = summary.exploration(rollouts), summary.credited(rollouts)
    if args.json:
        print(json.dumps({"contents": contents, "exploration": modes, "credited": credited}, indent=1))
        return 0
    rows = [[group_name(r), r["rollouts"], r["decisions"], f"{r['bytes'] / 1e6:.1f}"] for r in contents]
    print(tables.markdown(["task", "rollouts", "decisions", "MB"], rows))
    print("\nExploration; credited: corrections in successes that such a decision was the experience behind\n")
    columns = ["mode", "decisions", "rollouts", "successes", "credited"]
    print(tables.markdown(columns, [[r[c] for c in columns] for r in modes]))
    if credited:
        print("\nRollouts credited most: the experience behind corrections in episodes that then succeeded\n")
        columns = ["rollout", "task", "outcome", "corrections", "episodes"]
        print(tables.markdown(columns, [[r[c] for c in columns] for r in credited[:MAX_CREDITED]]))
    return 0
