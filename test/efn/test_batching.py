# SPDX-License-Identifier: MIT
"""The present episode as the network reads it: decision by decision, as memory gives it."""

from dataclasses import replace

import numpy as np
from sample_networks import CONFIG, A, H, P

from efn_ros.efn.batching import recent_of
from efn_ros.types import PastDecision


def test_what_the_episode_has_shown_is_given_as_memory_gives_it():
    """Decision by decision: where the robot was, what it did, where that led; before the first one it stood still."""
    rng = np.random.default_rng(0)
    past = [PastDecision(rng.normal(size=P), rng.normal(size=(H, A))) for _ in range(5)]
    now, config = rng.normal(size=P), replace(CONFIG, recent_steps=3)
    for known in range(6):
        recent = recent_of(past[:known], now, config)
        assert recent.mask.tolist() == [[i < known for i in range(3)]]
        for slot in range(min(known, 3)):
            i = slot + max(known - 3, 0)
            before = past[i - 1].executed if i else np.zeros((H, A))
            after = past[i + 1].proprio if i + 1 < known else now
            for name, value in (
                ("executed", past[i].executed),
                ("proprio", past[i].proprio),
                ("proprio_next", after),
                ("executed_before", before),
                ("proprio_before", past[max(i - 1, 0)].proprio),
            ):
                np.testing.assert_allclose(getattr(recent, name)[0, slot], value, rtol=1e-6, err_msg=f"{name} {i}")


def test_only_what_came_after_a_chunk_of_another_size_is_given():
    past = [PastDecision(np.ones(P) * i, np.ones((H + (i == 2), A)) * i) for i in range(5)]
    recent = recent_of(past, np.zeros(P), replace(CONFIG, recent_steps=4))
    assert recent.mask.tolist() == [[True, True, False, False]]
    assert recent.executed[0, :2, 0, 0].tolist() == [3.0, 4.0]
    assert not recent.executed_before[0, 0].any()
