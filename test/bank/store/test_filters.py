# SPDX-License-Identifier: MIT
"""Filters of rollouts: what they match, and which are invalid."""

import dataclasses

import pytest

from efn_ros.bank.format.catalogue import RolloutRecord
from efn_ros.bank.store.filters import FIELDS, RolloutFilter, date_of, matching
from efn_ros.types import Outcome

RECORD = RolloutRecord(
    "r0", "sawyer", "push-v3", "push the puck", 7, Outcome.SUCCESS, 80, 20, 19, 1_795_340_000 * 10**9, "pocket-1", 3,
    "p.safetensors", 9, "00", {"noise": 2},
)  # fmt: skip
FAILED = dataclasses.replace(RECORD, id="r1", task="reach-v3", outcome=Outcome.FAILURE, seed=-1, explored={})


def test_a_date_is_in_utc():
    assert date_of(RECORD) == "2026-11-22T09:33:20"


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("task=push-v3", True), ("task = push*", True), ("task=reach*", False), ("task!=push*", False),
        ("outcome=success", True), ("outcome=failure,success", True), ("outcome!=failure", True),
        ("instruction=*puck*", True), ("robot=sawy?r", True), ("policy=pocket-2", False), ("id=r0,r1", True),
        ("instruction=push the puck", True), ("id=[r]0", False),
        ("explored=noise", True), ("explored=", False), ("length>=80", True), ("length<80", False), ("seed=7", True),
        ("decisions!=20", False), ("revision<=3", True), ("date=2026", True), ("date=2026-11-22", True),
        ("date=2026-11-22T09:33", True), ("date>2026-11-22", False), ("date>=2026-11-22", True),
        ("date<2026-11-22T09:34", True), ("date<=2026-10", False), ("date!=2026-11-21", True),
    ],
)  # fmt: skip
def test_a_filter_passes_matching_records_only(condition, met):
    assert RolloutFilter.parse(condition)(RECORD) is met


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("push", "'push' is no filter; write FIELD"),
        ("colour=red", "names 'colour'; a rollout has id, task"),
        ("task>push", "orders by task; only seed, length"),
        ("length=long", "compares length with 'long'; it is a whole number"),
        ("date=22.11.2026", "names the date '22.11.2026'; write it as 2026-11-22"),
    ],
)
def test_an_invalid_filter_is_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        RolloutFilter.parse(condition)


def test_a_record_must_pass_every_filter():
    assert matching([RECORD, FAILED], []) == [RECORD, FAILED]
    assert matching([RECORD, FAILED], ["robot=sawyer", "outcome=failure"]) == [FAILED]
    assert matching([RECORD, FAILED], ["seed<0", "task=push*"]) == []


def test_every_field_can_be_filtered():
    for name in FIELDS:
        RolloutFilter.parse(f"{name}={'2026' if name == 'date' else 1}")(RECORD)


def test_a_value_with_commas_or_brackets_matches_literally():
    odd = dataclasses.replace(RECORD, id="run[12]", instruction="open the drawer, put the bowl in")
    plain = dataclasses.replace(RECORD, id="run1", instruction="open the drawer")
    assert matching([odd, plain], ["id=run[12]"]) == [odd]
    assert odd in matching([odd, plain], ["instruction=open the drawer, put the bowl in"])
