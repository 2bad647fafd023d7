# SPDX-License-Identifier: MIT
"""Count rollouts, decisions and bytes by task, outcome and exploration, and name the rollouts behind corrections."""

from __future__ import annotations

import argparse

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import group_name, intact_rollouts

MAX_CREDITED = 10  # rollouts in the table; --json has all
EXPLORED = "\nExploration; credited: corrections in successes for which such a decision was the experience\n"
CREDITED = "\nRollouts credited most: the experience behind corrections in episodes that succeeded\n"


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    rollouts = intact_rollouts(args.bank)
    contents = summary.contents([r.record for r in rollouts])
    modes, credited = summary.exploration(rollouts), summary.credited(rollouts)
    rows = [[group_name(r), r["rollouts"], r["decisions"], f"{r['bytes'] / 1e6:.1f}"] for r in contents]
    parts = [tables.markdown(["task", "rollouts", "decisions", "MB"], rows), EXPLORED]
    columns = ["mode", "decisions", "rollouts", "successes", "credited"]
    parts.append(tables.markdown(columns, [[r[c] for c in columns] for r in modes]))
    if credited:
        columns = ["rollout", "task", "outcome", "corrections", "episodes"]
        parts += [CREDITED, tables.markdown(columns, [[r[c] for c in columns] for r in credited[:MAX_CREDITED]])]
    return Output({"contents": contents, "exploration": modes, "credited": credited}, "\n".join(parts))
