# SPDX-License-Identifier: MIT
"""A sine about a posture: within its amplitude, by the time of the image."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from efn_ros.policies.registry import load_policy
from efn_ros.types import Observation, StepContext

POSTURE = [0.5, -1.0, 0.0]


def act(stamp_ns=0, **change):
    settings = {"action": POSTURE, "amplitude": 0.2, "frequency_hz": 0.5, "action_rate_hz": 30.0, "horizon": 6} | change
    policy = load_policy("sine", **settings)
    return policy.infer(Observation(StepContext("e", 0, stamp_ns, "", "sine"), {}, np.zeros(3, np.float32))).action


@given(st.integers(0, 2**62))
def test_it_stays_within_its_amplitude_and_has_a_period(stamp_ns):
    action = act(stamp_ns)
    assert action.shape == (6, 3) and action.dtype == np.float32
    assert (np.abs(action - POSTURE) <= 0.2 + 1e-6).all()
    np.testing.assert_allclose(act(stamp_ns + 2 * 10**9), action, atol=1e-5)


def test_rows_are_where_the_sine_will_be_then():
    np.testing.assert_allclose(act(0)[3], act(100_000_000)[0], atol=1e-6)
    assert np.abs(act(500_000_000)[0] - np.add(POSTURE, 0.2)).max() < 1e-6
