# SPDX-License-Identifier: MIT
"""What a correction costs: the actor's forward pass for one step, beside PyTorch's decoder layers of the same sizes.

Run as `./efn shell python bench/efn.py`. Prints a table, writes results/efn.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.config import SIZES, EfnConfig
from efn_ros.report import provenance, tables

RESULTS = Path(__file__).parent / "results" / "efn.json"
HORIZON, ACTION, PROPRIO, LATENT, SKETCH = 4, 4, 4, (4, 128), (80, 128)  # of the default policy
RECALLED, CODES = 24, 64
REPEATS = 300
AIM_S = {"small": 0.5e-3, "paper": 5e-3}


class Decoder(nn.Module):
    """As many layers of `torch.nn.TransformerDecoder` between linear maps from the same inputs to the same output."""

    def __init__(self, size: dict[str, int], inputs: tuple[int, int]) -> None:
        """Build the layers; inputs: widths of the present step and of a recalled one."""
        super().__init__()
        width = size["width"]
        layer = nn.TransformerDecoderLayer(
            width, size["heads"], size["feedforward"], 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.present, self.recalled = (nn.Linear(n, width) for n in inputs)
        self.layers = nn.TransformerDecoder(layer, size["layers"])
        self.head = nn.Linear(width, 2 * HORIZON * ACTION)

    def forward(self, present: Tensor, recalled: Tensor) -> Tensor:
        """Return (B, 2 H A) out of the present step (B, width) and recalled ones (B, k, width)."""
        return self.head(self.layers(self.present(present)[:, None], self.recalled(recalled)))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = {}
    for name, size in SIZES.items():
        efn, present, recalled = make_case(size)
        inputs = [torch.cat([x.flatten(1) for x in vars(present).values()], dim=1)]
        inputs.append(torch.cat([x.flatten(2) for x in vars(recalled).values() if x.dim() > 2], dim=2))
        decoder = Decoder(size, tuple(x.shape[-1] for x in inputs)).eval()
        with torch.inference_mode():
            ours, theirs = measure(lambda: efn.residual(present, recalled), lambda: decoder(*inputs))  # noqa: B023
        sizes = {kind: sum(p.numel() for p in net.parameters()) for kind, net in (("efn", efn), ("decoder", decoder))}
        results[name] = {"efn": ours, "decoder": theirs, "parameters": sizes, "aim_s": AIM_S[name]}
    rows = [
        [
            name,
            f"{r['parameters']['efn'] / 1e6:.2f} M",
            tables.milliseconds(r["efn"]["p50_s"]),
            tables.milliseconds(r["efn"]["p99_s"]),
            tables.milliseconds(r["aim_s"]),
            f"{r['parameters']['decoder'] / 1e6:.2f} M",
            tables.milliseconds(r["decoder"]["p50_s"]),
        ]
        for name, r in results.items()
    ]
    header = ["actor, batch 1, ms", "parameters", "median", "p99", "aim", "decoder: parameters", "decoder: median"]
    print(tables.markdown(header, rows))
    facts = {"n": REPEATS, "threads": args.threads, "recalled": RECALLED, "sizes": results}
    args.results.write_text(json.dumps({**provenance.here(), **facts}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def make_case(size: dict[str, int]) -> tuple[Efn, Present, Recalled]:
    """Return a network with random weights, one step, and what was recalled for it."""
    ones, k = (1.0,) * PROPRIO, RECALLED
    bound = (0.6,) * ACTION
    efn = Efn(EfnConfig(HORIZON, ACTION, LATENT, SKETCH, bound, ones, ones, ones, code_size=CODES, **size)).eval()
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("executed", "base", "executed_before"), (HORIZON, ACTION))
    shapes |= dict.fromkeys(("proprio", "proprio_next", "proprio_before"), (PROPRIO,))
    shapes |= {"latent": (LATENT[1],), "code": (CODES,), "success": (), "similarity": ()}
    present = Present(*(torch.randn(1, *shape) for shape in (LATENT, SKETCH, (PROPRIO,), (HORIZON, ACTION))))
    columns = {name: torch.randn(1, k, *shape) for name, shape in shapes.items()}
    return efn, present, Recalled(**columns, mask=torch.ones((1, k), dtype=torch.bool))


def measure(*cases: Callable[[], object]) -> list[dict[str, float]]:
    """Return percentiles of the seconds of each case; they take turns, so that other load affects all."""
    times = np.empty((len(cases), REPEATS))
    for i in range(-REPEATS // 10, REPEATS):  # the first ones fill the caches
        for kind, case in enumerate(cases):
            began = time.perf_counter()
            case()
            times[kind, i] = time.perf_counter() - began
    return [{"p50_s": float(np.percentile(t, 50)), "p99_s": float(np.percentile(t, 99))} for t in times]


if __name__ == "__main__":
    main()
