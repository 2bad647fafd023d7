"""The machine is the robot's: background work yields to it."""

import pytest

from efn_ros.online import throttle as throttling
from efn_ros.online.throttle import Throttle


def test_while_an_episode_runs_it_takes_its_share_or_waits(monkeypatch):
    throttle, waited = Throttle(0.25), []
    monkeypatch.setattr(throttle, "wait", waited.append)
    monkeypatch.setattr(throttling.time, "monotonic", lambda: throttle._began + 2.0)
    throttle()
    throttle.busy = True
    throttle()
    assert waited == [0.0, pytest.approx(6.0)]
    throttle = Throttle(0.0)
    throttle.busy, looks = True, []

    def look(seconds):
        looks.append(seconds)
        throttle.busy = len(looks) < 3

    monkeypatch.setattr(throttle, "wait", look)
    throttle()
    assert looks == [throttling.POLL_S] * 3 + [0.0]
