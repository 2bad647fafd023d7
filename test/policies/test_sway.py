"""A policy that sways: about its posture, by its amplitude, as the time of the image says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from efn_ros.policies.registry import load_policy
from efn_ros.types import Observation, StepContext

POSTURE = [0.5, -1.0, 0.0]


def sway(stamp_ns=0, **change):
    settings = {"action": POSTURE, "amplitude": 0.2, "sway_hz": 0.5, "rate_hz": 30.0, "horizon": 6} | change
    policy = load_policy("sway", **settings)
    return policy.infer(Observation(StepContext("e", 0, stamp_ns, "", "sway"), {}, np.zeros(3, np.float32))).action


@given(st.integers(0, 2**62))
def test_it_stays_within_its_amplitude_and_has_a_period(stamp_ns):
    action = sway(stamp_ns)
    assert action.shape == (6, 3) and action.dtype == np.float32
    assert (np.abs(action - POSTURE) <= 0.2 + 1e-6).all()
    np.testing.assert_allclose(sway(stamp_ns + 2 * 10**9), action, atol=1e-5)


def test_rows_are_where_it_will_be_then():
    np.testing.assert_allclose(sway(0)[3], sway(100_000_000)[0], atol=1e-6)
    assert np.abs(sway(500_000_000)[0] - np.add(POSTURE, 0.2)).max() < 1e-6
