# SPDX-License-Identifier: MIT
"""The target of an instruction: the words that the detector searches for."""

from __future__ import annotations

import re

DETERMINERS = frozenset("the a an both all each this that these those my your".split())
PRONOUNS = frozenset("it them me us".split())
MARKS = frozenset(".,;:!?")
# Words of place, of how an action ends, and of what comes next. "Of" is not among them: it belongs to names.
PARTICLES = frozenset(
    "above across after around at away back before behind below beneath beside between by closed down for forward from"
    " in inside into near next off on onto open out over so then through to towards under until up using while with"
    " there here".split()
)
STOPS = DETERMINERS | PRONOUNS | MARKS | PARTICLES


def target_phrase(instruction: str) -> str:
    """Return the first object that an instruction names, in lower case.

    That of "Pick up the red cup and place it there" is "red cup". An instruction is a command, and its first word,
    except for "please", is the verb. The phrase begins with the first word after it that is no particle, pronoun or
    determiner. It ends before the next such word, a mark, or an "and" that begins another command: one that is not
    followed by two more words of the name ("yellow and white mug"). Where no object is named, the phrase is the whole
    instruction, without its marks.
    """
    words = [word for word in re.findall(r"[\w'-]+|[.,;:!?]", instruction.lower()) if word != "please"]
    begin = next((i for i in range(1, len(words)) if words[i] not in STOPS), len(words))
    end = next((i for i in range(begin, len(words)) if not _continues(words, i)), len(words))
    return " ".join(words[begin:end] or [word for word in words if word not in MARKS])


def _continues(words: list[str], at: int) -> bool:
    """Whether a word belongs to the name before it."""
    if words[at] == "and":
        following = words[at + 1 : at + 3]
        return len(following) == 2 and not STOPS.intersection(following)
    return words[at] not in STOPS or (words[at] in DETERMINERS and words[at - 1] == "of")
