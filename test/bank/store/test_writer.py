# SPDX-License-Identifier: MIT
"""The bank on disk: stored rollouts are read back, and invalid ones are refused by name."""

import contextlib
import dataclasses
import errno
import os
import shutil
import sqlite3
import weakref
from pathlib import Path

import numpy as np
import pytest
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import (
    BankCorruptionError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankReader,
    BankWriteError,
    BankWriter,
)
from efn_ros.bank.format import codec as payload
from efn_ros.bank.format.catalogue import CATALOGUE, PAYLOADS, SCHEMA
from efn_ros.bank.store import reader as reading
from efn_ros.bank.store import rollout as rollout_module
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.sketches import Projection
from efn_ros.types import Mode, Outcome


@pytest.fixture
def writer(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        yield writer


@pytest.fixture
def reader(tmp_path):
    return BankReader(tmp_path, projection=PROJECTION)


def payload_of(directory, rollout_id):
    records = {record.id: record for record in BankReader(directory).rollouts()}
    return directory / PAYLOADS / records[rollout_id].payload


def edited(rollout, row, part, **changes):
    """The rollout with fields of one part of one step replaced."""
    steps = list(rollout.steps)
    changed = dataclasses.replace(getattr(steps[row], part), **changes)
    steps[row] = dataclasses.replace(steps[row], **{part: changed})
    return dataclasses.replace(rollout, steps=tuple(steps))


# Reading back


def test_a_writer_contains_the_rollouts_of_its_bank(writer):
    writer.append(make_rollout("known"))
    assert "known" in writer and "unknown" not in writer


def test_every_array_is_read_back_bit_for_bit(writer, reader):
    rollout = make_rollout(decisions=4)
    writer.append(rollout)
    (stored,) = reader.snapshot().rollouts
    arrays = stored.arrays
    for row, step in enumerate(rollout.steps):
        policy_step, correction = step.policy_step, step.correction
        for kept, given in (
            (arrays.key.q[row], policy_step.key.q),
            (arrays.key.scale[row], policy_step.key.scale),
            (arrays.base[row], policy_step.base),
            (arrays.executed[row], correction.corrected),
            (arrays.residual[row], correction.residual),
            (arrays.latent[row], policy_step.latent),
            (arrays.proprio[row], policy_step.proprio),
            (stored.sketches(row)[0].q, policy_step.sketch.q),
            (stored.sketches(row)[0].scale, policy_step.sketch.scale),
        ):
            assert kept.dtype == given.dtype and kept.shape == given.shape
            np.testing.assert_array_equal(kept, given)
        assert arrays.steps[row] == row and arrays.stamps_ns[row] == step.observation.context.stamp_ns
        assert arrays.modes[row] == correction.mode and arrays.confidence[row] == correction.confidence
    np.testing.assert_array_equal(stored.instruction_embedding, rollout.steps[0].policy_step.instruction_embedding)


def test_the_catalogue_describes_the_episode(writer, reader):
    seed = 2**64 - 1
    writer.append(dataclasses.replace(make_rollout(decisions=3, outcome=Outcome.FAILURE), seed=seed))
    (record,) = reader.rollouts()
    assert (record.id, record.robot, record.task, record.instruction) == ("e0", "arm", "reach", "reach the goal")
    assert (record.seed, record.outcome, record.length, record.decisions) == (seed, Outcome.FAILURE, 12, 3)
    assert (record.start_ns, record.policy, record.revision, record.recallable) == (1_000, "policy-1", 1, 3)
    assert record.payload_size == payload_of(reader._directory, "e0").stat().st_size


def test_the_catalogue_counts_explored_decisions(writer, reader):
    rollout = edited(
        edited(make_rollout("a"), 0, "correction", exploration="noise"), 2, "correction", exploration="noise"
    )
    writer.append(rollout)
    writer.append(make_rollout("b"))
    assert [record.explored for record in reader.rollouts()] == [{"noise": 2}, {}]


def test_an_image_is_read_back_as_rgb_within_the_error_of_jpeg(writer, reader):
    rollout = make_rollout(decisions=2, image=16)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    writer.append(edited(rollout, 1, "observation", images={"left": red, "right": red}))
    image = reader.image("e0", 1, "left")
    assert image.dtype == np.uint8 and image.shape == (16, 16, 3)
    np.testing.assert_allclose(image.astype(int), red, atol=6)


@pytest.mark.parametrize(
    ("arguments", "named"), [(("e9", 0, "left"), "e9"), (("e0", 9, "left"), "step 9"), (("e0", 0, "up"), "'up'")]
)
def test_a_missing_image_is_reported_by_name(writer, reader, arguments, named):
    writer.append(make_rollout())
    with pytest.raises(KeyError, match=named):
        reader.image(*arguments)


def test_rollouts_without_images_or_latent_tokens_are_stored(writer, reader):
    writer.append(make_rollout(cameras=(), latent=(0, 0)))
    assert reader.snapshot().rollouts[0].arrays.latent.shape == (3, 0, 0)


def test_any_text_can_name_an_episode(writer, reader):
    for name in ("../../etc/x", "überall\n", "a" * 500):
        writer.append(make_rollout(name, seed=1))
    assert [stored.record.id for stored in reader.snapshot().rollouts] == ["../../etc/x", "überall\n", "a" * 500]


def test_a_blank_step_is_stored_and_marked(writer, reader):
    rollout = make_rollout(decisions=3)
    rollout = edited(rollout, 1, "correction", mode=Mode.HOLD)
    rollout = edited(rollout, 1, "policy_step", proprio=rollout.steps[2].policy_step.proprio)
    writer.append(rollout)
    (stored,) = reader.snapshot().rollouts
    assert stored.arrays.recallable.tolist() == [True, False, True]
    assert (stored.record.decisions, stored.record.recallable) == (3, 2)


# Revisions and snapshots


def test_the_revision_increases_with_every_append_and_is_persistent(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert (writer.revision, writer.rollouts, writer.steps) == (0, 0, 0)
        assert [writer.append(make_rollout(name)) for name in "ab"] == [1, 2]
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert writer.append(make_rollout("c")) == 3
        assert (writer.revision, writer.rollouts, writer.steps) == (3, 3, 9)


def test_a_reader_opens_before_the_bank_exists_and_reads_it_later(tmp_path):
    reader = BankReader(tmp_path / "later", projection=PROJECTION)
    assert reader.snapshot().rollouts == () and reader.snapshot().revision == 0 and reader.rollouts() == []
    assert not (tmp_path / "later").exists()
    with BankWriter(tmp_path / "later", projection=PROJECTION) as writer:
        assert reader.snapshot().revision == 0
        writer.append(make_rollout())
        assert reader.snapshot().revision == 1


def test_a_snapshot_does_not_change_while_the_bank_grows(writer, reader):
    writer.append(make_rollout("a"))
    before = reader.snapshot()
    writer.append(make_rollout("b"))
    after = reader.snapshot()
    assert [len(before.rollouts), before.revision] == [1, 1]
    assert [len(after.rollouts), after.revision] == [2, 2]
    assert after.projection == PROJECTION.identity


def test_a_snapshot_reads_only_new_rows_of_the_catalogue(writer, reader, tmp_path, monkeypatch):
    for name in "abc":
        writer.append(make_rollout(name))
    assert len(reader.snapshot().rollouts) == 3 and reader.snapshot() is reader.snapshot()
    made, real = [], reading.record_from_row
    monkeypatch.setattr(reading, "record_from_row", lambda row: made.append(row["id"]) or real(row))
    monkeypatch.setattr(StoredRollout, "content", lambda rollout: pytest.fail("a payload was read"))
    monkeypatch.setattr(rollout_module, "PayloadFile", lambda *_: pytest.fail("a payload was opened"))
    writer.append(make_rollout("d"))
    assert [stored.record.id for stored in reader.snapshot().rollouts] == list("abcd") and made == ["d"]


def test_the_cache_drops_the_least_recently_used_steps(writer, tmp_path):
    for name in "abc":
        writer.append(make_rollout(name))
    size = BankReader(tmp_path).snapshot().rollouts[0].steps.nbytes
    rollouts = BankReader(tmp_path, cache_bytes=2 * size).snapshot().rollouts
    a, b, c = (rollout.steps for rollout in rollouts)
    assert rollouts[2].steps is c and rollouts[1].steps is b, "the two that were used last"
    assert rollouts[0].steps is not a
    np.testing.assert_array_equal(rollouts[0].steps.key, a.key)


def test_the_cache_drops_the_steps_of_a_removed_rollout(writer, reader):
    for name in "ab":
        writer.append(make_rollout(name))
    read = [weakref.ref(rollout.steps) for rollout in reader.snapshot().rollouts]
    writer.remove("a", reason="")
    assert all(read), "until the next snapshot"
    (left,) = reader.snapshot().rollouts
    assert read[0]() is None and read[1]() is left.steps


def test_retrieval_reads_what_was_written(writer, reader):
    rollout = make_rollout(decisions=4)
    writer.append(rollout)
    (stored,) = reader.snapshot().rollouts
    steps, arrays = stored.steps, stored.arrays
    for name in ("base", "executed", "proprio", "steps", "recallable"):
        np.testing.assert_array_equal(getattr(steps, name), getattr(arrays, name))
    np.testing.assert_array_equal(steps.key, arrays.key.q)
    np.testing.assert_allclose(steps.latent, arrays.latent.mean(axis=1), atol=1e-6)
    for q, norm, exact in (
        (steps.key, steps.key_norm, arrays.key.dequantise()),
        (steps.latent_key, steps.latent_norm, arrays.latent.mean(axis=1)),
    ):
        unit = q * norm[:, None]
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
        cosine = (unit * exact).sum(axis=1) / np.linalg.norm(exact, axis=1)
        assert (cosine > 0.9999).all()


def test_another_bank_in_the_same_directory_is_read_completely(tmp_path):
    reader = BankReader(tmp_path / "bank")
    for name in ("first", "second"):
        shutil.rmtree(tmp_path / "bank", ignore_errors=True)
        with BankWriter(tmp_path / "bank", projection=PROJECTION) as writer:
            writer.append(make_rollout(name))
        assert [stored.record.id for stored in reader.snapshot().rollouts] == [name]


def test_a_diverged_copy_of_the_bank_is_read_completely(tmp_path):
    """A bank restored from a copy is older than what a reader has read, or has diverged since."""

    def append(*names):
        with BankWriter(tmp_path / "bank", projection=PROJECTION) as writer:
            for name in names:
                writer.append(make_rollout(name))

    def shown():
        return [stored.record.id for stored in reader.snapshot().rollouts]

    append("a", "b")
    shutil.copytree(tmp_path / "bank", tmp_path / "copy")
    reader = BankReader(tmp_path / "bank")
    for others, then in (((), ()), (("x",), ()), (("x", "y"), ("z",))):
        append("c", "d")
        assert shown() == ["a", "b", "c", "d"]
        shutil.rmtree(tmp_path / "bank")
        shutil.copytree(tmp_path / "copy", tmp_path / "bank")
        append(*others, *then)
        assert shown() == ["a", "b", *others, *then]
        shutil.rmtree(tmp_path / "bank")
        shutil.copytree(tmp_path / "copy", tmp_path / "bank")
    (tmp_path / "bank" / CATALOGUE).write_bytes(b"")
    assert shown() == []


def test_a_failed_refresh_changes_nothing_and_can_be_repeated(writer, reader, tmp_path):
    for name in "abc":
        writer.append(make_rollout(name))
    assert len(reader.snapshot().rollouts) == 3
    writer.remove("a", reason="")
    writer.append(make_rollout("d"))
    (checksum,) = writer._catalogue.execute("SELECT seal FROM rollout WHERE id = 'd'").fetchone()
    writer._catalogue.execute("UPDATE rollout SET seal = x'00' WHERE id = 'd'")
    for _ in range(2):
        with pytest.raises(BankCorruptionError, match="row of rollout 'd'"):
            reader.snapshot()
    writer._catalogue.execute("UPDATE rollout SET seal = ? WHERE id = 'd'", (checksum,))
    assert [stored.record.id for stored in reader.snapshot().rollouts] == ["b", "c", "d"]


def test_the_same_rollout_gives_the_same_bytes():
    made = {payload.encode(make_rollout(), 90, "p") for _ in range(5)}
    assert len(made) == 1


# Refusals


BAD = {
    "steps is ()": lambda r: dataclasses.replace(r, steps=()),
    "length is 0": lambda r: dataclasses.replace(r, length=0),
    "instruction is ' '": lambda r: dataclasses.replace(r, instruction=" "),
    "task is '\\ud800'": lambda r: dataclasses.replace(r, task="\ud800"),
    "episode_id of the rollout is ''": lambda r: dataclasses.replace(r, episode_id=""),
    "steps[0].observation.context.episode_id is 'e0'": lambda r: dataclasses.replace(r, episode_id="other"),
    "steps[1].context.step is 0": lambda r: dataclasses.replace(r, steps=r.steps[:1] * 2),
    "steps[1].correction.corrected[2, 1] is nan": lambda r: edited(
        r, 1, "correction", corrected=_with(r.steps[1].correction.corrected, (2, 1), np.nan)
    ),
    "steps[2].proprio[3] is inf": lambda r: edited(
        r, 2, "policy_step", proprio=_with(r.steps[2].policy_step.proprio, 3, np.inf)
    ),
    "steps[0].correction.confidence is nan": lambda r: edited(r, 0, "correction", confidence=np.nan),
    "steps[0].key.scale is nan": lambda r: edited(
        r, 0, "policy_step", key=dataclasses.replace(r.steps[0].policy_step.key, scale=float("nan"))
    ),
    "the shape of steps[1].latent is (2, 10)": lambda r: edited(r, 1, "policy_step", latent=np.zeros((2, 10))),
    "the shape of steps[1].base is (4,)": lambda r: edited(r, 1, "policy_step", base=np.zeros(4)),
    "steps[1].observation.images is ['left']": lambda r: edited(
        r, 1, "observation", images={"left": np.zeros((8, 8, 3), np.uint8)}
    ),
    "steps[0].observation.images['left'] is float64 (8, 8, 3)": lambda r: edited(
        r, 0, "observation", images={"left": np.zeros((8, 8, 3)), "right": np.zeros((8, 8, 3), np.uint8)}
    ),
    "steps[1].correction.proposed[0, 2] is nan": lambda r: edited(
        r, 1, "correction", proposed=_with(np.zeros((4, 3), np.float32), (0, 2), np.nan)
    ),
    "the shape of steps[1].correction.proposed is (4, 2)": lambda r: edited(
        r, 1, "correction", proposed=np.zeros((4, 2), np.float32)
    ),
    "steps[2].policy is 'policy-2'": lambda r: edited(r, 2, "policy_step", policy="policy-2"),
    "steps[2].projection is 'another'": lambda r: edited(r, 2, "policy_step", projection="another"),
}


def _with(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize("message", BAD)
def test_an_invalid_rollout_is_refused_with_field_and_value_and_leaves_no_trace(writer, tmp_path, message):
    with pytest.raises(ValueError) as refused:
        writer.append(BAD[message](make_rollout()))
    assert message in str(refused.value)
    assert writer.revision == 0 and not list((tmp_path / PAYLOADS).iterdir())
    assert writer.append(make_rollout()) == 1


def test_a_second_rollout_with_the_same_identifier_is_refused(writer):
    writer.append(make_rollout())
    with pytest.raises(ValueError, match="'e0': episode_id is in the bank already"):
        writer.append(make_rollout(seed=5))


def test_all_rollouts_of_a_bank_have_the_same_sizes(writer):
    writer.append(make_rollout("a"))
    with pytest.raises(ValueError, match=r"the shape of steps\[0\].proprio is \(5,\); the bank holds \(4,\)"):
        writer.append(make_rollout("b", proprio=5))


def test_keys_of_another_width_than_the_projection_are_refused(writer):
    with pytest.raises(ValueError, match="gives rows of 16"):
        writer.append(make_rollout(projection=Projection(24, 8)))


def test_a_closed_writer_raises(tmp_path):
    writer = BankWriter(tmp_path, projection=PROJECTION)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.append(make_rollout())


def test_a_second_writer_is_refused_with_the_process_of_the_first(writer, tmp_path):
    with pytest.raises(BankLockedError, match=f"process {os.getpid()}"):
        BankWriter(tmp_path, projection=PROJECTION)
    writer.close()
    BankWriter(tmp_path, projection=PROJECTION).close()


def test_a_bank_of_another_projection_is_refused_by_name(writer, tmp_path):
    writer.close()
    other = Projection(24, 16, seed=4)
    for opening in (BankWriter, BankReader):
        with pytest.raises(BankProjectionError, match=f"{PROJECTION.identity}, not {other.identity}"):
            opening(tmp_path, projection=other)
    BankWriter(tmp_path, projection=PROJECTION).close()


def test_a_bank_of_a_newer_format_is_refused(writer, tmp_path):
    writer.close()
    with sqlite3.connect(tmp_path / CATALOGUE) as catalogue:
        catalogue.execute("PRAGMA user_version = 99")
    for opening in (BankWriter, BankReader):
        with pytest.raises(BankFormatError, match="format 99, this efn_ros reads 3; use the efn_ros that made it"):
            opening(tmp_path, projection=PROJECTION)


def test_a_database_of_another_program_is_refused_and_not_changed(tmp_path):
    with sqlite3.connect(tmp_path / CATALOGUE) as catalogue:
        catalogue.execute("CREATE TABLE birds (name TEXT)")
    content = (tmp_path / CATALOGUE).read_bytes()
    for opening in (BankWriter, BankReader):
        with pytest.raises(BankFormatError, match="another program"):
            opening(tmp_path, projection=PROJECTION)
    assert (tmp_path / CATALOGUE).read_bytes() == content


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / CATALOGUE).write_bytes(b"not a database at all" * 100)
    for opening in (BankWriter, BankReader):
        with pytest.raises(BankFormatError, match="cannot be read as a catalogue"):
            opening(tmp_path, projection=PROJECTION)


def test_a_catalogue_whose_creation_was_interrupted_is_an_empty_bank(tmp_path):
    with sqlite3.connect(tmp_path / CATALOGUE) as catalogue:
        catalogue.execute("PRAGMA journal_mode = WAL")
    assert BankReader(tmp_path, projection=PROJECTION).snapshot().revision == 0
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert writer.append(make_rollout()) == 1


def test_the_catalogue_is_as_durable_as_sqlite_makes_it(writer):
    pragma = lambda name: writer._catalogue.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
    assert "CONFLICT" not in SCHEMA


# Corruption


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "longer"])
def test_a_damaged_payload_is_reported_with_its_rollout(writer, tmp_path, damage):
    writer.append(make_rollout("good"))
    writer.append(make_rollout("bad"))
    path = payload_of(tmp_path, "bad")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes({"flipped": content, "truncated": content[:-1], "longer": content + b"x"}[damage])
    for read in (lambda r: r.snapshot(verified=True), lambda r: r.image("bad", 0, "left")):
        with pytest.raises(BankCorruptionError) as refused:
            read(BankReader(tmp_path))
        assert str(path) in str(refused.value) and "'bad'" in str(refused.value)
    skipping = BankReader(tmp_path, skip_corrupt=True)
    snapshot = skipping.snapshot(verified=True)
    assert [stored.record.id for stored in snapshot.rollouts] == ["good"] and snapshot.skipped == ("bad",)
    assert skipping.corrupt.keys() == {"bad"} and skipping.snapshot().skipped == ("bad",), "it stays skipped"


def test_retrieval_detects_every_flipped_bit_of_what_it_reads(writer, tmp_path):
    """One bit at a time, anywhere in the file: retrieval reads what was written, or reports the rollout."""
    rollout = make_rollout(decisions=2, cameras=("left",))
    writer.append(rollout)
    path = payload_of(tmp_path, "e0")
    whole, expected = path.read_bytes(), BankReader(tmp_path).snapshot().rollouts[0]
    steps, sketches = expected.steps, expected.sketches(0, 1)
    rng, found = np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 400, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        (stored,) = BankReader(tmp_path).snapshot().rollouts
        with pytest.raises(BankCorruptionError, match="its checksum is not the one that was written"):
            stored.content()
        try:
            read, tokens = stored.steps, stored.sketches(0, 1)
        except BankCorruptionError as error:
            assert "'e0'" in str(error)
            found += 1
            continue
        for name, array in vars(steps).items():
            np.testing.assert_array_equal(getattr(read, name), array)
        for token, sketch in zip(tokens, sketches, strict=True):
            np.testing.assert_array_equal(token.dequantise(), sketch.dequantise())
    assert found > 100


def test_a_payload_that_is_deleted_after_the_snapshot_is_reported(writer, reader, tmp_path):
    writer.append(make_rollout())
    (stored,) = reader.snapshot().rollouts
    payload_of(tmp_path, "e0").unlink()
    with pytest.raises(BankCorruptionError, match=r"'e0'.*sketches \(1,\)"):
        stored.sketches(1)


# Rollouts of another bank


def test_a_rollout_of_another_bank_is_adopted_unchanged(tmp_path):
    rollouts = [make_rollout("a"), edited(make_rollout("b"), 0, "correction", exploration="noise")]
    for name, rollout in zip("ab", rollouts, strict=True):
        with BankWriter(tmp_path / name, projection=PROJECTION) as writer:
            writer.append(rollout)
    (stored,) = BankReader(tmp_path / "b").snapshot().rollouts
    with BankWriter(tmp_path / "a", projection=PROJECTION) as writer:
        assert writer.adopt(stored) == 2
        with pytest.raises(ValueError, match="'b': episode_id is in the bank already"):
            writer.adopt(stored)
    _, adopted = BankReader(tmp_path / "a").snapshot(verified=True).rollouts
    assert adopted.record == dataclasses.replace(stored.record, revision=2) and adopted.content() == stored.content()
    np.testing.assert_array_equal(adopted.instruction_embedding, stored.instruction_embedding)


def test_a_rollout_that_does_not_fit_is_not_adopted(writer, tmp_path):
    writer.append(make_rollout("a"))
    other = Projection(24, 16, seed=4)
    for name, projection, options, error, message in (
        ("of other sizes", PROJECTION, {"proprio": 5}, ValueError, r"proprio has shape \[5\]; the bank holds \[4\]"),
        ("otherwise projected", other, {"projection": other}, BankProjectionError, "keys cannot be compared here"),
        ("damaged", PROJECTION, {}, BankCorruptionError, "its checksum is not"),
    ):
        with BankWriter(tmp_path / name, projection=projection) as source:
            source.append(make_rollout("x", **options))
        if name == "damaged":
            path = payload_of(tmp_path / name, "x")
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(error, match=message):
            writer.adopt(BankReader(tmp_path / name).snapshot().rollouts[0])
    assert writer.rollouts == 1 and len(list((tmp_path / PAYLOADS).iterdir())) == 1


# Removal


def test_removed_rollouts_are_deleted_from_catalogue_and_disk_for_good(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name in "abc":
            writer.append(dataclasses.replace(make_rollout(name), instruction=f"a secret of {name}"))
        reader = BankReader(tmp_path)
        before, path = reader.snapshot(), payload_of(tmp_path, "b")
        assert writer.remove("b", reason="asked for") == 4 and not path.exists()
        assert "b" not in writer and (writer.rollouts, writer.steps) == (2, 6)
        after = reader.snapshot()
        assert [r.record.id for r in after.rollouts] == ["a", "c"] and after.revision == 4
        assert [r.record.id for r in before.rollouts] == ["a", "b", "c"], "a snapshot stays as it is"
        assert len(after.contents) == 2 and len(before.contents) == 3
        assert b"a secret of b" not in b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
        assert b"a secret of a" in (tmp_path / CATALOGUE).read_bytes()
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert writer.revision == 4 and writer.append(make_rollout("b", seed=9)) == 5
        (row,) = writer._catalogue.execute("SELECT id, task, outcome, decisions, revision, reason FROM forgotten")
    assert row == ("b", "reach", 1, 3, 4, "asked for")
    assert [r.record.id for r in reader.snapshot().rollouts] == [r.id for r in BankReader(tmp_path).rollouts()]
    assert [r.record.id for r in reader.snapshot().rollouts] == ["a", "c", "b"]


def test_removing_an_unknown_rollout_removes_nothing(writer):
    writer.append(make_rollout("a"))
    with pytest.raises(KeyError, match="'x', 'y' not in the bank .*; nothing is removed"):
        writer.remove("a", "x", "y", reason="")
    assert "a" in writer and writer.revision == 1


def test_an_instruction_that_is_added_again_after_removal_gets_its_new_embedding(writer, reader):
    """Identifiers of rows are never reused; otherwise a reader would use the embedding of the removed instruction."""
    eye = np.eye(8, dtype=np.float32)
    for i, name in enumerate("abc"):
        writer.append(make_rollout(name, instruction_embedding=eye[i]))
        stored = reader.snapshot().rollouts[-1]
        np.testing.assert_array_equal(stored.instruction_embedding, eye[i])
        writer.remove(name, reason="")


def test_a_log_that_cannot_be_emptied_is_reported_and_the_rollouts_are_removed(writer, reader, tmp_path):
    """A reader with an open transaction keeps deleted rows in the log."""
    writer.append(dataclasses.replace(make_rollout("a"), instruction="a secret of a"))
    writer._catalogue.execute("PRAGMA busy_timeout = 50")
    path = payload_of(tmp_path, "a")
    with contextlib.closing(sqlite3.connect(tmp_path / CATALOGUE, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM rollout").fetchall()
        with pytest.raises(BankWriteError, match="1 rollouts are removed .* traces of them could not be deleted"):
            writer.remove("a", reason="")
        other.execute("COMMIT")
    assert not path.exists() and reader.snapshot().rollouts == ()
    writer.close()
    BankWriter(tmp_path, projection=PROJECTION).close()
    assert b"a secret of a" not in b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())


def test_a_failed_removal_leaves_the_bank_as_it_was(writer, reader, monkeypatch):
    writer.append(make_rollout("a"))
    pages = writer._catalogue.execute("PRAGMA page_count").fetchone()[0]
    writer._catalogue.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(BankWriteError, match="nothing is removed from .*full"):
        writer.remove("a", reason="because " * 10_000)
    assert "a" in writer and len(reader.snapshot(verified=True).rollouts) == 1
    writer._catalogue.execute("PRAGMA max_page_count = 100000")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(BankWriteError, match="1 rollouts are removed .* the next writer that opens"):
            writer.remove("a", reason="")
    assert "a" not in writer and reader.snapshot().rollouts == ()


def test_a_repaired_payload_is_read_again(writer, tmp_path):
    writer.append(make_rollout("a"))
    writer.append(make_rollout("b"))
    path, reader = payload_of(tmp_path, "b"), BankReader(tmp_path, skip_corrupt=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert reader.snapshot(verified=True).skipped == ("b",) and reader.snapshot().skipped == ("b",)
    path.write_bytes(whole)
    assert [r.record.id for r in reader.snapshot(verified=True).rollouts] == ["a", "b"] and not reader.corrupt
    path.write_bytes(whole[:-1] + b"?")
    assert BankReader(tmp_path, skip_corrupt=True).snapshot(verified=True).skipped == ("b",)


def test_every_flipped_bit_of_a_header_is_reported_as_corruption_or_has_no_effect(writer, tmp_path):
    writer.append(make_rollout(decisions=2, cameras=()))
    path = payload_of(tmp_path, "e0")
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    steps = vars(BankReader(tmp_path).snapshot().rollouts[0].steps)
    for place in range(0, size, 3):
        content = bytearray(whole)
        content[place] ^= 1 << place % 7
        path.write_bytes(content)
        (stored,) = BankReader(tmp_path).snapshot().rollouts
        try:
            read, _ = stored.steps, stored.sketches(0, 1)
        except BankCorruptionError:
            continue
        for name, array in steps.items():
            np.testing.assert_array_equal(getattr(read, name), array)


# Errors of the disk


@pytest.mark.parametrize(
    ("function", "call"), [("write", 1), ("fsync", 1), ("fsync", 2), ("rename", 1), ("open", 1)], ids=str
)
def test_a_full_disk_loses_only_the_failed_append(writer, reader, tmp_path, monkeypatch, function, call):
    writer.append(make_rollout("before"))
    real, calls = getattr(os, function), []

    def refuse(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(BankWriteError, match="'e0' is not stored.*No space left.*append it again"):
            writer.append(make_rollout())
    assert len(list((tmp_path / PAYLOADS).iterdir())) == 1
    assert [stored.record.id for stored in reader.snapshot().rollouts] == ["before"]
    assert writer.append(make_rollout()) == 2
    assert len(reader.snapshot().rollouts) == 2


def test_a_full_catalogue_loses_only_the_failed_append(writer, reader, tmp_path):
    pages = writer._catalogue.execute("PRAGMA page_count").fetchone()[0]
    writer._catalogue.execute(f"PRAGMA max_page_count = {pages}")
    rollout = dataclasses.replace(make_rollout(), instruction="reach " * 10_000)
    with pytest.raises(BankWriteError, match="full"):
        writer.append(rollout)
    assert writer.revision == 0 and reader.snapshot().rollouts == ()
    writer._catalogue.execute("PRAGMA max_page_count = 100000")
    assert writer.append(rollout) == 1
    assert len(reader.snapshot().rollouts) == 1
