# SPDX-License-Identifier: MIT
"""Diagnostics: rates, ages, recent errors and the state, with a clock that the test sets."""

from types import SimpleNamespace

import pytest
from builtin_interfaces.msg import Time

from efn_ros.ros import diagnostics
from efn_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the monotonic clock, to be set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(diagnostics, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def node(clock):
    return Diagnostics("vla_policy")


def part(node, name, lifecycle="active"):
    """Level, text and values of one status."""
    (status,) = [s for s in node.message(Time(sec=7), lifecycle).status if s.name == f"vla_policy: {name}"]
    assert status.hardware_id == "vla_policy"
    return status.level, status.message, {value.key: value.value for value in status.values}


def test_a_message_has_a_stamp_and_one_status_a_part(node):
    message = node.message(Time(sec=7, nanosec=9), "active")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 9)
    assert [s.name for s in message.status] == [
        "vla_policy: state",
        "vla_policy: frequency",
        "vla_policy: stamps",
        "vla_policy: errors",
    ]


def tick(node, clock, count, period_s, age_s=0.0):
    for i in range(count):
        clock.now += period_s if i else 0.0
        node.tick(age_s)


@pytest.mark.parametrize("count, period_s, rate", [(21, 0.1, "10.00"), (5, 0.5, "2.00"), (3, 0.04, "25.00")])
def test_the_rate_is_that_of_the_ticks(node, clock, count, period_s, rate):
    tick(node, clock, count, period_s)
    assert part(node, "frequency") == (OK, f"{rate} Hz", {"rate_hz": rate})


def test_the_rate_of_a_fast_node_is_that_of_its_last_ticks(node, clock):
    tick(node, clock, 300, 0.5)
    tick(node, clock, diagnostics.WINDOW, 0.01)
    assert part(node, "frequency")[2] == {"rate_hz": "100.00"}


def test_the_rate_falls_when_ticks_stop_and_is_zero_after_ten_seconds(node, clock):
    tick(node, clock, 11, 0.1)
    clock.now += 4.0
    assert part(node, "frequency")[2] == {"rate_hz": "2.00"}
    clock.now += 10.0
    assert part(node, "frequency")[2] == {"rate_hz": "0"}
    assert part(node, "stamps") == (OK, "0 in the last 10 s", {})


def test_no_or_one_tick_has_no_rate(node):
    assert part(node, "frequency")[2] == {"rate_hz": "0"}
    node.tick(0.0)
    assert part(node, "frequency")[2] == {"rate_hz": "0"}


def test_ages_are_shown_by_their_median_and_maximum(node, clock):
    for age_s in (0.3, 0.1, 0.2, 0.9, 0.15):
        node.tick(age_s)
        clock.now += 0.1
    assert part(node, "stamps") == (OK, "5 in the last 10 s", {"median_s": "0.2000", "max_s": "0.9000"})


def test_ages_older_than_ten_seconds_are_not_shown(node, clock):
    node.tick(5.0)
    clock.now += 10.5
    node.tick(0.1)
    assert part(node, "stamps")[2] == {"median_s": "0.1000", "max_s": "0.1000"}


def test_an_error_is_shown_for_ten_seconds_and_stays_counted(node, clock):
    assert part(node, "errors") == (OK, "none in the last 10 s", {"last": ""})
    node.error("image of camera 'left' is missing")
    clock.now += 9.9
    assert part(node, "errors") == (
        ERROR,
        "image of camera 'left' is missing",
        {"last": "image of camera 'left' is missing", "errors": "1"},
    )
    clock.now += 0.2
    assert part(node, "errors") == (
        OK,
        "none in the last 10 s",
        {"last": "image of camera 'left' is missing", "errors": "1"},
    )


def test_the_latest_error_counts(node, clock):
    node.error("first")
    clock.now += 9.0
    node.error("second")
    clock.now += 9.0
    level, text, values = part(node, "errors")
    assert (level, text, values["errors"]) == (ERROR, "second", "2")


def test_counts_are_shown_by_name(node):
    node.counts["dropped"] += 3
    node.counts["corrected"] += 5
    assert part(node, "errors")[2] == {"last": "", "corrected": "5", "dropped": "3"}


def test_the_state_is_the_lifecycle_until_the_node_sets_another(node, clock):
    assert part(node, "state", "inactive") == (OK, "inactive", {"lifecycle": "inactive"})
    node.state(WARN, "base only: the memory did not answer within its deadline")
    clock.now += 1000.0
    assert part(node, "state") == (
        WARN,
        "base only: the memory did not answer within its deadline",
        {"lifecycle": "active"},
    )
    node.state(OK, "")
    assert part(node, "state") == (OK, "active", {"lifecycle": "active"})
