# SPDX-License-Identifier: MIT
"""Background work yields to a running episode."""

import pytest

from efn_ros.online import throttle as throttling
from efn_ros.online.throttle import Throttle


def test_while_an_episode_runs_work_is_limited_to_its_share_or_waits(monkeypatch):
    throttle, waited = Throttle(0.25), []
    monkeypatch.setattr(throttle, "wait", waited.append)
    monkeypatch.setattr(throttling.time, "monotonic", lambda: throttle._resumed + 2.0)
    throttle()
    throttle.busy = True
    throttle()
    assert waited == [0.0, pytest.approx(6.0)]
    throttle = Throttle(0.0)
    throttle.busy, polls = True, []

    def poll(seconds):
        polls.append(seconds)
        throttle.busy = len(polls) < 3

    monkeypatch.setattr(throttle, "wait", poll)
    throttle()
    assert polls == [throttling.POLL_S] * 3 + [0.0]
