# SPDX-License-Identifier: MIT
"""Rebuild a lost or damaged catalogue from the payloads."""

from __future__ import annotations

import argparse

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import findings_output, progress


def run(args: argparse.Namespace) -> Output:
    """Run the action; the exit code is 1 if a payload is damaged."""
    from efn_ros.bank.store.rebuild import rebuild

    rollouts, findings = rebuild(args.bank, progress("payloads"))
    return findings_output(rollouts, findings, f"{rollouts} rollouts are in the new catalogue")
