"""The exercises: for each a right answer, the usual mistakes by name, three hints and a solution.

`checks.check` holds a learner's answer against them.
"""

from dashkit.classroom.exercises import (
    lesson00,
    lesson01,
    lesson02,
    lesson03,
    lesson04,
    lesson05,
    lesson06,
    lesson07,
    lesson08,
    lesson09,
    lesson10,
    lesson11,
)
from dashkit.classroom.exercises.exercise import (
    Exercise,
    WrongAnswer,
    as_arrays,
    as_numbers,
    as_series,
    as_tensor,
    describe_value,
)

__all__ = [
    "EXERCISES", "Exercise", "WrongAnswer", "as_arrays", "as_numbers", "as_series", "as_tensor", "describe_value",
]

EXERCISES: dict[str, Exercise] = {}
"""Every exercise; the first two digits are its notebook's."""
for lesson in (lesson00, lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson07, lesson08, lesson09,
               lesson10, lesson11):
    EXERCISES |= lesson.EXERCISES
