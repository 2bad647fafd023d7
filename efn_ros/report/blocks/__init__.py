# SPDX-License-Identifier: MIT
"""Blocks of results in the documents, rendered from results files so that no number is copied by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from efn_ros.report.blocks._common import Results
from efn_ros.report.blocks.bank import bank_block, crashes_block, search_block
from efn_ros.report.blocks.evaluation import by_shift_block, by_task_block, evaluation_block
from efn_ros.report.blocks.latency import latency_block
from efn_ros.report.blocks.learning import confidence_block, policy_block, rewards_block
from efn_ros.report.blocks.robot import faults_block, fuzz_block, jitter_block, soak_block

BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- /results:\2 -->)", re.DOTALL)
MARK = re.compile(r"<!-- /?results:[\w-]+ -->")
CONFIDENCE, EVALUATION, AS_TRAINED, VOLUMES, AT_WORK, WEAK, LIBERO = (
    f"bench/results/{name}.json"
    for name in ("confidence", "evaluation", "as_trained", "volumes", "work", "weak", "libero")
)
CARD = "efn_ros/policies/pocket_vla/checkpoints/{}/card.json"
EVALUATE = f"./efn evaluate --deployments 40 --no-memory efn_no_memory/round_1 --work noise --results {EVALUATION}"


class Block(NamedTuple):
    """The source of a block."""

    path: str  # the results file
    render: Callable[[Results], str]  # from its content to Markdown
    command: str  # that writes the file


def _bench(name: str, render: Callable[[Results], str]) -> Block:
    return Block(f"bench/results/{name}.json", render, f"./efn shell python bench/{name}.py")


BLOCKS: dict[str, Block] = {
    "evaluation": Block(EVALUATION, evaluation_block, EVALUATE),
    "evaluation-by-task": Block(EVALUATION, by_task_block, EVALUATE),
    "evaluation-by-shift": Block(EVALUATION, by_shift_block, EVALUATE),
    "as-trained": Block(
        AS_TRAINED,
        evaluation_block,
        f"./efn evaluate --setting as-trained --episodes 20 --volumes 1 10 --results {AS_TRAINED}",
    ),
    "evaluation-volumes": Block(
        VOLUMES,
        evaluation_block,
        f"./efn evaluate --first-seed 40 --deployments 10 --volumes 10 50 100 300 --results {VOLUMES}",
    ),
    "evaluation-work": Block(
        AT_WORK,
        evaluation_block,
        f"./efn evaluate --first-seed 60 --deployments 20 --volumes 10 --work off noise branch --results {AT_WORK}",
    ),
    "as-trained-weak": Block(
        WEAK,
        evaluation_block,
        "./efn evaluate --setting as-trained --tasks reach push pick-place --episodes 40 --bank efn_weak_bank "
        f"--volumes 50 100 300 1000 --params-file weak.yaml --no-memory efn_weak_no_memory --results {WEAK}",
    ),
    "evaluation-libero": Block(
        LIBERO,
        evaluation_block,
        "./efn evaluate --graph libero_sim --tasks TASK... --kinds offset gain yaw --deployments 6 --volumes 1 2 5 10 "
        f"--no-memory efn_libero_no_memory/round_0 --ablation 'without trust=blind.yaml' --results {LIBERO}",
    ),
    "latency": _bench("latency", latency_block),
    "bank": _bench("bank", bank_block),
    "bank-crashes": _bench("bank_crashes", crashes_block),
    "confidence": _bench("confidence", confidence_block),
    "search": _bench("search", search_block),
    "faults": _bench("faults", faults_block),
    "soak": _bench("soak", soak_block),
    "jitter": _bench("jitter", jitter_block),
    "fuzz": _bench("fuzz", fuzz_block),
    "rewards": _bench("rewards", rewards_block),
    "policy": Block(CARD.format("metaworld"), policy_block, "./efn train-policy --install"),
    "policy-libero": Block(CARD.format("libero"), policy_block, "./efn train-policy --world libero --install"),
}


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Return a document with the content of every block replaced.

    Raises:
        ValueError: A block is unknown or unfinished.
    """

    def content(match: re.Match) -> str:
        if match[2] not in blocks:
            raise ValueError(f"results {match[2]!r} are unknown; choose one of {', '.join(sorted(blocks))}")
        return f"{match[1]}{blocks[match[2]]}\n{match[4]}"

    filled, count = BLOCK.subn(content, text)
    if len(MARK.findall(text)) != 2 * count:
        raise ValueError("a results block lacks its beginning, its end or a line break after its beginning")
    return filled


def render(root: Path) -> dict[str, str]:
    """Return the Markdown of every block by its name, from the results files in a checkout."""
    return {name: _render(root / block.path, block) for name, block in BLOCKS.items()}


def _render(path: Path, block: Block) -> str:
    if not path.is_file():
        return f"*There is no results file yet. `{block.command}` writes one.*"
    return block.render(json.loads(path.read_text()))
