"""read every byte and name what is not as it was written"""

from __future__ import annotations

import argparse

from efn_ros.commands.bank._common import progress, report_findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 where anything is damaged."""
    from efn_ros.bank.store.verify import verify

    rollouts, findings = verify(args.bank, progress("rollouts"))
    return report_findings(args.json, rollouts, findings, f"{rollouts} rollouts read")
