# SPDX-License-Identifier: MIT
"""Verification finds every change of a bank, and a rebuild restores what is intact."""

import errno
import os
import shutil
import sqlite3

import numpy as np
import pytest
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankCorruptionError, BankFormatError, BankLockedError, BankReader, BankWriter
from efn_ros.bank.format import codec as payloads
from efn_ros.bank.format.catalogue import CATALOGUE, ORPHANED, PAYLOADS
from efn_ros.bank.store import rebuild as rebuilding
from efn_ros.bank.store.rebuild import rebuild
from efn_ros.bank.store.verify import verify
from efn_ros.features.sketches import Projection

FLIPS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made") / "bank"
    with BankWriter(directory, projection=PROJECTION) as writer:
        for name in "abc":
            writer.append(make_rollout(name, cameras=("left",)))
    with sqlite3.connect(directory / CATALOGUE) as catalogue:
        catalogue.execute("PRAGMA journal_mode = DELETE")  # one file, whose bytes can be flipped
    return directory


@pytest.fixture
def bank(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bank")


def flip(path, place, bit):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_an_intact_bank_has_no_findings(bank):
    assert verify(bank) == (3, [])
    with BankWriter(bank, projection=PROJECTION) as writer:
        writer.append(make_rollout("d"))
        assert verify(bank) == (4, []), "also while a writer has it open"


def test_every_flipped_bit_of_a_payload_is_found_and_reported(bank, made):
    rng, payloads = np.random.default_rng(0), {r.id: bank / PAYLOADS / r.payload for r in BankReader(bank).rollouts()}
    for _ in range(FLIPS):
        name = str(rng.choice(list(payloads)))
        path = payloads[name]
        flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
        rollouts, (finding,) = verify(bank)
        assert (rollouts, finding.rollout, finding.where) == (3, name, str(path))
        shutil.copy(made / PAYLOADS / path.name, path)
    assert verify(bank) == (3, [])


def rows_of(path):
    with sqlite3.connect(path) as catalogue:
        tables = ("meta", "instruction", "rollout", "forgotten")
        return [catalogue.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


def test_every_flipped_bit_of_the_catalogue_is_found_or_changes_no_content(bank, made):
    """SQLite has no checksums: an integrity check alone would miss a changed number."""
    rng, path, rows, found = np.random.default_rng(1), bank / CATALOGUE, rows_of(made / CATALOGUE), 0
    for _ in range(4 * FLIPS):
        flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
        try:
            findings = verify(bank)[1]
        except (BankFormatError, sqlite3.OperationalError):
            findings = [None]
        if findings:
            found += 1
        else:
            assert rows_of(path) == rows
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        shutil.copy(made / CATALOGUE, path)
    assert found > 5, "most of a small catalogue is empty pages"


def test_a_changed_row_and_changed_meta_are_reported(bank):
    for change, named, what in (
        ("UPDATE rollout SET outcome = 2 WHERE id = 'b'", "b", "its row is not what was written"),
        ("UPDATE meta SET value = '7' WHERE name = 'revision'", "", "its description of the bank as a whole"),
        ("ALTER TABLE rollout RENAME COLUMN robot TO robots", "", "its tables are not those of a bank"),
    ):
        with sqlite3.connect(bank / CATALOGUE) as catalogue:
            catalogue.execute(change)
        ((finding,), path) = verify(bank)[1], str(bank / CATALOGUE)
        assert (finding.where, finding.rollout) == (path, named) and what in finding.what


def test_an_invalid_row_is_reported_when_it_is_read(bank):
    with sqlite3.connect(bank / CATALOGUE) as catalogue:
        catalogue.execute("UPDATE rollout SET outcome = 99 WHERE id = 'b'")
    with pytest.raises(
        BankCorruptionError, match="row of rollout 'b' in .* is not what was written; .* ./efn bank rebuild"
    ):
        BankReader(bank)
    skipping = BankReader(bank, skip_corrupt=True)
    assert [r.id for r in skipping.rollouts()] == ["a", "c"] and skipping.snapshot().skipped == ("b",)
    assert rebuild(bank) == (3, []) and verify(bank) == (3, [])
    assert [r.id for r in skipping.rollouts()] == ["a", "b", "c"] and not skipping.corrupt


# Rebuilding


def records(directory):
    reader = BankReader(directory, projection=PROJECTION)
    return [{**vars(r.record), "embedding": r.instruction_embedding.tolist()} for r in reader.snapshot().rollouts]


@pytest.mark.parametrize("lost", ["missing", "garbage"])
def test_a_lost_catalogue_is_rebuilt_from_the_payloads(bank, lost):
    before = records(bank)
    path = bank / CATALOGUE
    path.unlink() if lost == "missing" else path.write_bytes(b"garbage" * 1000)
    with pytest.raises(BankFormatError, match="rebuild" if lost == "missing" else "cannot be read as a catalogue"):
        BankWriter(bank, projection=PROJECTION)
    assert len(list((bank / PAYLOADS).iterdir())) == 3, "a writer without a catalogue sweeps nothing"
    assert rebuild(bank) == (3, [])
    assert records(bank) == before and verify(bank) == (3, [])
    if lost == "garbage":
        assert (bank / f"{CATALOGUE}.broken-1").read_bytes().startswith(b"garbage")
    with BankWriter(bank, projection=PROJECTION) as writer:
        assert writer.append(make_rollout("d")) == 4


def test_damaged_payloads_are_left_out_of_a_new_catalogue_and_reported(bank):
    path = bank / PAYLOADS / BankReader(bank).rollouts()[1].payload
    whole = path.read_bytes()
    for place in np.random.default_rng(2).choice(len(whole), FLIPS, replace=False):
        flip(path, place, 3)
        rollouts, (finding,) = rebuild(bank)
        assert rollouts == 2 and finding.where == str(path)
        path.write_bytes(whole)
    assert rebuild(bank) == (3, [])


def test_payloads_that_are_left_out_are_set_aside_and_not_lost(bank):
    path = bank / PAYLOADS / BankReader(bank).rollouts()[1].payload
    whole = path.read_bytes()
    flip(path, 5000, 3)
    assert rebuild(bank)[0] == 2
    with BankWriter(bank, projection=PROJECTION) as writer:
        assert writer.rollouts == 2
    aside = bank / ORPHANED / path.name
    assert not path.exists() and aside.exists()
    path.write_bytes(whole)  # from a copy
    assert rebuild(bank) == (3, [])
    assert sorted(p.name for p in bank.glob(f"{CATALOGUE}.broken-*")) == [f"{CATALOGUE}.broken-{i}" for i in (1, 2)]


def test_an_error_of_the_disk_is_no_damage(bank, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(rebuilding.PayloadFile, "check", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        rebuild(bank)
    monkeypatch.undo()
    assert verify(bank) == (3, [])


def test_an_older_catalogue_does_not_lose_newer_payloads(bank, tmp_path):
    shutil.copy(bank / CATALOGUE, tmp_path / "older")
    with BankWriter(bank, projection=PROJECTION) as writer:
        for name in "de":
            writer.append(make_rollout(name, cameras=("left",)))
    for end in ("-wal", "-shm"):
        (bank / f"{CATALOGUE}{end}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "older", bank / CATALOGUE)
    with BankWriter(bank, projection=PROJECTION) as writer:
        assert writer.rollouts == 3
    for path in (bank / ORPHANED).iterdir():
        path.rename(bank / PAYLOADS / path.name)
    assert rebuild(bank) == (5, [])


def test_a_rollout_removed_during_verification_is_no_damage(bank):
    with BankWriter(bank, projection=PROJECTION) as writer:

        def removing(rows):
            writer.remove("c", reason="")
            return rows

        assert verify(bank, removing) == (3, [])
    assert verify(bank) == (2, [])


def test_a_rebuild_continues_after_a_second_payload_of_a_rollout(bank):
    other = payloads.encode(make_rollout("a", cameras=("left",)), 50, PROJECTION.identity)
    (bank / PAYLOADS / payloads.file_name(payloads.checksum(other))).write_bytes(other)
    rollouts, (finding,) = rebuild(bank)
    assert rollouts == 3 and finding.rollout == "a" and "another payload contains this rollout too" in finding.what


def test_a_rebuild_without_intact_payloads_of_one_projection_is_refused(bank, tmp_path):
    with BankWriter(bank, projection=PROJECTION), pytest.raises(BankLockedError):
        rebuild(bank)
    other = Projection(24, 16, seed=9)
    with BankWriter(tmp_path / "other", projection=other) as writer:
        writer.append(make_rollout("x", projection=other))
    for path in (tmp_path / "other" / PAYLOADS).iterdir():
        shutil.copy(path, bank / PAYLOADS)
    with pytest.raises(BankFormatError, match="have 2 projections, a bank has one"):
        rebuild(bank)
    shutil.rmtree(bank / PAYLOADS)
    (bank / PAYLOADS).mkdir()
    with pytest.raises(BankFormatError, match="have 0 projections"):
        rebuild(bank)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", [1, 2])
def test_a_killed_rebuild_can_be_repeated(bank, monkeypatch, call):
    before, calls, real = records(bank), [], os.replace

    def dying(*arguments):
        calls.append(real(*arguments))
        if len(calls) == call:
            os._exit(9)

    monkeypatch.setattr(rebuilding.os, "replace", dying)
    child = os.fork()
    if child == 0:
        try:
            rebuild(bank)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    if call == 1:
        with pytest.raises(BankFormatError, match="rebuild"):
            BankWriter(bank, projection=PROJECTION)
    assert rebuild(bank) == (3, []) and records(bank) == before
