# SPDX-License-Identifier: MIT
"""Soft actor-critic with the EFN as the actor, and after a restart."""

from dataclasses import fields, replace

import pytest
import torch
from sample_sac import CONFIG, STATE, A, Ensemble, H, batch, make_sac, same
from torch import nn

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.config import EfnConfig
from efn_ros.experiments.sac.replay import Replay, Transition
from efn_ros.experiments.sac.sac import Sac


class Values(nn.Module):
    """A critic of the EFN's observations, as small as it gets."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * H * A, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, present, recalled, action):
        relative = action / torch.tensor(CONFIG.bound)
        return self.layers(torch.cat([present.base.flatten(1), relative.flatten(1)], 1)).squeeze(-1)


def efn() -> Efn:
    torch.manual_seed(0)
    proprio = {name: (1.0,) * STATE for name in ("proprio_mean", "proprio_std", "motion_std")}
    sizes = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}
    return Efn(
        EfnConfig(horizon=H, action_size=A, latent=(2, 4), sketch=(3, 5), bound=CONFIG.bound, **proprio, **sizes)
    )


def seen(size=32, k=3) -> tuple[Present, Recalled]:
    r = torch.randn
    present = {"latent": r(size, 2, 4), "sketch": r(size, 3, 5), "proprio": r(size, STATE), "base": r(size, H, A)}
    recalled = {name: r(size, k) for name in ("success", "similarity")}
    recalled |= {name: r(size, k, H, A) for name in ("executed", "base", "executed_before")}
    recalled |= {name: r(size, k, STATE) for name in ("proprio", "proprio_next", "proprio_before")}
    recalled |= {"latent": r(size, k, 4), "code": r(size, k, 0), "mask": torch.ones(size, k, dtype=torch.bool)}
    assert set(recalled) == {f.name for f in fields(Recalled)}
    return Present(**present), Recalled(**recalled)


def with_efn(config=CONFIG) -> Sac:
    return Sac(config, efn(), Ensemble(Values() for _ in range(2)), lambda present, recalled: recalled.mask.any(dim=1))


def test_the_efn_learns_the_rewarded_residual():
    """Reward a residual close to a target that differs by dimension; every episode is one decision."""
    config = replace(CONFIG, learning_rate=1e-2, temperature=0.01, target_entropy=None)
    sac, observation, wanted = with_efn(config), seen(64), torch.tensor([0.3, -0.15])
    replay = None
    for _ in range(200):
        action = sac.act(observation)
        reward = -((action - wanted) / torch.tensor(CONFIG.bound)).square().sum((1, 2))
        rows = Transition(observation, action, reward, observation, torch.ones(64, dtype=torch.bool))
        if replay is None:
            replay = Replay(rows, 200 * 64)
        replay.insert(rows)
        sac.warm_start(replay.sample(64))
    for _ in range(150):
        sac.update(replay.sample(64))
    found = sac.act(observation, deterministic=True)
    torch.testing.assert_close(found, sac.actor.residual(*observation).detach())
    assert ((found - wanted).abs().mean((0, 1)) < 0.25 * wanted.abs()).all()


def test_where_nothing_was_recalled_the_residual_is_exactly_zero():
    sac, (present, recalled) = with_efn(), seen()
    recalled.mask[::2] = False
    action = sac.act((present, recalled))
    assert not action[::2].any() and (action[1::2] != 0).all()


# After a restart


def run(sac: Sac, replay: Replay, updates: int) -> list[float]:
    return [float(sum(sac.update(replay.sample(8)).values())) for _ in range(updates)]


@pytest.mark.parametrize("build, rows", [(lambda c: make_sac(c, n=3), batch(40)), (with_efn, None)], ids=["mlp", "efn"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(build, rows, tmp_path):
    if rows is None:
        torch.manual_seed(1)
        rows = replace(batch(40), observation=seen(40), next_observation=seen(40))
    config = replace(CONFIG, actor_every=2, weight_decay=0.01, max_gradient_norm=1.0)
    sac, replay = build(config), Replay(rows, 40)
    replay.insert(rows)
    sac.xi = 0.7
    run(sac, replay, 3)
    sac.save(tmp_path / "sac.safetensors")
    replay.save(tmp_path / "replay.safetensors")
    losses = run(sac, replay, 5)
    torch.manual_seed(9)
    back, again = build(config), Replay(rows, 40, seed=9)
    back.load(tmp_path / "sac.safetensors")
    again.load(tmp_path / "replay.safetensors")
    assert back.xi == 0.7 and back.updates == 3
    assert run(back, again, 5) == losses
    for name, tensor in sac.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def test_the_seed_determines_the_weights():
    states = []
    for seed in (0, 0, 1):
        sac = make_sac(replace(CONFIG, seed=seed))
        for i in range(3):
            sac.update(batch(seed=i))
        states.append([t for name, t in sac.state_dict().items() if name.startswith("actor.")])
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_a_state_dict_is_a_copy():
    sac = make_sac()
    state = sac.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    sac.update(batch())
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path, sac = tmp_path / "sac.safetensors", make_sac()
    sac.save(path)
    with pytest.raises(FileNotFoundError):
        sac.load(tmp_path / "none")
    with pytest.raises(ValueError, match="was made with gamma 0.9, not 0.5"):
        make_sac(replace(CONFIG, gamma=0.5)).load(path)
    other = make_sac(n=3)
    before = other.state_dict()
    with pytest.raises(
        ValueError, match=r"critics.biases.0 is \(2, 1, 16\), not \(3, 1, 16\): build actor and critics"
    ):
        other.load(path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="sac.safetensors is damaged or of another kind"):
        sac.load(path)
