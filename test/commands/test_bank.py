# SPDX-License-Identifier: MIT
"""./efn bank: its tables and JSON, and its errors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.format.catalogue import PAYLOADS
from efn_ros.commands.demo import SEED_BANKS
from efn_ros.commands.main import main
from efn_ros.types import Mode


@pytest.fixture
def bank(tmp_path):
    """Two rollouts: one in shadow, one that was corrected by it."""
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name, change in (
            ("first", {"mode": Mode.SHADOW, "proposed": np.full((4, 3), 0.125, np.float32)}),
            ("second", {"rollout_id": "first", "rollout_step": 1, "exploration": "noise"}),
        ):
            made = make_rollout(name)
            steps = [dataclasses.replace(s, correction=dataclasses.replace(s.correction, **change)) for s in made.steps]
            writer.append(dataclasses.replace(made, steps=tuple(steps)))
    return tmp_path


def test_stats_are_tables_of_contents_exploration_and_credited_rollouts(bank, capsys):
    assert main(["bank", "stats", str(bank)]) == 0
    text = capsys.readouterr().out
    for row in ("| reach, success |        2 |         6 |", "| noise |         3 |", "| first   | reach | success |"):
        assert row in text


def test_a_shadow_is_a_table_with_a_column_for_each_dimension(bank, capsys):
    assert main(["bank", "shadow", str(bank)]) == 0
    text = capsys.readouterr().out
    assert "|    100 % |" in text and text.count("0.125 / 0.125") == 6


@pytest.mark.parametrize("action", ["stats", "shadow"])
def test_json_holds_the_rows_of_the_tables(bank, capsys, action):
    assert main(["bank", action, str(bank), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["credited"] if action == "stats" else found
    assert rows[0]["corrections" if action == "stats" else "decisions"] == 3


def test_for_a_bank_without_shadow_the_parameter_is_named(tmp_path, capsys):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(make_rollout())
    assert main(["bank", "shadow", str(tmp_path)]) == 1
    assert "set shadow: true of efn_corrector" in capsys.readouterr().err


def test_a_shadow_without_a_proposal_has_no_sizes(tmp_path, capsys):
    made = make_rollout(decisions=1)
    correction = dataclasses.replace(made.steps[0].correction, mode=Mode.SHADOW)
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(dataclasses.replace(made, steps=(dataclasses.replace(made.steps[0], correction=correction),)))
    assert main(["bank", "shadow", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "|      0 % |" in text and "Residual proposed" not in text


def test_a_missing_bank_is_refused_and_not_created(tmp_path, capsys):
    assert main(["bank", "stats", str(tmp_path / "none")]) == 2
    assert "there is no bank in" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_corrupt_rollout_is_named_and_left_out(bank, capsys):
    record = BankReader(bank).rollouts()[1]
    (bank / PAYLOADS / record.payload).unlink()
    assert main(["bank", "stats", str(bank)]) == 0
    out, err = capsys.readouterr()
    assert "rollout 'second' is corrupt" in err and "| all            |        1 |" in out


# List, show, verify, forget, merge


def run(capsys, *words):
    code = main(["bank", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_ls_lists_the_rollouts_that_match(bank, capsys):
    code, out, _ = run(capsys, "ls", bank)
    assert code == 0 and "first" in out and "second" in out and "2 rollouts, 6 decisions" in out
    assert "1 rollouts, 3 decisions" in run(capsys, "ls", bank, "--where", "explored=noise", "outcome=success")[1]
    (record,) = json.loads(run(capsys, "ls", bank, "--where", "id=f*", "--json")[1])
    assert (record["id"], record["outcome"], record["began"]) == ("first", "success", "1970-01-01T00:00:00")
    code, _, err = run(capsys, "ls", bank, "--where", "colour=red")
    assert code == 2 and "names 'colour'" in err


def test_show_draws_a_contact_sheet(bank, capsys, tmp_path):
    sheet = tmp_path / "sheets" / "first.png"
    code, out, _ = run(capsys, "show", bank, "first", "--output", sheet)
    assert code == 0 and f"contact sheet: {sheet}" in out and sheet.read_bytes().startswith(b"\x89PNG")
    shown = json.loads(run(capsys, "show", bank, "first", "--output", sheet, "--json")[1])
    assert (shown["id"], shown["contact_sheet"]) == ("first", str(sheet))
    code, _, err = run(capsys, "show", bank, "third")
    assert code == 2 and "rollout 'third' is not in" in err


def test_verify_names_what_is_damaged_and_fails(bank, capsys):
    assert run(capsys, "verify", bank)[:2] == (0, "2 rollouts read, nothing damaged\n")
    path = bank / PAYLOADS / BankReader(bank).rollouts()[0].payload
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    code, out, _ = run(capsys, "verify", bank)
    assert code == 1 and f"{path}: rollout 'first': its checksum" in out and "1 damaged" in out
    (finding,) = json.loads(run(capsys, "verify", bank, "--json")[1])["findings"]
    assert finding["rollout"] == "first"


def test_forget_lists_rollouts_and_removes_them_with_yes(bank, capsys):
    assert run(capsys, "forget", bank)[0] == 2
    code, out, _ = run(capsys, "forget", bank, "--where", "id=first")
    assert code == 0 and "1 rollouts would be removed" in out and len(BankReader(bank).rollouts()) == 2
    assert "1 rollouts are removed" in run(capsys, "forget", bank, "--where", "id=first", "--yes")[1]
    assert [r.id for r in BankReader(bank).rollouts()] == ["second"]
    result = json.loads(run(capsys, "forget", bank, "--where", "id=nobody", "--yes", "--json")[1])
    assert result == {"removed": [], "matching": []}


def test_no_rollout_is_removed_from_a_bank_with_a_writer(bank, capsys):
    with BankWriter(bank, projection=PROJECTION):
        code, _, err = run(capsys, "forget", bank, "--where", "id=first", "--yes")
    assert code == 2 and "has a writer already" in err and len(BankReader(bank).rollouts()) == 2


def test_merge_adds_the_missing_rollouts(bank, capsys, tmp_path):
    target = tmp_path / "all"
    other = tmp_path / "other"
    with BankWriter(other, projection=PROJECTION) as writer:
        writer.append(make_rollout("third"))
    assert "3 rollouts are added to" in run(capsys, "merge", target, bank, other)[1]
    result = json.loads(run(capsys, "merge", target, other, "--json")[1])
    assert result == {"added": [], "already_present": ["third"], "removed": [], "different": []}
    assert [r.id for r in BankReader(target).rollouts()] == ["first", "second", "third"]
    assert run(capsys, "verify", target)[0] == 0
    run(capsys, "forget", target, "--where", "id=third", "--yes")
    assert "1 were removed from it before; --include-removed adds them" in run(capsys, "merge", target, other)[1]
    assert json.loads(run(capsys, "merge", target, other, "--include-removed", "--json")[1])["added"] == ["third"]
    with BankWriter(tmp_path / "different", projection=PROJECTION) as writer:
        writer.append(make_rollout("third", seed=9))
        writer.append(make_rollout("fourth"))
    code, out, _ = run(capsys, "merge", target, tmp_path / "different")
    assert code == 1 and "1 rollouts are added" in out and "the bank has others of these names: third" in out
    code, _, err = run(capsys, "merge", target, tmp_path / "nothing")
    assert code == 2 and "there is no bank in" in err


def test_rebuild_and_migrate(bank, capsys):
    (bank / "catalogue.sqlite").unlink()
    assert run(capsys, "ls", bank)[0] == 2
    assert "2 rollouts are in the new catalogue, nothing damaged" in run(capsys, "rebuild", bank)[1]
    assert "has the present format already" in run(capsys, "migrate", bank)[1]
    assert json.loads(run(capsys, "migrate", bank, "--json")[1]) == {"migrated": 0, "left_behind": []}


def test_plot_draws_the_rollouts_that_match(bank, capsys, tmp_path):
    figure = tmp_path / "figures" / "bank.png"
    assert run(capsys, "plot", bank, "--output", figure)[1] == f"figure: {figure}\n"
    assert figure.read_bytes().startswith(b"\x89PNG")
    result = json.loads(run(capsys, "plot", bank, "--where", "id=first", "--output", figure, "--json")[1])
    assert result == {"rollouts": 1, "figure": str(figure)}
    code, _, err = run(capsys, "plot", bank, "--where", "id=nobody")
    assert code == 2 and "holds no rollout" in err


def test_an_exported_bank_is_imported_with_the_packaged_policy(capsys, tmp_path):
    seed = tmp_path / "seed"
    shutil.copytree(SEED_BANKS / "actuation", seed)
    where = ["--where", "id=seed-2,seed-3"]
    result = json.loads(run(capsys, "export", seed, tmp_path / "dataset", *where, "--json")[1])
    assert (result["episodes"], result["frames"]) == (2, 50)
    words = ["import", tmp_path / "bank", tmp_path / "dataset", "--prefix", "again", "--json"]
    assert json.loads(run(capsys, *words)[1]) == {"added": ["again-0", "again-1"], "already_present": []}
    assert json.loads(run(capsys, *words)[1])["already_present"] == ["again-0", "again-1"]
    before = [r for r in BankReader(seed).snapshot().rollouts if r.record.id in ("seed-2", "seed-3")]
    after = BankReader(tmp_path / "bank").snapshot(verified=True).rollouts
    for old, new in zip(before, after, strict=True):
        assert (new.record.policy, new.record.outcome) == (old.record.policy, old.record.outcome)
        np.testing.assert_array_equal(new.arrays.executed, old.arrays.executed)
        cosine = (new.steps.key * old.steps.key.astype(int)).sum(axis=1) * new.steps.key_norm * old.steps.key_norm
        assert (cosine > 0.98).all(), "images pass through JPEG twice"
    code, _, err = run(capsys, *words[:-1], "--camera", "left")
    assert code == 2 and "--camera 'left' is no pair" in err


# Import of a rosbag2

BEGIN, MS = 1_700_000_000 * 10**9, 10**6
TELEOPERATED = ["--state", "/state", "--action", "/action", "--rate", "5", "--instruction", "push the puck"]
CAMERAS = ["--camera", "left=/top", "right=/wrist"]


@pytest.fixture
def teleoperated(tmp_path):
    """One second of teleoperation of a robot with four joints and two cameras."""
    bags = pytest.importorskip("sample_bags", reason="no ROS 2 here")
    messages = []
    for t in range(0, 1001, 50):
        stamp = BEGIN + t * MS
        messages += [("/state", bags.joints(stamp, 0.0, 0.1, 0.2, t / 1000, names=("x", "y", "z", "gripper")), stamp)]
        messages += [(topic, bags.picture(stamp, 90, (120, 160)), stamp + MS) for topic in ("/top", "/wrist")]
        messages += [("/action", bags.numbers(t / 1000, 0.0, 0.0, 1.0), stamp + 2 * MS)]
    return bags.write_bag(tmp_path / "monday", messages)


def test_a_teleoperated_robot_is_imported_with_the_packaged_policy(capsys, teleoperated, tmp_path):
    words = ["import", tmp_path / "bank", teleoperated, *TELEOPERATED, *CAMERAS, "--json"]
    words += ["--task", "push", "--outcome", "success"]
    assert json.loads(run(capsys, *words)[1]) == {"added": ["monday-0"], "already_present": []}
    assert json.loads(run(capsys, *words)[1]) == {"added": [], "already_present": ["monday-0"]}
    (rollout,) = BankReader(tmp_path / "bank").snapshot(verified=True).rollouts
    record, arrays = rollout.record, rollout.arrays
    assert (record.task, record.instruction, record.outcome.name) == ("push", "push the puck", "SUCCESS")
    assert (record.start_ns, record.decisions) == (BEGIN + 2 * MS, 6), "from the first message of the last topic on"
    np.testing.assert_array_equal(arrays.stamps_ns, BEGIN + 2 * MS + np.arange(6) * 200 * MS)
    np.testing.assert_allclose(arrays.proprio[:, 3], np.arange(6) / 5, atol=1e-6)
    np.testing.assert_allclose(arrays.executed[:, 0, 0], np.arange(6) / 5, atol=1e-6)
    np.testing.assert_allclose(arrays.executed[-1, :, 0], 1.0)
    assert BankReader(tmp_path / "bank").image("monday-0", 0, "right").shape == (96, 96, 3)


def test_the_state_is_of_the_joints_that_camera_ingest_names(capsys, teleoperated, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("/efn/camera_ingest: {ros__parameters: {joints: [gripper, x, y, z]}}")
    words = [teleoperated, *TELEOPERATED, *CAMERAS, "--params-file", overlay]
    assert run(capsys, "import", tmp_path / "bank", *words)[0] == 0
    (rollout,) = BankReader(tmp_path / "bank").snapshot().rollouts
    np.testing.assert_allclose(rollout.arrays.proprio[:, 0], np.arange(6) / 5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (CAMERAS, "is a bag of a teleoperated robot; add --state"),
        (TELEOPERATED, "is a bag of a teleoperated robot; add --camera"),
        (
            [*TELEOPERATED, "--camera", "left=/top"],
            "the dataset has no camera 'right', only /top; map",
        ),
        (
            [*TELEOPERATED, "--camera", "left=/top", "right=/left"],
            "holds no message of topic '/left', only /state, ",
        ),
        (
            [*TELEOPERATED, *CAMERAS, "--state", "/top"],
            "/top is of type sensor_msgs/msg/Image; only sensor_msgs/msg/Joint",
        ),
        ([*TELEOPERATED, *CAMERAS, "--max-gap", "0.01"], "is silent for 0.0"),
        ([*TELEOPERATED, *CAMERAS, "--state", "/action", "--action", "/state", "--rate", "-5"], "the rate is -5.0"),
    ],
)
def test_a_bag_with_missing_options_is_refused(capsys, teleoperated, tmp_path, words, message):
    code, _, err = run(capsys, "import", tmp_path / "bank", teleoperated, *words)
    assert code == 2 and message in err and not BankReader(tmp_path / "bank").rollouts()


def test_a_recorded_graph_takes_no_options(capsys, tmp_path):
    bags = pytest.importorskip("sample_bags", reason="no ROS 2 here")
    path = bags.write_bag(tmp_path / "bag", bags.at(bags.of_graph(make_rollout("a"))[:-2]))
    code, out, err = run(capsys, "import", tmp_path / "bank", path, "--json")
    assert code == 0 and json.loads(out) == {"added": [], "already_present": []}
    assert "efn bank: episode a is left out: its end was missed" in err
    for words in (["--rate", "5"], CAMERAS, ["--prefix", "x"], ["--task", "x"], ["--outcome", "success"]):
        code, _, err = run(capsys, "import", tmp_path / "bank", path, *words)
        assert code == 2 and f"is a bag of the graph itself; leave out {words[0]}" in err


def test_another_file_is_refused_with_the_expected_kinds(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    for source in (tmp_path / "notes.txt", tmp_path, tmp_path / "nothing.mcap"):
        code, _, err = run(capsys, "import", tmp_path / "bank", source)
        assert code == 2 and f"{source} is no recording: neither a LeRobotDataset, with meta/info.json, nor a" in err
        assert not (tmp_path / "bank").exists()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{}")
    code, _, err = run(capsys, "import", tmp_path / "bank", tmp_path, "--state", "/state")
    assert code == 2 and "is a LeRobotDataset; leave out --state" in err


@pytest.mark.parametrize("action", ["ls", "stats"])
def test_output_without_a_reader_ends_quietly(bank, action):
    read, write = os.pipe()
    os.close(read)  # as `head` does when it has enough
    words = [sys.executable, "-m", "efn_ros.commands.main", "bank", action, str(bank)]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
