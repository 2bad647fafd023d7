"""What a correction costs: the actor's forward pass for one step, beside decoder layers of PyTorch of the same sizes.

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
        super().__init__()
        width = size["width"]
        layer = nn.TransformerDecoderLayer(
            width, size["heads"], size["feedforward"], 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.present, self.recalled = (nn.Linear(n, width) for n in inputs)
        self.layers = nn.TransformerDecoder(layer, size["layers"])
        self.head = nn.Linear(width, 2 * HORIZON * ACTION)

    def forward(self, present: Tensor, recalled: Tensor) -> Tensor:
        return self.head(self.layers(self.present(present)[:, None], self.recalled(recalled)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = {}
    for name, size in SIZES.items():
        efn, present, recalled = make(size)
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


def make(size: dict[str, int]) -> tuple[Efn, Present, Recalled]:
    """A network at random, and one step with what was recalled for it."""
    ones = (1.0,) * PROPRIO
    efn = Efn(EfnConfig(HORIZON, ACTION, LATENT, SKETCH, (0.6,) * ACTION, ones, ones, ones, codes=CODES, **size)).eval()
    draw, k = torch.randn, RECALLED
    present = Present(draw(1, *LATENT), draw(1, *SKETCH), draw(1, PROPRIO), draw(1, HORIZON, ACTION))
    (executed, base, before), postures = draw(3, 1, k, HORIZON, ACTION), draw(3, 1, k, PROPRIO)
    there = torch.ones((1, k), dtype=torch.bool)
    seen, alike = (draw(1, k, LATENT[1]), draw(1, k, CODES)), draw(2, 1, k)
    return efn, present, Recalled(executed, base, *postures[:2], before, postures[2], *seen, *alike, there)


def measure(*cases: Callable[[], object]) -> list[dict[str, float]]:
    """In turns, so that both meet the same machine."""
    times = np.empty((len(cases), REPEATS))
    for i in range(-REPEATS // 10, REPEATS):  # the first ones only warm up
        for kind, case in enumerate(cases):
            began = time.perf_counter()
            case()
            times[kind, i] = time.perf_counter() - began
    return [{"p50_s": float(np.percentile(t, 50)), "p99_s": float(np.percentile(t, 99))} for t in times]


if __name__ == "__main__":
    main()
