# SPDX-License-Identifier: MIT
"""Synchronised sets: close in time, in order, no item used twice, and every lost item counted."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.ros.synchroniser import Synchroniser

SOURCES = ("left", "right", "state")
DEPTH = 4
thorough = settings(max_examples=100, deadline=None)
# Items as they arrive: from any source, at any stamp, late, twice, or with a source missing for long.
arrivals = st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 40)), max_size=40)
slops = st.integers(0, 15)


def play(items, slop, depth=DEPTH):
    """Return the synchroniser after `items`, each identified by its index, and its sets."""
    synchroniser = Synchroniser(SOURCES, slop, depth)
    sets = [synchroniser.add(source, stamp, i) for i, (source, stamp) in enumerate(items)]
    return synchroniser, [chosen for chosen in sets if chosen is not None]


@thorough
@given(arrivals, slops)
def test_a_set_has_one_item_of_each_source_and_all_lie_within_the_slop(items, slop):
    for chosen in play(items, slop)[1]:
        assert set(chosen) == set(SOURCES)
        stamps = [stamp for stamp, _ in chosen.values()]
        assert max(stamps) - min(stamps) <= slop
        for source, (stamp, item) in chosen.items():
            assert items[item] == (source, stamp)


@thorough
@given(arrivals, slops)
def test_no_item_is_used_twice(items, slop):
    used = Counter(item for chosen in play(items, slop)[1] for _, item in chosen.values())
    assert all(count == 1 for count in used.values())


@thorough
@given(arrivals, slops)
def test_stamps_of_a_source_never_go_back(items, slop):
    sets = play(items, slop)[1]
    for source in SOURCES:
        stamps = [chosen[source][0] for chosen in sets]
        assert stamps == sorted(stamps)


@thorough
@given(arrivals.map(lambda items: list(dict.fromkeys(items))), slops)
def test_stamps_of_a_source_strictly_increase_where_none_comes_twice(items, slop):
    sets = play(items, slop)[1]
    for source in SOURCES:
        stamps = [chosen[source][0] for chosen in sets]
        assert len(set(stamps)) == len(stamps)


@thorough
@given(arrivals, slops, st.integers(1, 8))
def test_every_item_is_used_or_waits_or_is_counted_as_dropped(items, slop, depth):
    synchroniser, sets = play(items, slop, depth)
    before = synchroniser.dropped
    synchroniser.clear()
    waiting = synchroniser.dropped - before
    assert 0 <= waiting <= depth * len(SOURCES)
    assert len(SOURCES) * len(sets) + synchroniser.dropped == len(items)


@thorough
@given(st.permutations(SOURCES), st.lists(st.integers(1, 10), min_size=1, max_size=20), st.randoms())
def test_streams_in_step_lose_nothing(order, gaps, random):
    """Equal stamps, in order for each source, the sources in any order within a period: every period makes a set."""
    stamp, items, expected = 0, [], []
    for gap in gaps:
        stamp += gap
        order = random.sample(order, len(order))
        items += [(source, stamp) for source in order]
        expected.append(stamp)
    synchroniser, sets = play(items, 0)
    assert [chosen["state"][0] for chosen in sets] == expected
    assert synchroniser.dropped == 0


def test_the_nearest_of_several_matches_is_used_and_older_ones_are_dropped():
    synchroniser, sets = play([("left", 0), ("left", 8), ("right", 1), ("right", 7), ("state", 9)], 10)
    assert sets == [{"left": (8, 1), "right": (7, 3), "state": (9, 4)}]
    assert synchroniser.dropped == 2


def test_an_item_newer_than_its_set_waits_for_the_next():
    _, sets = play([("left", 0), ("left", 20), ("right", 0), ("state", 0), ("right", 20), ("state", 20)], 5)
    assert [chosen["left"] for chosen in sets] == [(0, 0), (20, 1)]


def test_the_later_of_two_items_with_the_same_stamp_is_used():
    synchroniser, sets = play([("left", 5), ("left", 5), ("right", 5), ("state", 5)], 0)
    assert sets[0]["left"] == (5, 1) and synchroniser.dropped == 1


def test_equal_stamps_again_give_a_set_again():
    once = [("left", 5), ("right", 5), ("state", 5)]
    _, sets = play([*once, *once], 0)
    assert len(sets) == 2


def test_an_item_older_than_the_last_set_is_dropped():
    synchroniser, sets = play([("left", 5), ("right", 5), ("state", 5), ("left", 4), ("right", 4), ("state", 4)], 0)
    assert len(sets) == 1 and synchroniser.dropped == 3


def test_a_silent_source_costs_no_memory():
    synchroniser, sets = play([("left", i) for i in range(1000)], 10)
    assert sets == [] and synchroniser.dropped == 1000 - DEPTH


def test_after_clearing_time_may_start_again():
    synchroniser, _ = play([("left", 100), ("right", 100), ("state", 100), ("left", 110)], 0)
    synchroniser.clear()
    assert synchroniser.dropped == 1
    assert [synchroniser.add(source, 3, source) is not None for source in SOURCES] == [False, False, True]
