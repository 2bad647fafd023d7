# SPDX-License-Identifier: MIT
"""Soft actor-critic on residuals, for any actor and any critics.

An observation is a tuple of tensors, or of dataclasses, dicts and tuples of them, each (B, ...):

    actor(*observation) -> mean, log_std         each (B, ..., A), before tanh
    critics(*observation, action) -> values      (n, B), see `Critics`

For `Efn` it is (`Present`, `Recalled`). An action is a residual, xi * bound * tanh(u). The density is that of tanh(u)
in (-1, 1), so neither units nor xi change the temperature. The paper's critics read the sum of base action and
residual; these read both, the base action in the observation.

Source: arXiv:1812.05905 (SAC), arXiv:2101.05982 (REDQ: subsets of an ensemble), arXiv:2511.00091 (PLD: xi, warm start).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.experiments.sac.config import SacConfig
from efn_ros.experiments.sac.critics import Critics
from efn_ros.experiments.sac.policy import squashed_gaussian, temperature_loss
from efn_ros.experiments.sac.replay import Transition, Tree, tree_map
from efn_ros.training.state import check_settings, read_state, write_state


class Sac:
    """Soft actor-critic. On a CPU the same seed and batches give the same weights, bit for bit.

    Modules keep their device and their mode, train or eval. A module that draws random numbers, such as dropout, uses
    torch's own generator, which is not saved here.
    """

    def __init__(
        self,
        config: SacConfig,
        actor: nn.Module,
        critics: Critics,
        active: Callable[..., Tensor] | None = None,
        proximal_actor: nn.Module | None = None,
    ) -> None:
        """Prepare learning.

        Args:
            config: Settings.
            actor: The policy, as the module describes it.
            critics: Likewise.
            active: `active(*observation)`, bool (B,), False where the residual must be exactly zero, as that of the EFN
                where nothing was recalled; None: active everywhere.
            proximal_actor: An actor that does not change and near which the mean stays; it is not saved here.
        """
        self.config, self.actor, self.critics = config, actor, critics
        self._active, self._proximal_actor = active, proximal_actor
        self.targets = copy.deepcopy(critics).requires_grad_(False)
        device = next(actor.parameters()).device
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature), device=device))
        self._bound = torch.tensor(config.bound, device=device)
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._trained = {
            part: {name: p for name, p in module.named_parameters() if p.requires_grad}
            for part, module in (("actor", actor), ("critics", critics))
        }
        self._optimisers = {
            "actor": _adam(config, config.actor_learning_rate, self._trained["actor"].values(), self.log_temperature),
            "critics": _adam(config, None, self._trained["critics"].values()),
        }
        self._target_weights: list[Tensor] = list(self.targets.parameters())
        self._critic_weights: list[Tensor] = list(critics.parameters())
        self.updates, self.xi = 0, 1.0

    @property
    def xi(self) -> float:
        """Share of the bound that residuals may use, in [0, 1]; see `phase_in`."""
        return self._xi

    @xi.setter
    def xi(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"xi is {value}; it must be in [0, 1]")
        self._xi, self._scale = float(value), value * self._bound

    @property
    def temperature(self) -> Tensor:
        """The entropy's weight alpha, ()."""
        return self.log_temperature.detach().exp()

    @torch.no_grad()
    def act(self, observation: Tree, *, deterministic: bool = False) -> Tensor:
        """Return residuals (B, ..., A) for tensors or arrays: a sample, or that of the mean."""
        observation = self._tensors(observation)
        if deterministic:
            return self._residual(observation, torch.tanh(self.actor(*observation)[0]))
        return self.sample(observation)[0]

    def sample(self, observation: Tree) -> tuple[Tensor, Tensor]:
        """Return residuals (B, ..., A) that carry gradients, and their log-densities (B,)."""
        return self._sample(observation, *self.actor(*observation))

    def _sample(self, observation: Tree, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(mean.shape, generator=self._generator, dtype=mean.dtype, device=mean.device)
        squashed, log_prob = squashed_gaussian(mean, log_std, noise)
        return self._residual(observation, squashed), log_prob

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update the critics and, at every `actor_every`-th call, actor and temperature.

        Args:
            batch: B decisions, tensors or arrays.

        Returns:
            Scalars by name.

        Raises:
            ValueError: An action, reward, done or return has another shape; the message names it.
        """
        batch = self._check(batch)
        scalars = self._update_critics(batch, conservative_weight=0.0)
        if self.updates % self.config.actor_every == 0:
            scalars |= self._update_actor(batch.observation)
        return scalars

    def warm_start(self, batch: Transition) -> dict[str, Tensor]:
        """Update the critics alone, with the conservative loss; arguments and errors are those of `update`."""
        return self._update_critics(self._check(batch), self.config.conservative_weight)

    @torch.no_grad()
    def soft_target(self, batch: Transition) -> Tensor:
        """Return the target of the critics, (B,), with one sample for the expectation.

        Source: equation (11).
        """
        action, log_prob = self.sample(batch.next_observation)
        following = self._min_q(self.targets, batch.next_observation, action) - self.temperature * log_prob
        return batch.reward + self.config.gamma * batch.done.logical_not() * following

    @torch.no_grad()
    def disagreement(self, observation: Tree, action: Tensor) -> Tensor:
        """Return the disagreement of the critics, (B,), for tensors or arrays."""
        return self.critics.disagreement(*self._tensors(observation), self._tensors(action))

    def conservative_loss(self, batch: Transition, values: Tensor) -> Tensor:
        """Return the log of the integral of exp Q over all actions, less Q of the executed action, ().

        It is the mean over the batch, summed over the critics. The policy's part of the integral is at least the known
        return, where the batch has it, so that the values start at the right height.

        Args:
            batch: B decisions, tensors.
            values: Of the executed actions, (n, B).

        Source: arXiv:2303.05479 (Cal-QL).
        """
        count, (size, *shape) = self.config.conservative_actions, batch.action.shape
        observation = tree_map(lambda _, x: x.repeat_interleave(count, dim=0), batch.observation)
        with torch.no_grad():
            policy, log_prob = self.sample(observation)
            uniform = torch.rand((size * count, *shape), generator=self._generator, device=policy.device)
            uniform = self._residual(observation, 2 * uniform - 1)
        of_policy, of_uniform = (
            self.critics(*observation, action).unflatten(-1, (size, count)) for action in (policy, uniform)
        )
        if batch.return_to_go is not None:
            of_policy = of_policy.maximum(batch.return_to_go[:, None])
        weighted = torch.cat(
            [of_policy - log_prob.unflatten(0, (size, count)), of_uniform + math.prod(shape) * math.log(2)], dim=-1
        )
        return (weighted.logsumexp(dim=-1) - math.log(2 * count) - values).mean(dim=1).sum()

    def _update_critics(self, batch: Transition, conservative_weight: float) -> dict[str, Tensor]:
        """Take one optimiser step of the critics, and let their targets follow.

        Source: equation (12).
        """
        target = self.soft_target(batch)
        values = self.critics(*batch.observation, batch.action)
        loss = (values - target).square().mean(dim=1).sum()
        if conservative_weight:
            loss = loss + conservative_weight * self.conservative_loss(batch, values)
        self._step("critics", loss)
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                self._target_weights, self._critic_weights, self.config.polyak
            )
        self.updates += 1
        return {"critic_loss": loss.detach(), "value": values.detach().mean()}

    def _update_actor(self, observation: Tree) -> dict[str, Tensor]:
        """Take one optimiser step of actor and temperature.

        Source: equation (13).
        """
        mean, log_std = self.actor(*observation)
        action, log_prob = self._sample(observation, mean, log_std)
        value, temperature = self._min_q(self.critics, observation, action), self.temperature
        loss = (temperature * log_prob - value).mean()
        if self._proximal_actor and self.config.proximal_weight:
            with torch.no_grad():
                proximal_mean, _ = self._proximal_actor(*observation)
            distance = F.mse_loss(torch.tanh(mean), torch.tanh(proximal_mean))
            loss = loss + self.config.proximal_weight * distance
        entropy = -log_prob.detach().mean()
        target, tuned = self.config.target_entropy, 0.0
        if target is not None:
            tuned = temperature_loss(self.log_temperature, entropy, target * action[0].numel())
        self._step("actor", loss + tuned, self.log_temperature)
        return {"actor_loss": loss.detach(), "entropy": entropy, "temperature": temperature}

    def _step(self, part: str, loss: Tensor, *unclipped: nn.Parameter) -> None:
        parameters, optimiser = self._trained[part].values(), self._optimisers[part]
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=[*parameters, *unclipped])  # the loss of the actor needs no gradient of the critics
        if self.config.max_gradient_norm:
            nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        optimiser.step()

    def _min_q(self, critics: Critics, observation: Tree, action: Tensor) -> Tensor:
        """Minimum over a subset of the critics, (B,)."""
        members = None
        if critics.n > self.config.subset:
            members = torch.randperm(critics.n, generator=self._generator, device=action.device)[: self.config.subset]
        return critics(*observation, action, members=members).min(dim=0).values

    def _residual(self, observation: Tree, squashed: Tensor) -> Tensor:
        action = self._scale * squashed
        if self._active is None:
            return action
        return action * self._active(*observation).view(-1, *(1,) * (action.ndim - 1))

    def _tensors(self, tree: Tree) -> Tree:
        return tree_map(lambda _, x: torch.as_tensor(x, device=self._bound.device), tree)

    def _check(self, batch: Transition) -> Transition:
        batch = self._tensors(batch)
        size = len(batch.action)
        if batch.action.shape[-1] != len(self.config.bound):
            raise ValueError(f"action has {batch.action.shape[-1]} dimensions; bound has {len(self.config.bound)}")
        for name in ("reward", "done", "return_to_go"):  # (B, 1) would broadcast to (B, B)
            value = getattr(batch, name)
            if value is not None and value.shape != (size,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}; the batch needs ({size},)")
        return batch

    # The state of a run

    def _state(self) -> dict[str, Tensor]:
        """All tensors that learning changes, by name, not copied."""
        modules = {"actor": self.actor, "critics": self.critics, "targets": self.targets}
        state = {f"{part}.{name}": t for part, m in modules.items() for name, t in m.state_dict().items()}
        for part, optimiser in self._optimisers.items():
            temperature = {"log_temperature": self.log_temperature} if part == "actor" else {}
            for name, parameter in (self._trained[part] | temperature).items():
                moments = optimiser.state[parameter].items()
                state |= {f"{part}_optimiser.{name}.{moment}": tensor for moment, tensor in moments}
        return state | {"log_temperature": self.log_temperature.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of weights, optimiser moments, temperature, xi, number of updates and generator state."""
        state = {name: tensor.detach().clone() for name, tensor in self._state().items()}
        state |= {"xi": torch.tensor(self.xi, dtype=torch.float64), "updates": torch.tensor(self.updates)}
        return state | {"generator": self._generator.get_state()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state.

        Raises:
            ValueError: A tensor is missing, additional or of another shape; the message names it, and nothing changes.
        """
        own = self.state_dict()
        for name in sorted({*own, *state}):
            expected, found = (tuple(d[name].shape) if name in d else None for d in (own, state))
            if expected != found:
                raise ValueError(f"{name} is {found}, not {expected}: build actor and critics as they were saved")
        for name, tensor in self._state().items():
            tensor.copy_(state[name])
        self.xi, self.updates = state["xi"].item(), int(state["updates"])
        self._generator.set_state(state["generator"].cpu())

    def save(self, path: str | Path) -> None:
        """Write state and settings to one safetensors file, which appears whole or not at all."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}
        write_state(Path(path), arrays, {"config": asdict(self.config)})

    def load(self, path: str | Path) -> None:
        """Restore a state from a file.

        Raises:
            FileNotFoundError: There is no file.
            ValueError: It is damaged, does not fit, or was saved with other settings.
        """
        arrays, facts = read_state(Path(path))
        check_settings(path, facts.get("config", {}), asdict(self.config))
        self.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def _adam(
    config: SacConfig, rate: float | None, parameters: Iterable[nn.Parameter], *undecayed: nn.Parameter
) -> torch.optim.AdamW:
    first = {"params": list(parameters), "lr": rate or config.learning_rate}
    groups = [first, *({"params": [p], "weight_decay": 0.0} for p in undecayed)]
    optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    for parameter in (*parameters, *undecayed):  # Adam would do so at its first step; a state always needs them
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimiser
