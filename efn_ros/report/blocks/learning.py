# SPDX-License-Identifier: MIT
"""Blocks of results that stand beside memory: the frozen policy, reinforcement learning, the success probability."""

from __future__ import annotations

from efn_ros.report import tables
from efn_ros.report.blocks._common import Results, source

FORMS = {
    "success_probability": "the success probability, as learned from the bank",
    "confidence": "confidence, uncalibrated",
    "success_rate": "the success rate so far",
}
REWARDS = {
    "sparse": "success and a potential",
    "semantic": "semantic match (8)(9)",
    "anti_idling": "anti-idling (14)-(16)",
}
SIMILARITIES = {"sinkhorn": "Sinkhorn", "fused": "fused keys", "key": "keys"}


def policy_block(card: Results) -> str:
    """Return the success of the frozen policy by task."""
    rows = [[task, tables.percent(t["success"]), f"{t['steps']:.0f}"] for task, t in card["tasks"].items()]
    table = tables.markdown(["task", "success", "steps"], [*rows, ["mean", tables.percent(card["mean"]), ""]])
    text = "The policy alone, as trained, on held-out scenes."
    return f"{table}\n\n{text} {source(card, sum(t['n'] for t in card['tasks'].values()))}"


def rewards_block(results: Results) -> str:
    """Return success before and after reinforcement learning, by reward."""
    rows = [
        [
            REWARDS[run["reward"]],
            SIMILARITIES[run["similarity"]],
            run["episodes"],
            run["decisions"],
            *(tables.percent(run[when]) for when in ("supervised", "after")),
        ]
        for run in results["runs"]
    ]
    header = ["reward, beside success", "similarity", "episodes", "decisions", "supervised", "after"]
    text = f"Success of the actor's mean in {results['deployments']} held-out deployments."
    return f"{tables.markdown(header, rows)}\n\n{text} {source(results, results['n'])}"


def confidence_block(results: Results) -> str:
    """Return how well success is predicted before the end of an episode."""
    columns = ["prediction of whether an episode that follows memory succeeds", "Brier score", "calibration error"]
    forms = [(words, results["forms"][name]) for name, words in FORMS.items()]
    rows = [[words, f"{form['brier']:.3f}", f"{form['calibration_error']:.3f}"] for words, form in forms]
    method = results["success"]
    text = (
        f"{results['deployments']} deployments, {results['rollouts']} rollouts in each with the packaged "
        f"network ({tables.percent(method['learned'])} succeed) and as many without training "
        f"({tables.percent(method['recalled'])}). Brier score: mean squared difference from the outcomes, 0 is best; "
        f"calibration error: mean difference of predicted and observed over {len(forms[0][1]['bins'])} bins of as many "
        "episodes."
    )
    return f"{tables.markdown(columns, rows)}\n\n{text} {source(results, results['n'])}"
