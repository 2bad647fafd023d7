# SPDX-License-Identifier: MIT
"""Similarity of two observations, token by token: entropic optimal transport, appendix F."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NORM_EPSILON = 1e-8  # of equation (46): a zero token stays zero
CACHE = 1 << 20  # bytes of kernels that a core scales at a time, so that they stay in its second-level cache
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Transport:
    """A transport plan with its score."""

    score: Tensor  # score01 of (55), (...,), in [0, 1]
    plan: Tensor  # P of (51), (..., Tx, Ty)
    affinity: Tensor  # S of (47), (..., Tx, Ty)


def cosine_affinity(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosine of every pair of tokens, S (..., Tx, Ty) in [-1, 1]; batches broadcast.

    Args:
        x: Tokens, (..., Tx, D), float32 or float64.
        y: Tokens, (..., Ty, D), likewise.

    Raises:
        ValueError: An axis is empty, tokens are not finite, or types, widths or batches do not fit.

    Source: equations (46), (47).
    """
    for name, tokens in (("x", x), ("y", y)):
        if tokens.ndim < 2 or 0 in tokens.shape:
            raise ValueError(f"{name} has shape {tuple(tokens.shape)}; tokens are (..., T, D), no axis empty")
        if tokens.dtype not in DTYPES or tokens.dtype != x.dtype:
            raise ValueError(f"{name} is {tokens.dtype}; x and y must both be float32 or both be float64")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"tokens of x have width {x.shape[-1]}, those of y {y.shape[-1]}; both must have the same")
    try:
        torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        raise ValueError(f"x of shape {tuple(x.shape)} and y of {tuple(y.shape)}: batches do not broadcast") from None
    scales = []
    for name, tokens in (("x", x), ("y", y)):
        norm = torch.linalg.vector_norm(tokens, dim=-1)
        if not norm.amax().isfinite():
            raise ValueError(f"{name} holds a token that is not finite, or whose norm {norm.dtype} cannot hold")
        scales.append(1 / (norm + NORM_EPSILON))
    # Scaling the products instead of the tokens avoids a pass over D numbers a token and a copy of them.
    products = x @ y.mT
    out = None if products.requires_grad else products
    return torch.mul(torch.mul(products, scales[0][..., :, None], out=out), scales[1][..., None, :], out=out)


def sinkhorn_transport(
    affinity: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 50,
    r: Tensor | None = None,
    c: Tensor | None = None,
    tau_r: float = math.inf,
    tau_c: float = math.inf,
) -> Transport:
    """Return the entropic transport plan of an affinity with its score, algorithm 3. Differentiable.

    An iteration updates rows, then columns: columns of P sum to c at once, rows to r in the limit. The delta of (52) is
    not needed: where sums could leave the exponents of the dtype, logarithms are updated instead, which is slower.

    Args:
        affinity: S, (..., Tx, Ty), float32 or float64.
        epsilon: Weight of the entropy.
        iterations: Of the scaling (52).
        r: Marginal of rows, (..., Tx), normalised to a sum of 1; a weight of 0 leaves the token out; None: uniform.
        c: Marginal of columns, (..., Ty), likewise.
        tau_r: Penalty of the unbalanced form on rows; infinite: balanced. With both penalties finite the mass of P is
            free, about exp(S / (tau_r + tau_c)) where tokens match, so that small penalties let the score saturate.
        tau_c: Penalty on columns.

    Raises:
        ValueError: S is of another dtype, not finite or has an empty axis; epsilon is infinite or below sqrt(eps) of
            the dtype, where S / epsilon is not resolved; iterations are below 1, or a tau is not above 0; marginals are
            negative, not finite, without mass or of a shape that does not broadcast.

    Source: equations (55), (58).
    """
    if affinity.ndim < 2 or 0 in affinity.shape:
        raise ValueError(f"affinity has shape {tuple(affinity.shape)}; it must be (..., Tx, Ty), no axis empty")
    if affinity.dtype not in DTYPES:
        raise ValueError(f"affinity is {affinity.dtype}; it must be float32 or float64")
    least = math.sqrt(torch.finfo(affinity.dtype).eps)
    if not least <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; with {affinity.dtype} it must be finite and at least {least:.2g}")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; it must be at least 1")
    for name, tau in (("tau_r", tau_r), ("tau_c", tau_c)):
        if not tau > 0:
            raise ValueError(f"{name} is {tau}; it must be above 0; infinite keeps the marginals")
    *batch, rows, columns = affinity.shape
    s = affinity.reshape(-1, rows, columns)
    r, spread_r = _marginal("r", r, (*batch, rows), s)
    c, spread_c = _marginal("c", c, (*batch, columns), s)
    rho_r, rho_c = (1.0 if tau == math.inf else tau / (tau + epsilon) for tau in (tau_r, tau_c))
    chunk = len(s)
    if s.device.type == "cpu":
        chunk = max(1, CACHE * torch.get_num_threads() // (rows * columns * s.element_size()))
    chunks = s.split(chunk)
    differentiable = torch.is_grad_enabled() and (s.requires_grad or r.requires_grad or c.requires_grad)
    whole = None if differentiable else torch.empty_like(s)
    outs = [None] * len(chunks) if whole is None else whole.split(chunk)
    solved = [
        _solve(*part, spread=spread_r + spread_c, epsilon=epsilon, iterations=iterations, rho=(rho_r, rho_c))
        for part in zip(chunks, r.split(chunk), c.split(chunk), outs, strict=True)
    ]
    score = torch.cat([score for score, _ in solved]).clamp(-1, 1).reshape(batch)
    plan = torch.cat([plan for _, plan in solved]) if whole is None else whole
    return Transport((score + 1) / 2, plan.reshape(affinity.shape), affinity)


def sinkhorn_similarity(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return the score (...,) of tokens (..., Tx, D) and (..., Ty, D), in [0, 1].

    Options are those of `sinkhorn_transport`, errors also those of `cosine_affinity`.
    """
    return sinkhorn_transport(cosine_affinity(x, y), **options).score


def _marginal(name: str, given: Tensor | None, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, float]:
    """Weights (n, 1, T) that sum to 1, uniform where none are given, and -log of the least that is not 0.

    Source: equation (48).
    """
    tokens = shape[-1]
    if given is None:
        return like.new_full((len(like), 1, tokens), 1 / tokens), math.log(tokens)
    given = torch.as_tensor(given, dtype=like.dtype, device=like.device)
    try:
        weights = given.broadcast_to(shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(given.shape)}, which does not broadcast to {shape}") from None
    total = weights.sum(-1, keepdim=True)
    if not ((weights >= 0).all() and (total > 0).all() and total.isfinite().all()):
        raise ValueError(f"{name} holds weights that are negative, not finite, or all 0 for an observation")
    weights = (weights / total).reshape(-1, 1, tokens)
    return weights, -math.log(weights.detach().masked_fill(weights == 0, 1).amin())


def _solve(
    s: Tensor,
    r: Tensor,
    c: Tensor,
    out: Tensor | None,
    spread: float,
    epsilon: float,
    iterations: int,
    rho: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Score (n,) and plan P (n, Tx, Ty).

    Args:
        s: Affinity, (n, Tx, Ty).
        r: Marginal of rows, (n, 1, Tx).
        c: Marginal of columns, (n, 1, Ty).
        out: For P; None where autograd forbids to write in place.
        spread: -log of the least product of two weights.
        epsilon: Weight of the entropy.
        iterations: Of the scaling.
        rho: tau / (tau + epsilon) for rows and columns, the exponents of generalised Sinkhorn scaling.

    Source: equations (53), (56).
    """
    low, high = s.detach().amin((-2, -1), keepdim=True), s.detach().amax((-2, -1), keepdim=True)
    shift = high
    if rho != (1, 1):  # (56) leaves P unchanged only where the scalings can absorb a factor
        shift, low, high = torch.zeros_like(high), low.clamp(max=0), high.clamp(min=0)
    span = float((high - low).max()) / epsilon
    if not math.isfinite(span):
        raise ValueError("affinity holds values that are not finite")
    exponents = torch.add(-shift / epsilon, s, alpha=1 / epsilon, out=out)
    # Logarithms of scalings and of their sums are within span + spread of 0; beyond `room` relevant terms vanish.
    room = math.log(torch.finfo(s.dtype).eps / torch.finfo(s.dtype).tiny)
    if span + spread <= room:
        plan = _exp_plan(exponents, r, c, out, iterations, rho)
    else:
        plan = _log_plan(exponents, r, c, out, iterations, rho, room)
    return (plan * s).sum((-2, -1)), plan


def _exp_plan(
    exponents: Tensor, r: Tensor, c: Tensor, out: Tensor | None, iterations: int, rho: tuple[float, float]
) -> Tensor:
    """Plan by scaling the kernel; with rho below 1 it solves the unbalanced form (58).

    Source: equations (51), (52).
    """
    kernel = torch.exp(exponents, out=out)
    transposed, v = kernel.mT, (c > 0).to(c.dtype)
    rho_r, rho_c = rho
    r, c = r**rho_r, c**rho_c  # not the power of a quotient, whose slope at a weight of 0 is infinite
    of_r, of_c = (None if out is None else torch.empty_like(weights) for weights in (r, c))
    for _ in range(iterations):
        sums = torch.bmm(v, transposed, out=of_r)
        u = torch.div(r, sums if rho_r == 1 else torch.pow(sums, rho_r, out=of_r), out=of_r)
        sums = torch.bmm(u, kernel, out=of_c)
        v = torch.div(c, sums if rho_c == 1 else torch.pow(sums, rho_c, out=of_c), out=of_c)
    return torch.mul(torch.mul(kernel, u.mT, out=out), v, out=out)


def _log_plan(
    exponents: Tensor, r: Tensor, c: Tensor, out: Tensor | None, iterations: int, rho: tuple[float, float], room: float
) -> Tensor:
    """Plan by scaling on logarithms. Terms below exp(-room) of the largest are raised to it: underflow slows exp."""
    work = None if out is None else torch.empty_like(out)

    def exp(values: Tensor, to: Tensor | None) -> Tensor:
        return torch.exp(torch.clamp(values, min=-room, out=to), out=to)

    def log_sum(log_scaling: Tensor, dim: int) -> Tensor:
        terms = torch.add(exponents, log_scaling, out=work)
        top = terms.detach().amax(dim, keepdim=True)
        return exp(torch.sub(terms, top, out=work), work).sum(dim, keepdim=True).log() + top

    log_r, log_c, log_v = r.log().mT, c.log(), (c > 0).to(c.dtype).log()
    for _ in range(iterations):
        log_u = rho[0] * (log_r - log_sum(log_v, -1))
        log_v = rho[1] * (log_c - log_sum(log_u, -2))
    return exp(exponents + log_u + log_v, out)
