"""The blocks of a document that hold results: rendered from results files, so that no figure is copied by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from efn_ros.correction.exploration import MODES
from efn_ros.report import tables
from efn_ros.worlds.deployment import SAMPLED

BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- /results:\2 -->)", re.DOTALL)
MARK = re.compile(r"<!-- /?results:[\w-]+ -->")


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """The document with the content of every block replaced. Raises ValueError for an unknown or unfinished block."""

    def content(match: re.Match) -> str:
        if match[2] not in blocks:
            raise ValueError(f"there are no results {match[2]!r}; there are {', '.join(sorted(blocks))}")
        return f"{match[1]}{blocks[match[2]]}\n{match[4]}"

    filled, count = BLOCK.subn(content, text)
    if len(MARK.findall(text)) != 2 * count:
        raise ValueError("a results block lacks its beginning, its end or a line break after its beginning")
    return filled


def render(root: Path) -> dict[str, str]:
    """Name of a block -> Markdown, from the results files in a checkout."""
    return {name: _render(root / path, make, command) for name, (path, make, command) in BLOCKS.items()}


def _render(path: Path, make: Callable[[dict], str], command: str) -> str:
    if not path.is_file():
        return f"*No results file is here yet. `{command}` makes one.*"
    return make(json.loads(path.read_text()))


def latency_block(results: dict) -> str:
    from efn_ros.report.latency import STAGES

    names = {**STAGES, "relay_hop": "plain relay: one hop", "relay_round_trip": "plain relay: there and back"}
    columns = ("p50_s", "p95_s", "p99_s", "max_s")
    rows = [
        [names.get(stage, stage), *(tables.milliseconds(values[c]) for c in columns), values["n"]]
        for stage, values in results["stages"].items()
    ]
    table = tables.markdown(["latency, ms", "median", "p95", "p99", "max", "n"], rows)
    said = (
        f"{results['rate_hz']:g} images a second; {results['corrected_actions']} corrected actions, "
        f"{results['without_recall']} without an answer of the memory. "
        "The policy costs nothing here."
    )
    return f"{table}\n\n{said} {source(results, results['stages']['total']['n'])}"


WORK = "memory of work"
# What the ways of an evaluation are, in words; a variant of other name stands for itself.
WAYS = {
    "base": "base alone",
    "memory": "memory",
    "recall": "recalled action, no network",
    "no recall": "network without memory",
    "wrong memory": "memory of another deployment",
    "as-trained memory": "memory of the base as trained",
    WORK: "memory gathered at work",
    **{f"{WORK} and {mode}": f"memory gathered at work, probing: {mode}" for mode in MODES},
}


def evaluation_block(results: dict) -> str:
    """Every way over all scenes, and one sentence on memory."""
    every = comparisons_of(results, "all")
    told = ["success, 95 %", "failures removed, 95 %", "fixed / broke", "trust", "steps, base", "steps"]
    header = ["way", "rollouts", *told]
    rows = [
        [
            WAYS.get(c["way"], c["way"]),
            "-" if c["way"] == "base" else c["volume"],
            _estimate(c["success"]),
            "-" if c["way"] == "base" else _estimate(c["removed"]),
            "-" if c["way"] == "base" else f"{c['fixed']} / {c['broke']}",
            "-" if c["way"] == "base" else tables.percent(c["trust"]),
            _steps(c["base_steps"]),
            _steps(c["steps"]),
        ]
        for c in every
    ]
    memory = largest_memory(results)
    where = "as trained" if results["setting"] == "as-trained" else "in deployments that nothing was trained in"
    kinds = results.get("kinds", SAMPLED)
    if len(kinds) < len(SAMPLED) and results["setting"] != "as-trained":
        where += f", of these shifts alone: {', '.join(kinds)}"
    whose = "of the given bank" if results.get("bank") else "of the base alone"
    said = (
        f"Success {where}: {tables.percent(memory['base']['value'])} without memory, "
        f"{tables.percent(memory['success']['value'])} with {memory['volume']} rollouts {whose} to recall: "
        f"{_estimate(memory['difference'], sign='+')} points. {_gathered(results)}{_counts(results)} Intervals "
        "resample deployments, tasks and scenes; steps are those of scenes where base and way both succeeded; trust is "
        "how much of the residual was followed."
    )
    return f"{tables.markdown(header, rows)}\n\n{said} {source(results, memory['pairs'])}"


def by_task_block(results: dict) -> str:
    return _broken_down(results, "task", "task")


def by_shift_block(results: dict) -> str:
    return _broken_down(results, "shift", "kind of shift")


def _broken_down(results: dict, group: str, title: str) -> str:
    """Memory of the largest volume, and success of every other way at that volume."""
    volume = largest_memory(results)["volume"]
    chosen = [c for c in comparisons_of(results, group) if c["way"] != "base" and c["volume"] == volume]
    others = list(dict.fromkeys(c["way"] for c in chosen if c["way"] != "memory"))
    header = [title, "n", "base", "memory", "removed, 95 %", "fixed / broke", "steps, base", "steps"]
    rows = []
    for of in dict.fromkeys(c["of"] for c in chosen):
        ways = {c["way"]: c for c in chosen if c["of"] == of}
        c = ways["memory"]
        rows.append([
            of,
            c["pairs"],
            *(tables.percent(c[side]["value"]) for side in ("base", "success")),
            _estimate(c["removed"]),
            f"{c['fixed']} / {c['broke']}",
            _steps(c["base_steps"]),
            _steps(c["steps"]),
            *(tables.percent(ways[way]["success"]["value"]) for way in others),
        ])  # fmt: skip
    table = tables.markdown([*header, *(WAYS.get(way, way) for way in others)], rows)
    said = f"Memory of {volume} rollouts. {_counts(results)}"
    return f"{table}\n\n{said} {source(results, largest_memory(results)['pairs'])}"


def comparisons_of(results: dict, group: str) -> list[dict]:
    return [c for c in results["comparisons"] if c["group"] == group]


def largest_memory(results: dict) -> dict:
    """The comparison over all scenes that an evaluation is about."""
    return max((c for c in comparisons_of(results, "all") if c["way"] == "memory"), key=lambda c: c["volume"])


def working_ways(results: dict) -> list[str]:
    """Names of the ways whose memory the robot gathered itself."""
    ways = dict.fromkeys(c["way"] for c in comparisons_of(results, "all"))
    return [way for way in ways if way.startswith(WORK)]


def _gathered(results: dict) -> str:
    """What memory is worth that the robot gathered itself, in words; of the way that was named last."""
    ways, volume = working_ways(results), largest_memory(results)["volume"]
    if not ways:
        return ""
    chosen = next(c for c in comparisons_of(results, "all") if (c["way"], c["volume"]) == (ways[-1], volume))
    success = tables.percent(chosen["success"]["value"])
    return f"With as many that the robot gathered at work, corrected and probing: {success}. "


def _counts(results: dict) -> str:
    counted = {"deployment": results["deployments"], "task": len(results["tasks"])}
    if results["setting"] == "as-trained":
        del counted["deployment"]
    parts = [f"{n} {name}{'s' * (n != 1)}" for name, n in counted.items()]
    scenes = results["episodes_a_task"]
    return f"{', '.join(parts)}, {scenes} scene{'s' * (scenes != 1)} of each."


def _estimate(estimate: dict | None, sign: str = "") -> str:
    """In percent, with its interval."""
    if estimate is None:
        return "-"
    value, low, high = (f"{100 * estimate[name]:{sign}.0f}" for name in ("value", "low", "high"))
    return f"{value} ({low} .. {high})"


def rewards_block(results: dict) -> str:
    """Success before and after reinforcement learning, by reward."""
    names = {"sparse": "success and a potential", "semantic": "semantic match (8)(9)"}
    names["anti_idling"] = "anti-idling (14)-(16)"
    rows = [
        [
            names[run["reward"]],
            {"sinkhorn": "Sinkhorn", "fused": "fused keys"}[run["similarity"]],
            run["episodes"],
            run["decisions"],
            *(tables.percent(run[when]) for when in ("taught", "after")),
        ]
        for run in results["runs"]
    ]
    table = tables.markdown(["reward, beside success", "likeness", "episodes", "decisions", "taught", "after"], rows)
    said = f"Success of the actor's mean in {results['deployments']} deployments that are not lived in."
    return f"{table}\n\n{said} {source(results, results['n'])}"


def policy_block(card: dict) -> str:
    rows = [[task, tables.percent(t["success"]), f"{t['steps']:.0f}"] for task, t in card["tasks"].items()]
    table = tables.markdown(["task", "success", "steps"], [*rows, ["mean", tables.percent(card["mean"]), ""]])
    said = "The policy alone, as trained, on scenes that it was not trained on."
    return f"{table}\n\n{said} {source(card, sum(t['n'] for t in card['tasks'].values()))}"


def bank_block(results: dict) -> str:
    columns = [
        "steps",
        "rollouts",
        "recall, ms",
        "p99",
        "comparing, ms",
        "as float32, ms",
        "start, warm, ms",
        "cold, ms",
    ]
    rows = [
        [
            f"{b['steps']:,}".replace(",", " "),
            b["rollouts"],
            *(
                f"{1e3 * b[name]:.2f}"
                for name in (
                    "recall_s",
                    "recall_p99_s",
                    "similarity_s",
                    "float_product_s",
                    "start_warm_s",
                    "start_cold_s",
                )
            ),
            f"{b['open_s']:.2f}",
            f"{b['resident_bytes'] / 1e6:.0f}",
            f"{b['payload_bytes_a_step'] + b['catalogue_bytes_a_step']:.0f}",
        ]
        for b in results["banks"]
    ]
    table = tables.markdown([*columns, "open, s", "MB held", "bytes a step"], rows)
    smallest, largest = results["banks"][0], results["banks"][-1]
    ingest = [b["ingest"]["rollouts_a_second"] for b in results["banks"] if "ingest" in b]
    filters, size = results["filter"], results["bytes"]
    every = filters["distinct"][str(filters["rollouts"])]
    grown = largest["recall_s"] / smallest["recall_s"]
    said = (
        f"{smallest['candidates']} steps are compared; recall takes {grown:.2f} x as long in the largest bank as in "
        f"the smallest. {min(ingest):.0f} rollouts a second go in, each on disk before it is acknowledged. The "
        f"instruction filter over {filters['rollouts']} rollouts that were all told something else takes "
        f"{1e3 * every['filter_s']:.1f} ms. Of tokens of the paper's size a step has {size['raw'] / 1e6:.1f} MB; its "
        f"sketch has {size['sketch'] / 1e3:.0f} kB and its key {size['key']} bytes."
    )
    shares = [
        [k["tokens"], k["keys"], tables.percent(k["int8_of_float"]), tables.percent(k["projected_of_full"])]
        for k in results["fidelity"]
    ]
    nearest = [
        "of the ten nearest steps",
        "keys",
        "int8 finds of the projection's",
        "projected finds of the full keys'",
    ]
    return f"{table}\n\n{tables.markdown(nearest, shares)}\n\n{said} {source(results, largest['n'])}"


def search_block(results: dict) -> str:
    """Indexes over all keys, and recall with the one that is used beside recall by instruction."""
    header = ["index", "recall@10", "search, ms", "p99", "made, s", "bytes a step", "elsewhere", "ms"]
    rows = [
        [f"{i['index']} ({i['missing']})", *["-"] * 7]
        if "missing" in i
        else [
            i["index"],
            f"{i['found']:.3f}",
            *(tables.milliseconds(i[name]) for name in ("search_s", "search_p99_s")),
            f"{i['made_s']:.1f}",
            f"{i['bytes_a_step']:.0f}",
            f"{i['found_elsewhere']:.3f}",
            tables.milliseconds(i["search_elsewhere_s"]),
        ]
        for i in results["indexes"]
    ]
    indexes = tables.markdown(header, rows)
    rows = [
        [
            f"{b['steps']:,}".replace(",", " "),
            b["search"],
            b["candidates"],
            *(
                "-" if b[name] is None else tables.milliseconds(b[name])
                for name in ("recall_s", "recall_p99_s", "search_s", "start_s")
            ),
            tables.percent(b["chosen_anew"]),
            f"{b['warm_s']:.1f}",
            f"{b['resident_bytes'] / 1e6:.0f}",
        ]
        for b in results["banks"]
    ]
    header = ["steps", "search", "compared", "recall, ms", "p99", "index, ms", "start, ms", "chosen anew"]
    banks = tables.markdown([*header, "read ahead, s", "MB held"], rows)
    steps = f"{results['steps']:,}".replace(",", " ")
    said = f"{steps} keys, {results['queries']} queries of {results['hits']} hits each, one thread."
    return f"{indexes}\n\n{said}\n\n{banks}\n\n{source(results, results['banks'][-1]['n'])}"


def crashes_block(results: dict) -> str:
    kills, flips = results["kills"], results["flips"]
    said = (
        f"Of {kills['acknowledged']} rollouts that a writer had acknowledged in {kills['n']} lives, each ended by kill "
        f"-9 at a random moment, {kills['lost']} were lost and {kills['torn']} torn; of {kills['forgotten']} that it "
        f"had forgotten {kills['back']} came back. Of {flips['n']} bits flipped anywhere in payloads, one at a time, "
        f"`verify` found {flips['found']}."
    )
    return f"{said} {source(results, kills['n'])}"


def confidence_block(results: dict) -> str:
    columns = ["what is said of an episode that follows memory", "Brier score", "calibration error"]
    forms = [(words, results["forms"][name]) for name, words in CHANCES.items()]
    rows = [[words, f"{form['brier']:.3f}", f"{form['calibration_error']:.3f}"] for words, form in forms]
    method = results["success"]
    said = (
        f"{results['deployments']} deployments, {results['rollouts']} rollouts at work in each with the packaged "
        f"network ({tables.percent(method['learned'])} succeed) and as many without training "
        f"({tables.percent(method['recalled'])}). Brier score: mean squared difference from how episodes ended, 0 is "
        f"best; calibration error: mean difference of said and happened over {len(forms[0][1]['bins'])} bins of as "
        "many episodes."
    )
    return f"{tables.markdown(columns, rows)}\n\n{said} {source(results, results['n'])}"


def fuzz_block(results: dict) -> str:
    told, became = results["told"], results["became"]
    broken = sum(results["broken"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(told.items()))
    said = (
        f"Of {results['commands']} commands that the bridge sent while it was told {results['n']} chunks ({kinds}), "
        "the robot lagged, was pushed, fell silent and froze, and an operator stopped, reset and handed over, "
        f"{broken} were outside a limit. {became['actions actions']} chunks were followed."
    )
    topic = results["topic"]
    said += (
        f" Its process, told {topic['n']} more beside that of a simulated robot, published {topic['commands']} "
        f"commands in {topic['seconds'] / 60:.0f} minutes, of which {sum(topic['broken'].values())} were."
    )
    return f"{said} {source(results, results['n'] + topic['n'])}"


def faults_block(results: dict) -> str:
    header = ["fault", "reaction", "after, ms", "hold error, rad", "reason", "to go on"]
    rows = [
        [
            fault["fault"],
            fault["reaction"].replace("->", "-&gt;"),
            "-" if fault["after_s"] is None else tables.milliseconds(fault["after_s"]),
            "-" if fault["hold_error_rad"] is None else f"{fault['hold_error_rad']:.4f}",
            fault["reason"],
            fault["then"],
        ]
        for fault in results["faults"]
    ]
    moved = max((fault["moved_rad"] for fault in results["faults"] if fault["moved_rad"] is not None), default=0.0)
    said = (
        f"Of {results['commands']} commands, {sum(results['broken'].values())} were outside a limit. Where it stood "
        f"still in the end, no joint was measured to move by more than {moved:.4f} rad, noise of 0.0005 included."
    )
    return f"{tables.markdown(header, rows)}\n\n{said} {source(results, len(rows))}"


def soak_block(results: dict) -> str:
    megabytes = lambda size: f"{size / 1e6:.1f}"  # noqa: E731
    rows = [[node, *(megabytes(m[at]) for at in ("first", "last", "drift"))] for node, m in results["memory"].items()]
    holds = ", ".join(f"{reason}: {count}" for reason, count in results["holds"].items()) or "none"
    said = (
        f"{results['episodes']} episodes in {results['seconds'] / 60:.0f} minutes, {results['saved']} remembered; "
        f"holds within them: {holds}; the largest gap between two of {results['commands']} commands: "
        f"{results['largest_gap_s'] * 1e3:.1f} ms."
    )
    header = ["process", "after a minute, MB", "at the end", "drift, MB/min"]
    return f"{tables.markdown(header, rows)}\n\n{said} {source(results, results['episodes'])}"


def jitter_block(results: dict) -> str:
    header = ["machine", "scheduling", "median, ms", "p99", "p99.9", "largest", "n"]
    shares = ("p50_s", "p99_s", "p999_s", "max_s")
    rows = [
        [name, way["scheduling"], *(tables.milliseconds(way[share]) for share in shares), way["n"]]
        for name, way in results["ways"].items()
    ]
    return f"{tables.markdown(header, rows)}\n\n{source(results, sum(w['n'] for w in results['ways'].values()))}"


def source(results: dict, n: int) -> str:
    """Machine, date, commit and n: the last words of every block."""
    machine = results["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"*{where}; {results['date']}; commit {results['commit']}; n = {n}.*"


def _steps(steps: float | None) -> str:
    return "-" if steps is None else f"{steps:.0f}"


EVALUATION, AS_TRAINED, VOLUMES, AT_WORK, WEAK, LIBERO = (
    f"bench/results/{name}.json" for name in ("evaluation", "as_trained", "volumes", "work", "weak", "libero")
)
EVALUATE = f"./efn evaluate --deployments 40 --memoryless efn_memoryless/round_1 --work noise --results {EVALUATION}"
CONFIDENCE = "bench/results/confidence.json"
CHANCES = {
    "chance": "the chance, as learned from the bank",
    "confidence": "confidence, as it is",
    "share": "the share that succeeded so far",
}
BLOCKS = {
    "latency": ("bench/results/latency.json", latency_block, "./efn shell python bench/latency.py"),
    "evaluation": (EVALUATION, evaluation_block, EVALUATE),
    "evaluation-by-task": (EVALUATION, by_task_block, EVALUATE),
    "evaluation-by-shift": (EVALUATION, by_shift_block, EVALUATE),
    "as-trained": (
        AS_TRAINED,
        evaluation_block,
        f"./efn evaluate --setting as-trained --episodes 20 --volumes 1 10 --results {AS_TRAINED}",
    ),
    "evaluation-volumes": (
        VOLUMES,
        evaluation_block,
        f"./efn evaluate --first-seed 40 --deployments 10 --volumes 10 50 100 300 --results {VOLUMES}",
    ),
    "evaluation-work": (
        AT_WORK,
        evaluation_block,
        f"./efn evaluate --first-seed 60 --deployments 20 --volumes 10 --work off noise branch --results {AT_WORK}",
    ),
    "as-trained-weak": (
        WEAK,
        evaluation_block,
        "./efn evaluate --setting as-trained --tasks reach push pick-place --episodes 40 --bank efn_weak_bank "
        f"--volumes 50 100 300 1000 --params-file weak.yaml --memoryless efn_weak_memoryless --results {WEAK}",
    ),
    "evaluation-libero": (
        LIBERO,
        evaluation_block,
        "./efn evaluate --params-file config/worlds/libero.yaml --tasks TASK... --kinds offset gain yaw "
        "--deployments 6 --volumes 1 2 5 10 --memoryless efn_libero_memoryless/round_0 "
        f"--ablation 'without trust=blind.yaml' --results {LIBERO}",
    ),
    "bank": ("bench/results/bank.json", bank_block, "./efn shell python bench/bank.py"),
    "bank-crashes": (
        "bench/results/bank_crashes.json",
        crashes_block,
        "./efn shell python bench/bank_crashes.py",
    ),
    "confidence": (CONFIDENCE, confidence_block, "./efn shell python bench/confidence.py"),
    "search": ("bench/results/search.json", search_block, "./efn shell python bench/search.py"),
    "faults": ("bench/results/faults.json", faults_block, "./efn shell python bench/faults.py"),
    "soak": ("bench/results/soak.json", soak_block, "./efn shell python bench/soak.py"),
    "jitter": ("bench/results/jitter.json", jitter_block, "./efn shell python bench/jitter.py"),
    "fuzz": ("bench/results/fuzz.json", fuzz_block, "./efn shell python bench/fuzz.py"),
    "rewards": ("bench/results/rewards.json", rewards_block, "./efn shell python bench/rewards.py"),
    "policy": (
        "efn_ros/policies/pocket_vla/checkpoints/metaworld/card.json",
        policy_block,
        "./efn train-policy --install",
    ),
    "policy-libero": (
        "efn_ros/policies/pocket_vla/checkpoints/libero/card.json",
        policy_block,
        "./efn train-policy --world libero --install",
    ),
}
