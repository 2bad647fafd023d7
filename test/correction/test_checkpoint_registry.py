# SPDX-License-Identifier: MIT
"""The registry: what is in use is whole whatever happens, every switch is logged, and each can be undone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import switcher
from switcher import fill, report

from efn_ros.correction import checkpoint_registry as registry_module
from efn_ros.correction.checkpoint_registry import CURRENT, FILES, ORIGIN, SWITCHES, UNDO, Registry, fingerprint

ROOT = Path(registry_module.__file__).parents[2]
KILLS = 10


@pytest.fixture
def origin(tmp_path):
    (tmp_path / "origin").mkdir()
    fill("origin")(tmp_path / "origin")
    return tmp_path / "origin"


@pytest.fixture
def registry(tmp_path, origin):
    made = Registry(tmp_path / "bank")
    made.begin(origin)
    return made


def add(registry, *, accepted=True, keep=5, **entries):
    return registry.add(fill(f"{len(registry.checkpoints())}"), report(registry, accepted, **entries), keep=keep)


def assert_whole(registry) -> None:
    """The one in use is what was chosen, bit for bit, and the log tells how it came to be."""
    current, switches = registry.current(), registry.switches()
    assert fingerprint(current.path) == current.fingerprint
    assert [entry["serial"] for entry in switches] == list(range(1, len(switches) + 1))
    number = ORIGIN
    for entry in switches:
        assert entry["from"] == number
        number = entry["to"]
    assert number == current.number


def test_learning_begins_with_the_corrector_s_own_checkpoint_as_number_0(registry, origin):
    assert registry.current().number == ORIGIN and registry.current().fingerprint == fingerprint(origin)
    assert registry.switches() == []
    registry.begin(origin)
    assert len(registry.checkpoints()) == 1
    (origin / FILES[1]).write_text("other weights")
    with pytest.raises(ValueError, match="began with checkpoint .* the first one again, or move the directory away"):
        registry.begin(origin)


def test_the_registry_is_empty_before_learning_begins(tmp_path):
    registry = Registry(tmp_path / "bank")
    assert (registry.current(), registry.checkpoints(), registry.switches()) == (None, [], [])
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing|config.json is missing"):
        registry.begin(tmp_path)
    for act in (lambda: registry.switch(1), registry.undo):
        with pytest.raises(ValueError, match="no switch|has no checkpoint yet"):
            act()


def test_a_switch_is_logged_with_who_and_why_and_undone_in_turn(registry):
    add(registry)
    registry.switch(1, why="it looks good")
    add(registry)
    registry.switch(2, who="rule", why="accepted")
    assert registry.current().number == 2
    for expected in (1, 0):
        assert registry.undo(why="it shakes").number == registry.current().number == expected
    with pytest.raises(ValueError, match="no switch .* is left to undo"):
        registry.undo()
    entries = [json.loads(line) for line in (registry.directory / SWITCHES).read_text().splitlines()]
    assert entries == registry.switches()
    logged = [(e["from"], e["to"], e["who"], e["why"]) for e in entries]
    assert logged == [
        (0, 1, "operator", "it looks good"),
        (1, 2, "rule", "accepted"),
        (2, 1, UNDO, "it shakes"),
        (1, 0, UNDO, "it shakes"),
    ]
    assert all(e["when"].endswith("+00:00") and len(e["fingerprint"]) == 16 for e in entries)
    assert_whole(registry)


def test_what_was_in_use_before_can_be_used_again_and_what_was_accepted_against_another_cannot(registry):
    add(registry), add(registry)
    assert [c.number for c in registry.offered()] == [1, 2]
    registry.switch(2)
    assert registry.offered() == []
    with pytest.raises(ValueError, match="checkpoint 1 was accepted against 0, but 2 is in use; switch to 0 first"):
        registry.switch(1)
    registry.switch(0)
    registry.switch(2)
    registry.undo()
    assert registry.current().number == 0 and registry.switch(1).number == 1


@pytest.mark.parametrize(
    "number, message",
    [
        (0, "checkpoint 0 is in use already"),
        (1, "checkpoint 1 was rejected: it shakes; switch to an accepted one"),
        (7, r"has no checkpoint 7; choose one of \[0, 1, 2\]"),
        (2, "checkpoint 2 is .* on disk, but .* was accepted"),
    ],
)
def test_what_cannot_be_used_is_named_and_changes_nothing(registry, number, message):
    add(registry, accepted=False, reason="it shakes")
    (add(registry).path / FILES[1]).write_text("altered")
    with pytest.raises(ValueError, match=message):
        registry.switch(number)
    assert registry.current().number == 0 and registry.switches() == []


def test_one_in_use_that_is_lost_is_named_and_can_be_switched_away_from(registry):
    path = add(registry).path
    registry.switch(1)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(ValueError, match="has no checkpoint 1"):
        registry.current()
    assert registry.undo().number == 0 == registry.current().number


def test_unused_checkpoints_are_retained_in_bounded_number_and_no_number_comes_twice(registry):
    add(registry)
    registry.switch(1)
    numbers = [add(registry, accepted=i % 2 == 0, keep=2).number for i in range(8)]
    assert numbers == list(range(2, 10))
    assert [c.number for c in registry.checkpoints()] == [0, 1, 6, 7, 8, 9]


def test_two_processes_that_write_wait_for_each_other(registry, origin):
    script = f"""
import sys
sys.path.append({str(Path(switcher.__file__).parent)!r})
from switcher import fill, report
from efn_ros.correction.checkpoint_registry import Registry
registry = Registry({str(registry.directory.parent)!r})
for i in range(15):
    registry.add(fill(str(i)), report(registry), keep=99)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    both = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert [c.number for c in registry.checkpoints()] == list(range(31))


def test_killed_at_random_moments_it_is_whole_and_loses_no_switch_that_was_acknowledged(registry):
    bank = registry.directory.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    delays, used = random.Random(0), 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, switcher.__file__, str(bank)], stdout=subprocess.PIPE, text=True, env=environment
        )
        lines = [process.stdout.readline()]
        time.sleep(delays.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        assert_whole(registry)  # before any writer has tidied up
        used += sum(line.startswith("used") for line in lines)
        begun = sum(line.startswith("begun") for line in lines)
        assert used <= len(registry.switches()) <= used + begun
        used = len(registry.switches())
        add(registry, accepted=False)  # the lock is free, and what was half done is swept
        assert_whole(registry)
        assert not [p.name for p in (registry.directory / "checkpoints").iterdir() if p.name.startswith(".")]
        assert (registry.directory / SWITCHES).read_bytes().count(b"\n") == used
    assert used > KILLS


def die(*_, **__):
    os._exit(9)


def die_after(function):
    def dying(*arguments, **options):
        function(*arguments, **options)
        os._exit(9)

    return dying


CRASHES = {
    "before current is replaced": (os, "replace", die, 0),
    "after current is replaced": (os, "replace", die_after(os.replace), 1),
    "before the log is written": (Registry, "_log", die, 1),
    "after the log is written": (Registry, "_log", die_after(Registry._log), 1),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", CRASHES)
def test_a_crash_in_a_switch(registry, moment):
    """... leaves the one before or the one after, and the log is that of the one in use."""
    owner, name, replacement, number = CRASHES[moment]
    add(registry)
    child = os.fork()
    if child == 0:
        setattr(owner, name, replacement)
        try:
            registry.switch(1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert registry.current().number == number and len(registry.switches()) == number
    assert_whole(registry)
    add(registry)
    assert (registry.directory / SWITCHES).exists() == bool(number)
    if number:
        assert registry.undo().number == 0
    else:
        registry.switch(1)
    assert_whole(registry)


def test_a_line_of_the_log_that_was_torn_is_written_anew(registry):
    add(registry)
    registry.switch(1)
    log = registry.directory / SWITCHES
    whole = log.read_bytes()
    log.write_bytes(whole[:20])
    assert [entry["to"] for entry in registry.switches()] == [1]
    add(registry)
    assert log.read_bytes() == whole and json.loads((registry.directory / CURRENT).read_text())["number"] == 1
