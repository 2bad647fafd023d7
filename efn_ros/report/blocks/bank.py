# SPDX-License-Identifier: MIT
"""Blocks of the bank: recall by size, search over all keys, and durability."""

from __future__ import annotations

from efn_ros.report import tables
from efn_ros.report.blocks._common import Results, source, thousands

BANK_COLUMNS = {
    "recall, ms": "recall_s",
    "p99": "recall_p99_s",
    "comparing, ms": "similarity_s",
    "as float32, ms": "float_product_s",
    "start, warm, ms": "start_warm_s",
    "cold, ms": "start_cold_s",
}
NEAREST = ["of the ten nearest steps", "keys", "int8 finds of the projection's", "projected finds of the full keys'"]


def bank_block(results: Results) -> str:
    """Return the latency of recall by the size of the bank, and how well compact keys find the nearest steps."""
    rows = [
        [
            thousands(b["steps"]),
            b["rollouts"],
            *(f"{1e3 * b[name]:.2f}" for name in BANK_COLUMNS.values()),
            f"{b['open_s']:.2f}",
            f"{b['resident_bytes'] / 1e6:.0f}",
            f"{b['payload_bytes_a_step'] + b['catalogue_bytes_a_step']:.0f}",
        ]
        for b in results["banks"]
    ]
    header = ["steps", "rollouts", *BANK_COLUMNS, "open, s", "MB held", "bytes a step"]
    smallest, largest = results["banks"][0], results["banks"][-1]
    filters, size = results["filter"], results["bytes"]
    every = filters["distinct"][str(filters["rollouts"])]
    grown = largest["recall_s"] / smallest["recall_s"]
    text = (
        f"{smallest['candidates']} steps are compared; recall takes {grown:.2f} x as long in the largest bank as in "
        f"the smallest. {_ingest(results)}The instruction filter over {filters['rollouts']} rollouts with as many "
        f"instructions takes {1e3 * every['filter_s']:.1f} ms. With tokens of the paper's size a step has "
        f"{size['raw'] / 1e6:.1f} MB; its sketch has {size['sketch'] / 1e3:.0f} kB and its key {size['key']} bytes."
    )
    shares = [
        [k["tokens"], k["keys"], tables.percent(k["int8_of_float"]), tables.percent(k["projected_of_full"])]
        for k in results["fidelity"]
    ]
    nearest = tables.markdown(NEAREST, shares)
    return f"{tables.markdown(header, rows)}\n\n{nearest}\n\n{text} {source(results, largest['n'])}"


def _ingest(results: Results) -> str:
    """The rate at which rollouts are written; empty if every bank existed before the measurement."""
    rates = [b["ingest"]["rollouts_a_second"] for b in results["banks"] if "ingest" in b]
    return f"{min(rates):.0f} rollouts a second are written, each on disk before it is acknowledged. " if rates else ""


def search_block(results: Results) -> str:
    """Return a comparison of indexes over all keys, and of recall with the index in use and by instruction."""
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
    times = ("recall_s", "recall_p99_s", "search_s", "start_s")
    rows = [
        [
            thousands(b["steps"]),
            b["search"],
            b["candidates"],
            *("-" if b[name] is None else tables.milliseconds(b[name]) for name in times),
            tables.percent(b["chosen_anew"]),
            f"{b['warm_s']:.1f}",
            f"{b['resident_bytes'] / 1e6:.0f}",
        ]
        for b in results["banks"]
    ]
    header = ["steps", "search", "compared", "recall, ms", "p99", "index, ms", "start, ms", "re-selected"]
    banks = tables.markdown([*header, "prefetch, s", "MB held"], rows)
    text = f"{thousands(results['steps'])} keys, {results['queries']} queries of {results['hits']} hits, one thread."
    return f"{indexes}\n\n{text}\n\n{banks}\n\n{source(results, results['banks'][-1]['n'])}"


def crashes_block(results: Results) -> str:
    """Return how many rollouts were lost when writers were killed, and how many flipped bits were found."""
    kills, flips = results["kills"], results["flips"]
    text = (
        f"Of {kills['acknowledged']} rollouts that a writer had acknowledged in {kills['n']} runs, each ended by kill "
        f"-9 at a random moment, {kills['lost']} were lost and {kills['torn']} incomplete; of {kills['forgotten']} "
        f"that it had removed {kills['back']} reappeared. Of {flips['n']} bits flipped anywhere in payloads, one at a "
        f"time, `verify` found {flips['found']}."
    )
    return f"{text} {source(results, kills['n'])}"
