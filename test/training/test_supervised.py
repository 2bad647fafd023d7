# SPDX-License-Identifier: MIT
"""Supervised training: the EFN learns to remove a shift that only memory reveals."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sample_deployments import BOUND, config, deployment

from efn_ros.efn.actor import Efn
from efn_ros.training import supervised
from efn_ros.training.dataset import SampleDataset
from efn_ros.training.supervised import SupervisedTraining, train


def test_a_shift_that_only_memory_reveals_is_learned(tmp_path):
    for seed in range(40):
        deployment(tmp_path / "samples" / f"{seed}.npz", seed)
    SupervisedTraining(config(tmp_path)).fit(range(40), 120, tmp_path / "round_0")
    facts = json.loads((tmp_path / "round_0" / "facts.json").read_text())
    losses = facts["validation"]  # of deployments that were not trained on
    assert losses["volume_8"] < 0.4 * losses["none"]
    assert losses["identification"] < 0.03  # of 12 coordinates only two differ at all, with a variance of a third
    assert facts["deployments"] == 36 and Efn.from_pretrained(tmp_path / "round_0").config.bound == BOUND


# Existing directories


def collecting(jobs):
    """Return a substitute for `collect` that runs no simulation."""

    def collect(job, directory, collector):
        jobs.append(job)
        return [deployment(directory / f"{job.seed}.npz", job.seed)]

    return collect


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"kinds": ("offset",)}, r"kinds \['offset', .*\], not \['offset'\]"),
        ({"tasks": ("push-v3",)}, r"tasks \[\], not \['push-v3'\]"),
        ({"other_cameras": 0}, "other_cameras 2, not 0"),
        ({"graph": "agibot_g1"}, "graph metaworld_sim, not agibot_g1"),
    ],
)
def test_samples_of_other_settings_are_refused_by_name(tmp_path, monkeypatch, other, named):
    jobs = []
    monkeypatch.setattr(supervised, "collect", collecting(jobs))
    monkeypatch.setattr(supervised, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    first = config(tmp_path)
    SupervisedTraining(first).collect(range(4), "")
    SupervisedTraining(first).collect(range(6), "round_0")
    assert sorted(job.seed for job in jobs) == list(range(6)), "existing files are not collected again"
    changed = replace(first, collection=replace(first.collection, **other))
    with pytest.raises(ValueError, match=f"samples was made with {named}; .* name another directory"):
        SupervisedTraining(changed).collect(range(8), "")
    assert len(jobs) == 6


def test_a_round_of_other_settings_is_refused_and_one_of_the_same_settings_is_reused(tmp_path):
    for seed in range(4):
        deployment(tmp_path / "samples" / f"{seed}.npz", seed)
    first = config(tmp_path, deployments=(4,), updates=(2,), first_seed=0)
    assert train(first) == tmp_path / "round_0"
    written = (tmp_path / "round_0" / "model.safetensors").stat().st_mtime_ns
    assert train(replace(first, processes=1)) == tmp_path / "round_0"
    assert (tmp_path / "round_0" / "model.safetensors").stat().st_mtime_ns == written
    for other, named in (({"updates": (3,)}, "updates 2, not 3"), ({"batch_size": 16}, "batch_size 32, not 16")):
        with pytest.raises(ValueError, match=f"round_0 was made with {named}"):
            train(replace(first, **other))


def test_a_finished_round_of_other_settings_is_refused_before_anything_is_collected(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(supervised, "collect", collecting(jobs))
    monkeypatch.setattr(supervised, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    (tmp_path / "round_0").mkdir()
    of_version_0_1 = {"config": {"directory": "run", "batch": 256, "lessons": {}}, "updates": 2}
    (tmp_path / "round_0" / "facts.json").write_text(json.dumps(of_version_0_1))
    with pytest.raises(ValueError, match="round_0 was made with .*; use that value, or name another directory"):
        train(config(tmp_path, deployments=(4,), updates=(2,), first_seed=0))
    assert not jobs and not (tmp_path / "samples").exists()


# Interruption


def test_the_same_seed_gives_the_same_weights(tmp_path):
    for seed in range(4):
        deployment(tmp_path / "samples" / f"{seed}.npz", seed)
    for name in ("a", "b"):
        SupervisedTraining(config(tmp_path)).fit(range(4), 5, tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("killed_at", [1, 3, 5, 8])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, monkeypatch, killed_at):
    for seed in range(4):
        deployment(tmp_path / "samples" / f"{seed}.npz", seed)
    settings = config(tmp_path, dropout=0.3, validate_every=2, trust_updates=4)
    SupervisedTraining(settings).fit(range(4), 6, tmp_path / "whole")
    left, batch = [killed_at], SampleDataset.batch

    def killing(self, *args, **kwargs):
        if len(self) > 24:  # the training samples
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        return batch(self, *args, **kwargs)

    monkeypatch.setattr(SampleDataset, "batch", killing)
    with pytest.raises(KeyboardInterrupt):
        SupervisedTraining(settings).fit(range(4), 6, tmp_path / "killed")
    if killed_at > 2:
        with pytest.raises(ValueError, match="was made with batch_size 32, not 16; use that value, or name another"):
            SupervisedTraining(replace(settings, batch_size=16)).fit(range(4), 6, tmp_path / "killed")
    SupervisedTraining(settings).fit(range(4), 6, tmp_path / "killed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "killed").glob("*.tmp")) and not (tmp_path / "killed" / "efn.safetensors").exists()


def test_a_second_run_completes_the_first_and_each_round_is_driven_by_the_previous_one(tmp_path, monkeypatch):
    """A substitute for the collecting processes records the requests."""
    requested = []

    def collect(training, seeds, checkpoint):
        for seed in seeds:
            if not (tmp_path / "samples" / f"{seed}.npz").exists():
                requested.append((seed, checkpoint))
                deployment(tmp_path / "samples" / f"{seed}.npz", seed)

    monkeypatch.setattr(SupervisedTraining, "collect", collect)
    settings = config(tmp_path, deployments=(3, 2), updates=(2, 2), first_seed=100)
    assert train(settings) == tmp_path / "round_1"
    first = str(tmp_path / "round_0")
    assert requested == [(100, ""), (101, ""), (102, ""), (103, first), (104, first)]
    requested.clear()
    (tmp_path / "round_1" / "facts.json").unlink()  # killed in the second round
    stamp = (tmp_path / "round_0" / "facts.json").stat().st_mtime_ns
    train(settings)
    assert requested == [] and (tmp_path / "round_1" / "facts.json").exists()
    assert (tmp_path / "round_0" / "facts.json").stat().st_mtime_ns == stamp
