# SPDX-License-Identifier: MIT
"""From each equation of the paper to its code."""

from __future__ import annotations

import importlib
import inspect
from functools import reduce
from pathlib import Path

import pytest

from efn_ros.commands._equations import LAST, WITHOUT_CODE, equations, page, places

ROOT = Path(__file__).resolve().parents[2]
FOUND = places(ROOT)


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_every_equation_has_code_or_a_reason_why_not(number):
    assert (number in FOUND) != (number in WITHOUT_CODE)


@pytest.mark.parametrize("number", sorted(FOUND))
def test_every_place_exists_and_its_docstring_names_the_equation(number):
    for place in FOUND[number]:
        found = reduce(getattr, place.name.split("."), importlib.import_module(place.module))
        assert number in equations(inspect.getdoc(found)), place


@pytest.mark.parametrize(
    ("docstring", "numbers"),
    [
        ("Return x.\n\nSource: equation (7).", [7]),
        (
            "Return x.\n\n    Args:\n        a: It.\n\n    Source: equations (4), (5), (28),\n    (29).\n",
            [4, 5, 28, 29],
        ),
        ("Return the range (1) to (2).", []),
        ("Return x.\n\nSource: REP 105, section (3).", []),
        ("Return x.\n\nSource: arXiv:2511.00091.\n\nSource: equation (16).\n\nUses (17).", [16]),
    ],
)
def test_numbers_are_read_from_the_source_alone(docstring, numbers):
    assert equations(docstring) == numbers


def test_an_equation_without_code_or_reason_is_named(tmp_path):
    (tmp_path / "efn_ros").mkdir()
    with pytest.raises(ValueError, match=r"equation \(1\) has neither code nor an entry"):
        page(tmp_path, "")
