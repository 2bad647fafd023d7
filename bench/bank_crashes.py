# SPDX-License-Identifier: MIT
"""How durable a bank is: a writer that is killed at random moments, and bits that flip.

Run as `./efn shell python bench/bank_crashes.py`. Prints a summary, writes results/bank_crashes.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
from synthetic_bank import PROJECTION, random_rollout
from tqdm import tqdm

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store.verify import verify
from efn_ros.report import provenance
from efn_ros.report.blocks.bank import crashes_block

RESULTS = Path(__file__).parent / "results" / "bank_crashes.json"
MAX_RUN_S = 0.3  # of a writer: some are killed before they have opened the bank, some after a few rollouts
MAX_ROLLOUTS = 20  # beyond which the writer removes the oldest
ADDED, REMOVING, REMOVED = "added", "removing", "removed"  # what a writer reports


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = {**provenance.here(), "kills": kill_writers(Path(directory) / "killed", args.kills)}
        result["flips"] = flip_bits(Path(directory) / "flipped", args.flips)
    print(crashes_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def kill_writers(bank: Path, kills: int) -> dict:
    """Kill a writer again and again, and compare what it reported with everything that the bank holds."""
    rng = np.random.default_rng(0)
    reported: dict[str, set[str]] = {ADDED: set(), REMOVING: set(), REMOVED: set()}
    lost, back, torn = set(), set(), 0
    for run in tqdm(range(kills), desc="kills"):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            write_forever(bank, run, writing)
        os.close(writing)
        time.sleep(rng.uniform(0, MAX_RUN_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.endswith("\n"):
                    event, name = line.split()
                    reported[event].add(name)
        snapshot = BankReader(bank, skip_corrupt=True).snapshot(verified=True)
        held = {stored.record.id for stored in snapshot.rollouts}
        lost |= reported[ADDED] - reported[REMOVING] - held
        back |= reported[REMOVED] & held
        torn += len(snapshot.skipped)
    counts = {"acknowledged": len(reported[ADDED]), "forgotten": len(reported[REMOVED])}
    return {"n": kills, **counts, "lost": len(lost), "back": len(back), "torn": torn}


def write_forever(bank: Path, run: int, out: int) -> None:
    """Add and remove rollouts, reporting each to the file descriptor `out`, until this process is killed."""

    def report(event: str, name: str) -> None:
        os.write(out, f"{event} {name}\n".encode())

    with BankWriter(bank, projection=PROJECTION) as writer:
        held = [record.id for record in BankReader(bank).rollouts()]
        for number in itertools.count(run * 1000):
            writer.adopt(random_rollout(number))
            report(ADDED, f"r{number}")
            held.append(f"r{number}")
            if len(held) > MAX_ROLLOUTS:
                oldest = held.pop(0)
                report(REMOVING, oldest)
                writer.remove(oldest, reason="bench")
                report(REMOVED, oldest)


def flip_bits(bank: Path, flips: int) -> dict:
    """Flip one bit at a time, anywhere in any payload; count how often `verify` names the rollout."""
    with BankWriter(bank, projection=PROJECTION) as writer:
        for number in range(MAX_ROLLOUTS):
            writer.adopt(random_rollout(number))
    rng, stored, found = np.random.default_rng(0), BankReader(bank).snapshot().rollouts, 0
    for _ in tqdm(range(flips), desc="flips"):
        damaged = stored[int(rng.integers(len(stored)))]
        copy = damaged.path.with_suffix(".whole")
        shutil.copy(damaged.path, copy)
        content = bytearray(damaged.path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        damaged.path.write_bytes(content)
        found += [finding.rollout for finding in verify(bank)[1]] == [damaged.record.id]
        os.replace(copy, damaged.path)
    return {"n": flips, "found": found}


if __name__ == "__main__":
    main()
