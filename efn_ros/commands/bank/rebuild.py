"""make a lost or damaged catalogue anew out of the payloads"""

from __future__ import annotations

import argparse

from efn_ros.commands.bank._common import progress, report_findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 where a payload is damaged."""
    from efn_ros.bank.store.rebuild import rebuild

    rollouts, findings = rebuild(args.bank, progress("payloads"))
    return report_findings(args.json, rollouts, findings, f"{rollouts} rollouts are in the new catalogue")
