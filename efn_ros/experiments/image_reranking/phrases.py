"""What an instruction is about: the words to look for in an image."""

from __future__ import annotations

import re

DETERMINERS = frozenset("the a an both all each this that these those my your".split())
PRONOUNS = frozenset("it them me us".split())
MARKS = frozenset(".,;:!?")
# What says where a thing is or goes, how it is to end, or what comes next. "Of" is not among them: it names things.
PARTICLES = frozenset(
    "above across after around at away back before behind below beneath beside between by closed down for forward from"
    " in inside into near next off on onto open out over so then through to towards under until up using while with"
    " there here".split()
)
STOPS = DETERMINERS | PRONOUNS | MARKS | PARTICLES


def target_of(instruction: str) -> str:
    """The first thing that an instruction names, in lower case: "red cup" of "Pick up the red cup and place it there".

    The rule: an instruction is a command and its first word, but for "please", the verb. What it is about begins with
    the first word thereafter that is no particle, pronoun or determiner, and goes on up to the next one, a mark, or an
    "and" that begins another command: one without two more words of the name after it ("yellow and white mug"). Where
    nothing is named it is the whole instruction, without its marks.
    """
    words = [word for word in re.findall(r"[\w'-]+|[.,;:!?]", instruction.lower()) if word != "please"]
    begin = next((i for i in range(1, len(words)) if words[i] not in STOPS), len(words))
    end = next((i for i in range(begin, len(words)) if not _names(words, i)), len(words))
    return " ".join(words[begin:end] or [word for word in words if word not in MARKS])


def _names(words: list[str], at: int) -> bool:
    """Whether a word belongs to the name that those before it are of."""
    if words[at] == "and":
        following = words[at + 1 : at + 3]
        return len(following) == 2 and not STOPS.intersection(following)
    return words[at] not in STOPS or (words[at] in DETERMINERS and words[at - 1] == "of")
