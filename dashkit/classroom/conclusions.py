"""Sentences that interpret results, said only where the results support them."""

import os

STRICT = "DASHKIT_STRICT"
"""Set to 1 in the environment by the project's own tests: a false sentence is then an error."""


def conclude(sentence: str, holds: object, *, profile: str) -> None:
    """Print a sentence about the results of `profile` if it holds, and otherwise that these results contradict it.

    The sentences of the series are about the profile `digits`.  AssertionError if one is false of `digits` while
    DASHKIT_STRICT is set; a learner whose own run differs is told so and goes on.
    """
    if holds:
        print(sentence)
        return
    if profile == "digits" and os.environ.get(STRICT, "") not in ("", "0"):
        raise AssertionError(f"false of the profile digits: {sentence}")
    print(f"The profile {profile} does not show this here: {sentence}")
