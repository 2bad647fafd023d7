"""Soft actor-critic for residuals, equations (10)-(13): any actor and any critics, in one file.

An observation is a tuple of tensors, or of dataclasses, dicts and tuples of them, each (B, ...):
    actor(*observation) -> mean, log_std                   each (B, ..., A), before tanh
    critics(*observation, action, members=None) -> values  (n, B), or those of the critics whose indices are given
    critics.n                                              how many there are
So (`Present`, `Recalled`) serves `Efn`, and (state, base action) an MLP. Actions are residuals: xi bound tanh(u).
Densities are those of tanh(u) in (-1, 1), so that neither units nor xi move the temperature.

Sources: Haarnoja et al. (arXiv:1812.05905); subsets of an ensemble: Chen et al. (REDQ, arXiv:2101.05982); the
conservative warm start: Nakamoto et al. (Cal-QL, arXiv:2303.05479); xi, warm start: PLD (arXiv:2511.00091).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.efn.actor import LOG_STD_RANGE
from efn_ros.experiments.sac.replay import Transition, Tree, tree_map
from efn_ros.training.state import check_settings, read_state, write_state


@dataclass(frozen=True)
class SacConfig:
    """Appendix B's values, where it has some. Raises ValueError, naming the field, outside of what each can be.

    bound: (A,) largest residual, in the action's units. gamma: discount of a decision. polyak: share of the critics in
    their targets at each update. actor_learning_rate: None is `learning_rate`, which the temperature keeps.
    temperature: alpha at the start. target_entropy: nats for each degree of freedom of an action, None to leave alpha
    as it is; appendix B's quarter, with the sign of Haarnoja et al. subset: how many critics, drawn anew, the least is
    taken of. actor_every: updates of the critics for one of the actor. clip: largest norm of a gradient, 0 for none.
    anchor: weight of the mean squared distance, as shares of the bound, from what another actor says, where `Sac` has
    one. conservative: weight of Cal-QL's term in `warm_start`, with so many actions drawn at random and so many of the
    policy.
    """

    bound: tuple[float, ...]
    gamma: float = 0.98
    polyak: float = 0.005
    learning_rate: float = 3e-4
    actor_learning_rate: float | None = None
    weight_decay: float = 0.0
    temperature: float = 1.0
    target_entropy: float | None = -0.25
    subset: int = 2
    actor_every: int = 1
    clip: float = 0.0
    anchor: float = 0.0
    conservative: float = 0.0
    conservative_actions: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", tuple(self.bound))
        least = {"subset": 1, "actor_every": 1, "conservative_actions": 1, "weight_decay": 0, "clip": 0}
        for name, low in (least | {"conservative": 0, "anchor": 0}).items():
            if not low <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and at least {low}")
        most = {"gamma": 1, "polyak": 1, "learning_rate": math.inf, "temperature": math.inf}
        if self.actor_learning_rate is not None:
            most["actor_learning_rate"] = math.inf
        for name, high in most.items():
            if not 0 < getattr(self, name) <= high or math.isinf(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and at most {high}")
        if not self.bound or not all(0 <= b < math.inf for b in self.bound):
            raise ValueError(f"bound is {self.bound}; each dimension of an action needs one, finite and at least 0")


class Sac:
    """The learner: the same seed and the same batches give the same weights on a CPU, bit for bit.

    Modules keep their device and their mode, train or eval; one that draws (dropout) does so from torch's own
    generator, which is not saved here.
    """

    def __init__(
        self,
        config: SacConfig,
        actor: nn.Module,
        critics: nn.Module,
        active: Callable[..., Tensor] | None = None,
        anchor: nn.Module | None = None,
    ) -> None:
        """active: `active(*observation)`, bool (B,), False where the residual is to be exactly zero, such as that of
        the EFN where nothing was recalled. anchor: an actor that never changes and is not saved here."""
        self.config, self.actor, self.critics, self._active, self._anchor = config, actor, critics, active, anchor
        self.targets = copy.deepcopy(critics).requires_grad_(False)
        device = next(actor.parameters()).device
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature), device=device))
        self._bound = torch.tensor(config.bound, device=device)
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._learnt = {
            part: {name: p for name, p in module.named_parameters() if p.requires_grad}
            for part, module in (("actor", actor), ("critics", critics))
        }
        self._optimisers = {
            "actor": _adam(config, config.actor_learning_rate, self._learnt["actor"].values(), self.log_temperature),
            "critics": _adam(config, None, self._learnt["critics"].values()),
        }
        self._averaged = list(self.targets.parameters()), list(critics.parameters())
        self.updates, self.xi = 0, 1.0

    @property
    def xi(self) -> float:
        """Share of the bound that residuals may use, in [0, 1]; to be raised as learning goes on (`phase_in`)."""
        return self._xi

    @xi.setter
    def xi(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"xi is {value}; it must be in [0, 1]")
        self._xi, self._reach = float(value), value * self._bound

    @property
    def temperature(self) -> Tensor:
        """alpha, ()."""
        return self.log_temperature.detach().exp()

    @torch.no_grad()
    def act(self, observation: Tree, *, deterministic: bool = False) -> Tensor:
        """Residuals (B, ..., A) for tensors or arrays: drawn, or that of the mean."""
        observation = self._tensors(observation)
        if deterministic:
            return self._bounded(observation, torch.tanh(self.actor(*observation)[0]))
        return self.propose(observation)[0]

    def propose(self, observation: Tree) -> tuple[Tensor, Tensor]:
        """Residuals (B, ..., A) that carry gradients, and their log-densities (B,)."""
        return self._drawn(observation, *self.actor(*observation))

    def _drawn(self, observation: Tree, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(mean.shape, generator=self._generator, dtype=mean.dtype, device=mean.device)
        squashed, log_prob = squashed_gaussian(mean, log_std, noise)
        return self._bounded(observation, squashed), log_prob

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """One update of the critics and, every `actor_every` of them, one of actor and temperature; scalars by name.

        Raises ValueError, naming it, for an action, reward, done or return of another shape.
        """
        batch = self._checked(batch)
        measured = self._learn_critics(batch, conservative=0.0)
        if self.updates % self.config.actor_every == 0:
            measured |= self._learn_actor(batch.observation)
        return measured

    def warm_start(self, batch: Transition) -> dict[str, Tensor]:
        """One update of the critics alone, with the conservative term; raises as `update` does."""
        return self._learn_critics(self._checked(batch), self.config.conservative)

    @torch.no_grad()
    def soft_target(self, batch: Transition) -> Tensor:
        """y of equation (11), (B,), one drawn action for its expectation; the batch holds tensors."""
        action, log_prob = self.propose(batch.next_observation)
        following = self._least(self.targets, batch.next_observation, action) - self.temperature * log_prob
        return batch.reward + self.config.gamma * batch.done.logical_not() * following

    @torch.no_grad()
    def disagreement(self, observation: Tree, action: Tensor) -> Tensor:
        """Standard deviation over all critics, (B,), in units of the return: high where they have seen little."""
        return self.critics(*self._tensors(observation), self._tensors(action)).std(dim=0, correction=0)

    def conservatism(self, batch: Transition, values: Tensor) -> Tensor:
        """Cal-QL's term, (): log of the integral of exp Q over all actions, less Q of what was done, mean over the
        batch, sum over critics. values: (n, B) of what was done. The policy's part of the integral counts no less than
        the return that is known, where the batch has it, so that critics start at the right height.
        """
        count, (size, *shape) = self.config.conservative_actions, batch.action.shape
        observation = tree_map(lambda _, x: x.repeat_interleave(count, dim=0), batch.observation)
        with torch.no_grad():
            policy, log_prob = self.propose(observation)
            evenly = torch.rand((size * count, *shape), generator=self._generator, device=policy.device)
            evenly = self._bounded(observation, 2 * evenly - 1)
        of_policy, of_evenly = (
            self.critics(*observation, action).unflatten(-1, (size, count)) for action in (policy, evenly)
        )
        if batch.return_to_go is not None:
            of_policy = of_policy.maximum(batch.return_to_go[:, None])
        weighted = torch.cat(
            [of_policy - log_prob.unflatten(0, (size, count)), of_evenly + math.prod(shape) * math.log(2)], dim=-1
        )
        return (weighted.logsumexp(dim=-1) - math.log(2 * count) - values).mean(dim=1).sum()

    def _learn_critics(self, batch: Transition, conservative: float) -> dict[str, Tensor]:
        target = self.soft_target(batch)
        values = self.critics(*batch.observation, batch.action)
        loss = (values - target).square().mean(dim=1).sum()  # (12)
        if conservative:
            loss = loss + conservative * self.conservatism(batch, values)
        self._descend("critics", loss)
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged, self.config.polyak)
        self.updates += 1
        return {"critic_loss": loss.detach(), "value": values.detach().mean()}

    def _learn_actor(self, observation: Tree) -> dict[str, Tensor]:
        mean, log_std = self.actor(*observation)
        action, log_prob = self._drawn(observation, mean, log_std)
        value, temperature = self._least(self.critics, observation, action), self.temperature
        loss = (temperature * log_prob - value).mean()  # (13)
        if self._anchor and self.config.anchor:
            with torch.no_grad():
                held, _ = self._anchor(*observation)
            loss = loss + self.config.anchor * F.mse_loss(torch.tanh(mean), torch.tanh(held))
        entropy = -log_prob.detach().mean()
        target, tuned = self.config.target_entropy, 0.0
        if target is not None:
            tuned = temperature_loss(self.log_temperature, entropy, target * action[0].numel())
        self._descend("actor", loss + tuned, self.log_temperature)
        return {"actor_loss": loss.detach(), "entropy": entropy, "temperature": temperature}

    def _descend(self, part: str, loss: Tensor, *beside: nn.Parameter) -> None:
        parameters, optimiser = self._learnt[part].values(), self._optimisers[part]
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=[*parameters, *beside])  # of the others none is needed
        if self.config.clip:
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
        optimiser.step()

    def _least(self, critics: nn.Module, observation: Tree, action: Tensor) -> Tensor:
        """Clipped double Q over the subset, (B,)."""
        members = None
        if critics.n > self.config.subset:
            members = torch.randperm(critics.n, generator=self._generator, device=action.device)[: self.config.subset]
        return critics(*observation, action, members=members).min(dim=0).values

    def _bounded(self, observation: Tree, squashed: Tensor) -> Tensor:
        action = self._reach * squashed
        if self._active is None:
            return action
        return action * self._active(*observation).view(-1, *(1,) * (action.ndim - 1))

    def _tensors(self, tree: Tree) -> Tree:
        return tree_map(lambda _, x: torch.as_tensor(x, device=self._bound.device), tree)

    def _checked(self, batch: Transition) -> Transition:
        batch = self._tensors(batch)
        size = len(batch.action)
        if batch.action.shape[-1] != len(self.config.bound):
            raise ValueError(f"action has {batch.action.shape[-1]} dimensions; bound has {len(self.config.bound)}")
        for name in ("reward", "done", "return_to_go"):  # (B, 1) would broadcast to (B, B)
            found = getattr(batch, name)
            if found is not None and found.shape != (size,):
                raise ValueError(f"{name} has shape {tuple(found.shape)}; the batch needs ({size},)")
        return batch

    # What is kept

    def _state(self) -> dict[str, Tensor]:
        """All tensors that learning changes, by name; the live ones."""
        modules = {"actor": self.actor, "critics": self.critics, "targets": self.targets}
        state = {f"{part}.{name}": t for part, m in modules.items() for name, t in m.state_dict().items()}
        for part, optimiser in self._optimisers.items():
            learnt = {"log_temperature": self.log_temperature} if part == "actor" else {}
            for name, parameter in (self._learnt[part] | learnt).items():
                moments = optimiser.state[parameter].items()
                state |= {f"{part}_optimiser.{name}.{moment}": tensor for moment, tensor in moments}
        return state | {"log_temperature": self.log_temperature.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, moments of the optimisers, temperature, xi, number of updates and state of the draw, copied."""
        state = {name: tensor.detach().clone() for name, tensor in self._state().items()}
        state |= {"xi": torch.tensor(self.xi, dtype=torch.float64), "updates": torch.tensor(self.updates)}
        return state | {"generator": self._generator.get_state()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`. Raises ValueError, naming it, for a tensor that is missing, too many or of another shape;
        nothing has changed then."""
        own = self.state_dict()
        for name in sorted({*own, *state}):
            wanted, found = (tuple(d[name].shape) if name in d else None for d in (own, state))
            if wanted != found:
                raise ValueError(f"{name} is {found}, not {wanted}: build actor and critics as they were saved")
        for name, tensor in self._state().items():
            tensor.copy_(state[name])
        self.xi, self.updates = state["xi"].item(), int(state["updates"])
        self._generator.set_state(state["generator"].cpu())

    def save(self, path: str | Path) -> None:
        """State and configuration as one safetensors file, which appears as a whole or not at all."""
        write_state(
            Path(path), {n: t.cpu().numpy() for n, t in self.state_dict().items()}, {"config": asdict(self.config)}
        )

    def load(self, path: str | Path) -> None:
        """Go on as if never stopped. Raises FileNotFoundError, and ValueError for a file that is damaged, that was
        saved with another configuration or that does not fit."""
        arrays, facts = read_state(Path(path))
        check_settings(path, facts.get("config", {}), asdict(self.config))
        self.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(u) of u = mean + std noise, and its log-density: all (B, ...), the density (B,).

    Stable for any u: log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)).
    """
    u = torch.addcmul(mean, log_std.exp(), noise)
    density = 2 * (u + F.softplus(-2 * u)) - 0.5 * noise.square() - log_std
    constant = mean[0].numel() * (2 * math.log(2) + 0.5 * math.log(2 * math.pi))
    return torch.tanh(u), density.flatten(1).sum(dim=1) - constant


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """log alpha (entropy - target), (): alpha rises while the policy is less random than it should be. (18) of Haarnoja
    et al., with log alpha for alpha, as their code has it."""
    return log_temperature * (entropy - target)


def phase_in(step: int, start: int, length: int) -> float:
    """xi at `step`: 0 up to `start`, 1 after `length` more, linear between."""
    return min(max((step - start) / length, 0.0), 1.0) if length else float(step >= start)


# Modules


class MlpActor(nn.Module):
    """All observations, flattened, through `hidden` layers with ReLU. shape: (..., A) of an action."""

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        sizes, self._shape = [inputs, *hidden], shape
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU(inplace=True))]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * math.prod(shape)))

    def forward(self, *observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layers(_flat(observation)).chunk(2, dim=-1)
        return mean.unflatten(-1, self._shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, self._shape)


class MlpCritics(nn.Module):
    """n MLPs with stacked weights, computed at once: each layer is one batched product."""

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 256), n: int = 2, layer_norm: bool = False) -> None:
        """inputs: entries of observation and action together. layer_norm: after each hidden layer, without weights."""
        super().__init__()
        self.n, self._layer_norm = n, layer_norm
        sizes = list(pairwise([inputs, *hidden, 1]))
        self.weights = nn.ParameterList(torch.empty(n, i, o).uniform_(-1, 1) / math.sqrt(i) for i, o in sizes)
        self.biases = nn.ParameterList(torch.empty(n, 1, o).uniform_(-1, 1) / math.sqrt(i) for i, o in sizes)

    def forward(self, *inputs: Tensor, members: Tensor | None = None) -> Tensor:
        weights, biases = ([p if members is None else p[members] for p in ps] for ps in (self.weights, self.biases))
        x = _flat(inputs).expand(len(weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if i:
                x = torch.relu_(F.layer_norm(x, x.shape[-1:]) if self._layer_norm else x)
            x = torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)


@torch.no_grad()
def start_nearly_deterministic(head: nn.Linear, log_std: float = -4.0) -> None:
    """Let an actor whose last layer is `head` begin with this spread, so that exploring does not destroy the base.

    Raises ValueError unless log_std is inside `LOG_STD_RANGE`: from its edge on no gradient leads back.
    """
    low, high = LOG_STD_RANGE
    if not low < log_std < high:
        raise ValueError(f"log_std is {log_std}; it must be between {low} and {high}, both excluded")
    half = head.out_features // 2
    head.weight[half:] = 0
    head.bias[half:] = log_std


def _flat(inputs: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) for x in inputs], dim=-1)


def _adam(
    config: SacConfig, rate: float | None, parameters: Iterable[nn.Parameter], *undecayed: nn.Parameter
) -> torch.optim.AdamW:
    first = {"params": list(parameters), "lr": rate or config.learning_rate}
    groups = [first, *({"params": [p], "weight_decay": 0.0} for p in undecayed)]
    optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    for parameter in (*parameters, *undecayed):  # as Adam would at its first step, so that a state always has one form
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimiser
