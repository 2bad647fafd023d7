# SPDX-License-Identifier: MIT
"""Tables in Markdown: the cells can be read back, and the columns are aligned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.report.tables import markdown, milliseconds, percent

cells = st.text("ab 1.%/-é", max_size=8).map(str.strip)


def parse(table):
    """Header, alignments and rows of a table as GitHub reads it."""
    split = [
        [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")] for line in table.split("\n")
    ]
    return split[0], split[1], split[2:]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_a_table_can_be_read_back(rows):
    header, rule, body = parse(markdown(rows[0], rows[1:]))
    assert [header, *body] == rows
    assert len(rule) == len(header)
    assert rule[0].strip("-") == "" and rule[0]
    for alignment in rule[1:]:
        assert alignment.endswith(":") and set(alignment[:-1]) == {"-"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5))
def test_its_lines_are_equally_long(rows):
    assert len({len(line) for line in markdown(rows[0], rows[1:]).split("\n")}) == 1


def test_the_first_column_is_aligned_left_and_the_others_right():
    assert markdown(["task", "n"], [["reach", 5], ["push", 12.5]]) == "\n".join(
        ["| task  |    n |", "| ----- | ---: |", "| reach |    5 |", "| push  | 12.5 |"]
    )


def test_a_column_of_single_digits_is_still_a_column():
    assert parse(markdown(["task", "n"], [["reach", 5]]))[1] == ["-----", "-:"]


@pytest.mark.parametrize("share, text", [(0, "0 %"), (0.054, "5 %"), (0.5, "50 %"), (2 / 3, "67 %"), (1, "100 %")])
def test_shares_are_shown_in_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize("seconds, text", [(0, "0.00"), (0.0123456, "12.35"), (2.5, "2500.00")])
def test_times_are_shown_in_milliseconds(seconds, text):
    assert milliseconds(seconds) == text
