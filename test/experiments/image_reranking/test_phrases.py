# SPDX-License-Identifier: MIT
"""The target phrase of instructions of LIBERO, of Meta-World and of others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efn_ros.experiments.image_reranking.phrases import MARKS, target_phrase


@pytest.mark.parametrize(
    ("instruction", "target"),
    [
        # LIBERO
        ("pick up the black bowl between the plate and the ramekin and place it on the plate", "black bowl"),
        ("pick up the black bowl from table center and place it on the plate", "black bowl"),
        ("pick up the black bowl in the top drawer of the wooden cabinet and place it on the plate", "black bowl"),
        ("pick up the black bowl next to the cookie box and place it on the plate", "black bowl"),
        ("pick up the book in the middle and place it on the cabinet shelf", "book"),
        ("pick up the cream cheese box and put it in the basket", "cream cheese box"),
        ("pick up the yellow and white mug and place it to the right of the caddy", "yellow and white mug"),
        ("put the yellow and white mug to the front of the white mug", "yellow and white mug"),
        ("put the white mug on the left plate and put the yellow and white mug on the right plate", "white mug"),
        ("put both moka pots on the stove", "moka pots"),
        ("put both the alphabet soup and the cream cheese box in the basket", "alphabet soup"),
        ("put the middle black bowl on top of the cabinet", "middle black bowl"),
        ("put the butter at the back in the top drawer of the cabinet and close it", "butter"),
        ("put the frying pan under the cabinet shelf", "frying pan"),
        ("push the plate to the front of the stove", "plate"),
        ("stack the left bowl on the right bowl and place them in the tray", "left bowl"),
        ("open the top drawer and put the bowl inside", "top drawer"),
        ("open the middle drawer of the cabinet", "middle drawer of the cabinet"),
        ("close the bottom drawer of the cabinet and open the top drawer", "bottom drawer of the cabinet"),
        ("turn on the stove and put the moka pot on it", "stove"),
        ("turn off the stove", "stove"),
        ("Pick the akita black bowl on the wooden cabinet and place it on the plate", "akita black bowl"),
        # Meta-World
        ("reach the red ball", "red ball"),
        ("push the puck to the green ball", "puck"),
        ("pick up the puck and bring it to the blue ball", "puck"),
        ("open the drawer", "drawer"),
        ("open the door of the safe", "door of the safe"),
        ("slide the window open", "window"),
        ("slide the window closed", "window"),
        ("turn the faucet on", "faucet"),
        ("press the button down from above", "button"),
        ("slide the plate into the cabinet", "plate"),
        ("press the button of the coffee machine", "button of the coffee machine"),
        # Others
        ("Pick up the red cup and place it on the plate.", "red cup"),
        ("put spoon on towel", "spoon"),
        ("pick up red cup", "red cup"),
        ("Please, open the drawer", "drawer"),
        ("bring me a cup of tea", "cup of tea"),
        ("push down on the lever, then stop", "lever"),
        ("pick up the cup and leave", "cup"),
        ("grasp the t-shirt!", "t-shirt"),
    ],
)
def test_the_target_is_the_first_object_that_an_instruction_names(instruction, target):
    assert target_phrase(instruction) == target


@pytest.mark.parametrize("instruction", ["Stop!", "turn it on.", "grasp it"])
def test_an_instruction_without_an_object_is_the_target_without_its_marks(instruction):
    assert target_phrase(instruction) == instruction.lower().rstrip(".!")


@given(st.text())
def test_any_text_has_a_target_of_its_own_words_without_marks(instruction):
    words = target_phrase(instruction).split()
    assert not MARKS.intersection(words) and all(word in instruction.lower() for word in words)
