# SPDX-License-Identifier: MIT
"""Banks of earlier formats: refused by name, and migrated completely or not at all."""

import json
import os
import sqlite3

import numpy as np
import pytest
import safetensors.numpy
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankCorruptionError, BankFormatError, BankLockedError, BankReader, BankWriter
from efn_ros.bank.format import codec as payloads
from efn_ros.bank.format.catalogue import APPLICATION_ID, CATALOGUE, PAYLOADS
from efn_ros.bank.format.codec import checksum
from efn_ros.bank.format.validation import sizes_of
from efn_ros.bank.store.migrate import migrate
from efn_ros.types import Mode

OF_FORMAT_2 = ("latent_key.q", "latent_key.scale", "latent_mean", "sketch.crc")  # that it lacks
OF_FORMAT_1 = (*OF_FORMAT_2, "proposed", "proposes", "cut", "explored", "source", "source_step")
COLUMNS = """serial INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, robot TEXT NOT NULL, task TEXT NOT NULL,
instruction TEXT NOT NULL, instruction_embedding BLOB NOT NULL, seed TEXT NOT NULL, outcome INTEGER NOT NULL,
length INTEGER NOT NULL, decisions INTEGER NOT NULL, recallable INTEGER NOT NULL, start_ns INTEGER NOT NULL,
policy TEXT NOT NULL, revision INTEGER NOT NULL, payload TEXT NOT NULL UNIQUE, payload_size INTEGER NOT NULL,
payload_checksum BLOB NOT NULL"""


def old_bank(directory, version, rollouts):
    """Write a bank as the earlier versions did."""
    (directory / PAYLOADS).mkdir(parents=True)
    with sqlite3.connect(directory / CATALOGUE) as catalogue:
        explored = ", explored TEXT NOT NULL DEFAULT '{}'" if version == 2 else ""
        catalogue.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        catalogue.execute(f"CREATE TABLE rollout ({COLUMNS}{explored})")
        sizes = json.dumps(sizes_of(rollouts[0]))
        meta = {"revision": str(len(rollouts)), "projection": PROJECTION.identity, "sizes": sizes}
        catalogue.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        for revision, r in enumerate(rollouts, 1):
            tensors, metadata = payloads.unpack(payloads.encode(r, 90, PROJECTION.identity))
            recallable = tensors["recallable"]
            for name in OF_FORMAT_1 if version == 1 else OF_FORMAT_2:
                del tensors[name]
            retained = (
                ("rollout", "policy", "cameras")
                if version == 1
                else ("rollout", "policy", "cameras", "explored", "source")
            )
            metadata = {name: metadata[name] for name in retained}
            content = safetensors.numpy.save(tensors, metadata | {"format": str(version)})
            name = payloads.file_name(checksum(content))
            (directory / PAYLOADS / name).write_bytes(content)
            embedding = r.steps[0].policy_step.instruction_embedding.tobytes()
            row = (
                None, r.episode_id, r.robot, r.task, r.instruction, embedding, str(r.seed), int(r.outcome), r.length,
                len(r.steps), int(recallable.sum()), r.start_ns, r.policy, revision, name, len(content),
                bytes.fromhex(checksum(content)), *(["{}"] if version == 2 else []),
            )  # fmt: skip
            catalogue.execute(f"INSERT INTO rollout VALUES ({', '.join('?' * len(row))})", row)
        catalogue.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        catalogue.execute(f"PRAGMA user_version = {version}")
    return directory


@pytest.fixture
def rollouts():
    return [make_rollout(name, 3) for name in "abc"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_bank_of_an_earlier_format_is_refused_until_it_is_migrated_and_then_equals_a_new_one(
    tmp_path, rollouts, version
):
    bank = old_bank(tmp_path / "old", version, rollouts)
    for opening in (BankReader, BankWriter):
        with pytest.raises(BankFormatError, match=rf"has format {version}, .* \./efn bank migrate {bank}"):
            opening(bank, projection=PROJECTION)
    assert migrate(bank) == (3, []) and migrate(bank) == (0, [])
    with BankWriter(tmp_path / "new", projection=PROJECTION) as writer:
        for rollout in rollouts:
            writer.append(rollout)
    migrated, fresh = (BankReader(d, projection=PROJECTION).snapshot(verified=True) for d in (bank, tmp_path / "new"))
    assert migrated.revision == fresh.revision == 3
    for old, new in zip(migrated.rollouts, fresh.rollouts, strict=True):
        for name, value in vars(new.record).items():
            assert name.startswith("payload") or getattr(old.record, name) == value, name
        np.testing.assert_array_equal(old.instruction_embedding, new.instruction_embedding)
        for name, array in vars(new.steps).items():
            np.testing.assert_array_equal(getattr(old.steps, name), array)
    assert {p.name for p in (bank / PAYLOADS).iterdir()} == {r.record.payload for r in migrated.rollouts}
    with BankWriter(bank, projection=PROJECTION) as writer:
        assert writer.append(make_rollout("d")) == 4


def test_fields_that_format_1_lacks_get_their_implied_values(tmp_path, rollouts):
    bank = old_bank(tmp_path / "old", 1, rollouts)
    migrate(bank)
    arrays = BankReader(bank).snapshot().rollouts[0].arrays
    np.testing.assert_array_equal(arrays.proposed, arrays.residual)
    assert (arrays.proposes == (arrays.modes == Mode.CORRECTED)).all() and not arrays.clipped.any()
    assert set(arrays.explored) == set(arrays.source) == {""} and (arrays.source_step == -1).all()


def test_a_corrupt_rollout_stops_a_migration_or_is_left_out(tmp_path, rollouts):
    bank = old_bank(tmp_path / "old", 2, rollouts)
    with sqlite3.connect(bank / CATALOGUE) as catalogue:
        ((name,),) = catalogue.execute("SELECT payload FROM rollout WHERE id = 'b'").fetchall()
    path = bank / PAYLOADS / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankCorruptionError, match=rf"{name} of rollout 'b': .* --skip-corrupt"):
        migrate(bank)
    with pytest.raises(BankFormatError, match="has format 2"):
        BankReader(bank)
    assert migrate(bank, skip_corrupt=True) == (2, ["b"])
    assert [r.record.id for r in BankReader(bank).snapshot(verified=True).rollouts] == ["a", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", ["first payload", "last payload", "sweep"])
def test_a_killed_migration_can_be_repeated(tmp_path, rollouts, monkeypatch, moment):
    bank = old_bank(tmp_path / "old", 2, rollouts)
    from efn_ros.bank.store import migrate as module

    real, calls = module.files.create, []

    def dying(*arguments):
        calls.append(real(*arguments))
        if len(calls) == (1 if moment == "first payload" else 3):
            os._exit(9)

    if moment == "sweep":
        monkeypatch.setattr(module, "sweep", lambda *_: os._exit(9))
    else:
        monkeypatch.setattr(module.files, "create", dying)
    child = os.fork()
    if child == 0:
        try:
            migrate(bank)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert migrate(bank) == ((0, []) if moment == "sweep" else (3, []))
    with BankWriter(bank, projection=PROJECTION):
        pass
    migrated = BankReader(bank).snapshot(verified=True).rollouts
    assert {p.name for p in (bank / PAYLOADS).iterdir()} == {r.record.payload for r in migrated} and len(migrated) == 3


def test_a_directory_without_an_old_bank_is_not_changed(tmp_path):
    with pytest.raises(BankFormatError, match="there is no bank in"):
        migrate(tmp_path)
    with sqlite3.connect(tmp_path / CATALOGUE) as catalogue:
        catalogue.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(BankFormatError, match="is no bank of format 1 to 2"):
        migrate(tmp_path)
    with BankWriter(tmp_path / "open", projection=PROJECTION), pytest.raises(BankLockedError):
        migrate(tmp_path / "open")
