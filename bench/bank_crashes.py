"""What a bank's promises are worth: a writer that is killed at random moments, and bits that flip.

Run as `./efn shell python bench/bank_crashes.py`. Prints a table, writes results/bank_crashes.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store.verify import verify
from efn_ros.report import provenance, tables

sys.path.append(str(Path(__file__).parent))
from bank import PROJECTION, rollout  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "bank_crashes.json"
LONGEST_LIFE_S = 0.3  # of a writer: some are killed before they have opened the bank, some after a few rollouts
HELD = 20  # rollouts, beyond which the writer forgets the oldest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = {**provenance.here(), "kills": killed(Path(directory) / "killed", args.kills)}
        result["flips"] = flipped(Path(directory) / "flipped", args.flips)
    kills, flips = result["kills"], result["flips"]
    rows = [["kills of the writer", kills["n"]], ["rollouts acknowledged", kills["acknowledged"]]]
    rows += [
        ["of them lost", kills["lost"]],
        ["rollouts forgotten", kills["forgotten"]],
        ["of them back", kills["back"]],
    ]
    rows += [["torn rollouts seen", kills["torn"]], ["bits flipped in payloads", flips["n"]], ["found", flips["found"]]]
    print(tables.markdown(["", ""], rows))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def killed(bank: Path, kills: int) -> dict:
    """A writer adds and forgets without end, says so, and is killed; then everything that is read is compared."""
    rng = np.random.default_rng(0)
    said: dict[str, set[str]] = {"added": set(), "forgetting": set(), "forgotten": set()}
    lost, back, torn = set(), set(), 0
    for kill in tqdm(range(kills), desc="kills"):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            live(bank, kill, writing)
        os.close(writing)
        time.sleep(rng.uniform(0, LONGEST_LIFE_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.endswith("\n"):
                    verb, name = line.split()
                    said[verb].add(name)
        snapshot = BankReader(bank, skip_corrupt=True).snapshot(verified=True)
        there = {stored.record.id for stored in snapshot.rollouts}
        lost |= said["added"] - said["forgetting"] - there
        back |= said["forgotten"] & there
        torn += len(snapshot.skipped)
    names = {"acknowledged": len(said["added"]), "forgotten": len(said["forgotten"])}
    return {"n": kills, **names, "lost": len(lost), "back": len(back), "torn": torn}


def live(bank: Path, life: int, out: int) -> None:
    """In a process of its own, until it is killed."""

    def say(verb: str, name: str) -> None:
        os.write(out, f"{verb} {name}\n".encode())

    with BankWriter(bank, projection=PROJECTION) as writer:
        held = [record.id for record in BankReader(bank).rollouts()]
        for number in itertools.count():
            content = rollout(number := life * 1000 + number)
            writer.adopt(SimpleNamespace(record=SimpleNamespace(id=f"r{number}"), content=lambda: content))  # noqa: B023
            say("added", f"r{number}")
            held.append(f"r{number}")
            if len(held) > HELD:
                oldest = held.pop(0)
                say("forgetting", oldest)
                writer.forget(oldest, reason="bench")
                say("forgotten", oldest)


def flipped(bank: Path, flips: int) -> dict:
    """One bit at a time, anywhere in any payload."""
    with BankWriter(bank, projection=PROJECTION) as writer:
        for number in range(HELD):
            content = rollout(number)
            writer.adopt(SimpleNamespace(record=SimpleNamespace(id=f"r{number}"), content=lambda: content))  # noqa: B023
    rng, stored, found = np.random.default_rng(0), BankReader(bank).snapshot().rollouts, 0
    for _ in tqdm(range(flips), desc="flips"):
        damaged = stored[int(rng.integers(len(stored)))]
        whole = damaged.path.with_suffix(".whole")
        shutil.copy(damaged.path, whole)
        content = bytearray(damaged.path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        damaged.path.write_bytes(content)
        found += [finding.rollout for finding in verify(bank)[1]] == [damaged.record.id]
        os.replace(whole, damaged.path)
    return {"n": flips, "found": found}


if __name__ == "__main__":
    main()
