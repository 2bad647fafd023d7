# SPDX-License-Identifier: MIT
"""Read every byte and name what is damaged."""

from __future__ import annotations

import argparse

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import findings_output, progress


def run(args: argparse.Namespace) -> Output:
    """Run the action; the exit code is 1 for any damage."""
    from efn_ros.bank.store.verify import verify

    rollouts, findings = verify(args.bank, progress("rollouts"))
    return findings_output(rollouts, findings, f"{rollouts} rollouts read")
