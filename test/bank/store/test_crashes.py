# SPDX-License-Identifier: MIT
"""A writer may be killed at any time: acknowledged rollouts are stored, and incomplete ones are never visible."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sample_rollouts
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.format.catalogue import PAYLOADS

ROOT = Path(sample_rollouts.__file__).parents[2]
KILLS = 12


def start_writer(directory, prefix):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, sample_rollouts.__file__, str(directory), prefix]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def names(lines, verb):
    return {line.split()[1] for line in lines if line.startswith(verb) and line.endswith("\n")}


def assert_whole(directory):
    """Every rollout in the catalogue has its payload, bit for bit, and its images; there are no other files."""
    reader = BankReader(directory, projection=PROJECTION)
    snapshot = reader.snapshot()
    assert snapshot.revision == len(snapshot.rollouts)
    for stored in snapshot.rollouts:
        expected = make_rollout(stored.record.id, decisions=2, cameras=("left",))
        for row, step in enumerate(expected.steps):
            np.testing.assert_array_equal(stored.arrays.executed[row], step.correction.corrected)
    if snapshot.rollouts:
        stored = snapshot.rollouts[-1]
        np.testing.assert_array_equal(stored.sketches(1)[0].q.shape, (6, 16))
        assert reader.image(stored.record.id, 1, "left").shape == (8, 8, 3)
    assert {path.name for path in (directory / PAYLOADS).iterdir()} == {s.record.payload for s in snapshot.rollouts}
    return {stored.record.id for stored in snapshot.rollouts}


def test_a_writer_killed_at_random_times_loses_no_acknowledged_rollout(tmp_path):
    delays = random.Random(0)
    begun, acknowledged = set(), set()
    for kill in range(KILLS):
        process = start_writer(tmp_path, f"kill{kill}")
        lines = [process.stdout.readline() for _ in range(delays.randint(1, 7))]
        time.sleep(delays.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        begun |= names(lines, "begun")
        acknowledged |= names(lines, "stored")
        BankReader(tmp_path, projection=PROJECTION).snapshot()  # before any writer has tidied up
        BankWriter(tmp_path, projection=PROJECTION).close()  # the lock is free
        stored = assert_whole(tmp_path)
        assert acknowledged <= stored <= begun
        assert len(begun - acknowledged) <= kill + 1
    assert len(acknowledged) > KILLS


def test_a_reader_beside_a_busy_writer_reads_only_complete_revisions(tmp_path):
    process = start_writer(tmp_path, "busy")
    try:
        reader, revisions = BankReader(tmp_path, projection=PROJECTION), []
        deadline = time.monotonic() + 30
        while len(set(revisions)) < 10 and time.monotonic() < deadline:
            snapshot = reader.snapshot()
            assert [stored.record.id for stored in snapshot.rollouts] == [f"busy-{i}" for i in range(snapshot.revision)]
            revisions.append(snapshot.revision)
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert revisions == sorted(revisions) and len(set(revisions)) >= 10


def die(*_, **__):
    os._exit(9)


def die_after(function):
    def dying(*arguments, **options):
        function(*arguments, **options)
        os._exit(9)

    return dying


def half_write(descriptor, content):
    REAL_WRITE(descriptor, content[: len(content) // 2])
    os._exit(9)


REAL_WRITE = os.write

CRASHES = {
    "half of the payload is written": (os, "write", half_write, False),
    "before the payload is synced": (os, "fsync", die, False),
    "before the rename": (os, "rename", die, False),
    "after the rename": (os, "rename", die_after(os.rename), False),
    "before the commit": (BankWriter, "_commit", die, False),
    "after the commit": (BankWriter, "_commit", die_after(BankWriter._commit), True),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", CRASHES)
def test_a_crash_at(tmp_path, moment):
    """A crash at this moment leaves the bank intact, with the complete rollout or without it."""
    owner, name, replacement, committed = CRASHES[moment]
    child = os.fork()
    if child == 0:
        try:
            writer = BankWriter(tmp_path, projection=PROJECTION)
            writer.append(make_rollout("before", decisions=2, cameras=("left",)))
            setattr(owner, name, replacement)
            writer.append(make_rollout("during", decisions=2, cameras=("left",)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    visible = {record.id for record in BankReader(tmp_path, projection=PROJECTION).rollouts()}
    assert visible == ({"before", "during"} if committed else {"before"})
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert assert_whole(tmp_path) == visible
        if not committed:
            writer.append(make_rollout("during", decisions=2, cameras=("left",)))
    assert assert_whole(tmp_path) == {"before", "during"}
