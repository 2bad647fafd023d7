# SPDX-License-Identifier: MIT
"""Limits: what comes out obeys every bound over a whole chunk and across its seam, and no more is taken than needed.

What `within` does with commands step by step is in test_motion.py.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.correction.limits import ActionLimits
from efn_ros.robots.motion import RefusedActionError

SIZE = 2
EPS = float(np.finfo(np.float32).eps)
NOTHING = np.empty((0, SIZE), np.float32)
RATES = ("velocity", "acceleration", "jerk")  # bounds of the first, second and third difference
anything = st.floats(allow_nan=False, width=32)  # infinities, subnormals and the largest numbers too
thorough = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(size=SIZE, **bounds) -> ActionLimits:
    values = {"low": [-1.0] * size, "high": [1.0] * size, "residual": [0.5] * size, "holds_last": [False] * size}
    return ActionLimits.create(**{"rate_hz": 10.0, **values, **bounds})


def rows(count, elements, size=SIZE):
    """float32 (count, size); count may be a number or a strategy."""
    count = st.just(count) if isinstance(count, int) else count
    return count.flatmap(lambda n: hnp.arrays(np.float32, (n, size), elements=elements))


@st.composite
def limited(draw, unlimited_rates=False):
    """Limits of every magnitude, some of them absent, and a horizon."""
    bound = st.one_of(st.floats(0, 1000, width=32), st.just(np.inf))
    low = draw(hnp.arrays(np.float32, SIZE, elements=st.floats(-1000, 999, width=32)))
    span = draw(hnp.arrays(np.float32, SIZE, elements=st.floats(2.0**-10, 2000, width=32)))
    high = low + span
    assume((high > low).all())
    vector = st.lists(bound, min_size=SIZE, max_size=SIZE)
    rates = {} if unlimited_rates else {name: draw(vector) for name in RATES}
    return make(low=low, high=high, residual=draw(vector), rate_hz=draw(st.floats(0.5, 100)), **rates)


@st.composite
def chunks(draw, limits, elements=anything):
    """An accepted base, a residual and what was commanded before, which was within its limits too."""
    horizon = draw(st.integers(1, 4))
    past = draw(rows(st.integers(0, 4), st.floats(-2000, 2000, width=32)))
    base = draw(rows(horizon, st.floats(-2000, 2000, width=32)))
    residual = draw(rows(horizon, elements))
    clip = lambda chunk: np.clip(chunk, limits.low, limits.high)  # noqa: E731
    return clip(base), residual, clip(past)


def differences(past, chunk, order):
    """In double precision, of the last three commands and the chunk."""
    return np.diff(np.concatenate([past[-3:], chunk]).astype(np.float64), order, axis=0)


def bounds(limits):
    return zip((1, 2, 3), (limits.velocity, limits.acceleration, limits.jerk), strict=True)


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


# accept: the base as it is, within low and high, or a refusal that says what is wrong


@thorough
@given(st.data(), limited())
def test_an_accepted_base_is_clipped_to_low_and_high_and_nothing_else(data, limits):
    base = data.draw(rows(4, finite))
    np.testing.assert_array_equal(limits.accept(base, NOTHING), np.clip(base, limits.low, limits.high))


@thorough
@given(st.data(), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 3), st.integers(0, SIZE - 1))
def test_a_value_that_is_not_finite_is_refused_and_named(data, value, step, entry):
    base = data.draw(rows(4, finite))
    base[step, entry] = value
    with pytest.raises(RefusedActionError, match=rf"action\[{step}\]\[{entry}\] is {value}"):
        make().accept(base, NOTHING)


@thorough
@given(st.data(), limited(), st.floats(0.01, 1000))
def test_what_is_accepted_never_jumps_beyond_reject_and_what_is_refused_does(data, limits, reject):
    limits = make(low=limits.low, high=limits.high, reject=[reject] * SIZE)
    base, _, past = data.draw(chunks(limits))
    jumps = np.abs(np.diff(np.concatenate([past[-1:], base]), axis=0))
    if (jumps > limits.reject).any():
        with pytest.raises(RefusedActionError, match=r"action\[\d\]\[\d\] jumps by \d+\.\d+, beyond \d+\.\d+"):
            limits.accept(base, past)
    else:
        np.testing.assert_array_equal(limits.accept(base, past), base)


def test_a_jump_is_named_with_its_entry_its_size_and_its_bound():
    limits = make(low=[-9.0] * SIZE, high=[9.0] * SIZE, reject=[9.0, 1.0])
    base = np.array([[0, 0], [5, 0.5], [5, 2.25]], np.float32)
    with pytest.raises(RefusedActionError, match=r"^action\[2\]\[1\] jumps by 1\.7500, beyond 1\.0000$"):
        limits.accept(base, NOTHING)


def test_the_seam_with_what_was_commanded_before_is_a_jump_too():
    limits, base = make(reject=[0.5] * SIZE), np.zeros((2, SIZE), np.float32)
    near, far = np.full((1, SIZE), 0.5, np.float32), np.full((1, SIZE), 0.75, np.float32)
    assert limits.accept(base, np.concatenate([far, near])) is not None
    with pytest.raises(RefusedActionError, match=r"action\[0\]\[0\] jumps by 0\.7500"):
        limits.accept(base, np.concatenate([near, far]))


@pytest.mark.parametrize("shape", [(0, 2), (2, 1), (2, 3), (2,), (1, 2, 2)])
def test_a_chunk_of_another_shape_is_refused_and_named(shape):
    with pytest.raises(RefusedActionError, match=r"\(H >= 1, 2\) was expected"):
        make().accept(np.zeros(shape, np.float32), NOTHING)


# add: as much of the residual as the limits leave


@thorough
@given(st.data(), limited())
def test_what_comes_out_is_within_low_and_high(data, limits):
    base, residual, past = data.draw(chunks(limits))
    corrected = limits.add(base, residual, past)
    assert corrected.dtype == np.float32 and corrected.shape == base.shape
    assert (corrected >= limits.low).all() and (corrected <= limits.high).all()


@thorough
@given(st.data(), limited())
def test_the_residual_that_is_left_is_within_its_bound_and_points_where_it_did(data, limits):
    base, residual, past = data.draw(chunks(limits))
    left = limits.add(base, residual, past).astype(np.float64) - base
    rounding = EPS * np.maximum(np.abs(base), np.abs(base + left))
    assert (np.abs(left) <= limits.residual + rounding).all()
    assert (np.abs(left) <= np.abs(residual.astype(np.float64)) + rounding).all()
    assert (left * np.sign(residual) >= 0).all()


@thorough
@given(st.data(), limited())
def test_no_difference_exceeds_its_limit_or_what_the_base_alone_reaches(data, limits):
    base, residual, past = data.draw(chunks(limits))
    corrected = limits.add(base, residual, past)
    largest = np.abs(np.concatenate([past[-3:], base, corrected]).astype(np.float64)).max(axis=0)
    for order, bound in bounds(limits):
        allowed = np.maximum(bound / limits.rate_hz**order, np.abs(differences(past, base, order)))
        rounding = 2 ** (order + 1) * EPS * largest
        assert (np.abs(differences(past, corrected, order)) <= allowed * (1 + EPS) + rounding).all(), RATES[order - 1]


@thorough
@given(st.data(), limited(), st.floats(0.01, 1000))
def test_a_corrected_action_never_jumps_beyond_reject(data, limits, reject):
    limits = make(low=limits.low, high=limits.high, residual=limits.residual, reject=[reject] * SIZE)
    base, residual, past = data.draw(chunks(limits))
    assume((np.abs(differences(past, base, 1)) <= limits.reject).all())
    corrected = limits.add(limits.accept(base, past), residual, past)
    rounding = 4 * EPS * np.abs(np.concatenate([past[-1:], base, corrected])).max()
    assert (np.abs(differences(past[-1:], corrected, 1)) <= limits.reject + rounding).all()


@thorough
@given(st.data(), limited())
def test_a_residual_of_zero_leaves_the_base_as_it_is(data, limits):
    base, _, past = data.draw(chunks(limits))
    np.testing.assert_array_equal(limits.add(base, np.zeros_like(base), past), base)


@thorough
@given(st.data(), limited(unlimited_rates=True))
def test_without_rate_limits_it_is_the_clipped_sum_of_base_and_bounded_residual(data, limits):
    base, residual, past = data.draw(chunks(limits))
    bounded = np.clip(residual, -limits.residual, limits.residual)
    np.testing.assert_array_equal(limits.add(base, residual, past), np.clip(base + bounded, limits.low, limits.high))


@thorough
@given(st.data())
def test_dimensions_do_not_touch_one_another(data):
    limits = data.draw(limited())
    base, residual, past = data.draw(chunks(limits))
    together = limits.add(base, residual, past)
    for i in range(SIZE):
        alone = residual.copy()
        alone[:, np.arange(SIZE) != i] = 0
        np.testing.assert_array_equal(limits.add(base, alone, past)[:, i], together[:, i])


eighths = st.integers(-16, 16).map(lambda i: i / 8)  # sums and differences of these are exact


@thorough
@given(
    base=rows(4, eighths, 1),
    residual=rows(4, eighths, 1),
    past=rows(st.integers(0, 4), eighths, 1),
    rates=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, np.inf])] * 3),
)
def test_the_residual_is_scaled_back_no_further_than_it_must(base, residual, past, rates):
    """Against a search over the scale, every candidate checked limit by limit."""
    given_rates = {name: [rate] for name, rate in zip(RATES, rates, strict=True)}
    limits = make(1, low=[-2.0], high=[2.0], residual=[1.0], rate_hz=2.0, **given_rates)
    target = np.clip(base + np.clip(residual, -1, 1), -2, 2).astype(np.float64)

    def admissible(scale: float) -> bool:
        tried = base + scale * (target - base)
        return all(
            (
                np.abs(differences(past, tried, order))
                <= np.maximum(bound / 2.0**order, np.abs(differences(past, base, order))) + 1e-9
            ).all()
            for order, bound in bounds(limits)
        )

    grid = np.linspace(0, 1, 385)  # thirds, quarters and eighths among them
    best = grid[[admissible(scale) for scale in grid]].max()
    moved = np.abs(target - base).argmax()
    assume(target[moved] != base[moved])
    scale = (limits.add(base, residual, past) - base)[moved] / (target - base)[moved]
    assert best - 1e-6 <= scale <= best + grid[1] + 1e-6


@pytest.mark.parametrize("velocity", [0.5, 0.2])
def test_an_even_push_passes_whole_also_where_the_base_moves_at_its_limit_or_beyond(velocity):
    """Rounding makes the differences of base + constant not quite those of the base; that is no reason to hold back."""
    limits = make(1, residual=[0.2], velocity=[velocity])
    base = np.linspace(0, 0.5, 11, dtype=np.float32)[:, None]  # 0.5 a second
    push = np.full_like(base, 0.17)
    pushed_before = base[:1] + push[:1] - np.float32(0.05)
    np.testing.assert_array_equal(limits.add(base, push, pushed_before), base + push)


def test_a_push_that_grows_a_little_is_more_than_rounding():
    limits = make(1, residual=[0.2], velocity=[0.5])
    base = np.linspace(0, 0.5, 11, dtype=np.float32)[:, None]
    growing = np.linspace(0, 1e-5, 11, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(limits.add(base, growing, base[:0]), base)
    np.testing.assert_array_equal(limits.add(base, -growing, base[:0]), base - growing)


def test_the_last_three_commands_matter_and_older_ones_do_not():
    limits = make(1, low=[-9.0], high=[9.0], residual=[9.0], jerk=[1.0], rate_hz=1.0)
    past, base = np.array([[7], [0], [0], [0]], np.float32), np.zeros((1, 1), np.float32)
    push = np.full((1, 1), 5, np.float32)
    # The third difference is that of the push: 5 is scaled back to 1.
    for start in (0, 1):
        assert limits.add(base, push, past[start:]) == 1
    assert limits.add(base, push, past[2:]) == 5  # of two commands there is no third difference


# within: a whole chunk, its base too, in the units of the limits


@thorough
@given(st.data(), limited(), st.floats(0.01, 1000))
def test_a_chunk_obeys_every_limit_in_its_units_and_never_jumps_beyond_reject(data, limits, reject):
    rates = {name: getattr(limits, name) for name in RATES}
    limits = make(low=limits.low, high=limits.high, rate_hz=limits.rate_hz, reject=[reject] * SIZE, **rates)
    target, _, past = data.draw(chunks(limits))
    chunk = limits.within(target, past[:1])
    assert chunk.dtype == np.float32 and chunk.shape == target.shape
    assert (limits.low <= chunk).all() and (chunk <= limits.high).all()
    begin = past[:1] if len(past) else chunk[:1]  # at rest there before
    rounding = EPS / 2 * np.abs(np.concatenate([begin, chunk])).max(axis=0) * (1 + EPS)
    for order, bound in bounds(limits):
        allowed = bound.astype(np.float64) / limits.rate_hz**order
        reached = np.abs(differences(np.repeat(begin, 3, axis=0), chunk, order))
        assert (reached <= allowed + 2**order * rounding).all(), RATES[order - 1]
    assert (np.abs(differences(begin, chunk, 1)) <= limits.reject + 2 * rounding).all()


# hold: to a standstill, within the limits


@thorough
@given(st.data(), limited(), st.lists(st.booleans(), min_size=SIZE, max_size=SIZE), st.integers(1, 30))
def test_without_limits_of_motion_holding_repeats_positions_and_stops_velocities(data, limits, holds_last, horizon):
    limits = make(low=limits.low, high=limits.high, holds_last=holds_last)
    _, _, past = data.draw(chunks(limits))
    held = limits.hold(past, horizon)
    last = past[-1] if len(past) else np.zeros(SIZE, np.float32)
    expected = np.clip([last[i] if holds_last[i] else 0.0 for i in range(SIZE)], limits.low, limits.high)
    assert held.dtype == np.float32
    np.testing.assert_array_equal(held, np.tile(expected.astype(np.float32), (horizon, 1)))


@thorough
@given(st.data(), limited())
def test_holding_repeats_a_position_at_rest_whatever_the_limits(data, limits):
    rates = {name: getattr(limits, name) for name in RATES}
    limits = make(low=limits.low, high=limits.high, holds_last=[True] * SIZE, **rates)
    still = np.clip(data.draw(rows(1, st.floats(-2000, 2000, width=32))), limits.low, limits.high)
    np.testing.assert_array_equal(limits.hold(still, 3), np.repeat(still, 3, axis=0))


def test_a_position_in_motion_brakes_ahead_and_a_velocity_goes_to_zero():
    """At 10 Hz a step of 0.1 is a speed of 1/s; it is lost in steps of 0.04 at most, as 4/s^2 allows."""
    limits = make(holds_last=[True, False], velocity=[1.0] * SIZE, acceleration=[4.0] * SIZE)
    path = np.float32([[0.1, 0.3], [0.2, 0.4], [0.3, 0.5]])
    for _ in range(10):
        path = np.concatenate([path, limits.hold(path, 10)[:4]])
    np.testing.assert_allclose(path[3:7, 0], [0.36, 0.38, 0.38, 0.38], atol=1e-6)
    assert (path[7:, 0] == path[6, 0]).all() and path[3, 1] > 0.5 and (path[-4:, 1] == 0).all()
    assert np.abs(np.diff(path, axis=0)).max() <= 0.1 + EPS
    assert np.abs(np.diff(path, 2, axis=0)).max() <= 0.04 + 2 * EPS


# create


@pytest.mark.parametrize("name", ["high", "velocity", "acceleration", "jerk", "reject", "residual", "holds_last"])
def test_a_limit_of_another_size_is_named(name):
    with pytest.raises(ValueError, match=f"limit '{name}' has 3 entries, but an action has 2"):
        make(**{name: [1.0, 1.0, 1.0]})


@pytest.mark.parametrize("name", ["low", "high", "velocity", "acceleration", "jerk", "reject", "residual"])
def test_a_limit_that_is_no_number_is_named(name):
    with pytest.raises(ValueError, match=f"limit '{name}' is .*nan.*: every entry must be a number"):
        make(**{name: [1.0, np.nan]})


@pytest.mark.parametrize("name", ["velocity", "acceleration", "jerk", "reject", "residual"])
def test_a_negative_limit_is_named(name):
    with pytest.raises(ValueError, match=f"limit '{name}' is .*-0.5.*: every entry must be a number of at least 0.0"):
        make(**{name: [1.0, -0.5]})


@pytest.mark.parametrize("low, high", [([0, 1], [1, 1]), ([2, 0], [1, 1])])
def test_low_must_lie_below_high(low, high):
    with pytest.raises(ValueError, match="limit 'low' .* must lie below 'high'"):
        make(low=low, high=high)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, np.nan, np.inf])
def test_a_rate_that_is_no_rate_is_named(rate_hz):
    with pytest.raises(ValueError, match=f"rate_hz is {rate_hz}"):
        make(rate_hz=rate_hz)


def test_a_limit_left_out_is_no_limit():
    limits = make()
    for name in (*RATES, "reject"):
        assert np.isinf(getattr(limits, name)).all(), name
