"""The exercises of notebook 00."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, source


def _scale_and_size(g: torch.Generator) -> tuple:
    """Inputs: a scale w above 1, and rho."""
    a, b = torch.rand(2, generator=g).tolist()
    return 1.2 + 3 * a, 0.2 + 0.6 * b


def answer_00_1(w, rho):
    return w / rho


EXERCISES = {
    "00.1": Exercise(
        "Write answer(w, rho): the scale at which a student with the right u and rho times the gap draws its teacher's "
        "samples at w.",
        lambda w, rho: w / rho, _scale_and_size,
        {"The other way round: at w rho the teacher draws this student's samples.": lambda w, rho: w * rho,
         "That is right for a student whose conditional branch is the teacher's; here the unconditional branch is.":
            lambda w, rho: 1 + (w - 1) / rho,
         "The scale multiplies the gap, so divide; do not subtract.": lambda w, rho: w - rho,
         "rho counts once: the gap is in the formula once.": lambda w, rho: w / rho**2,
         "That is the scale itself: a smaller gap needs a larger scale.": lambda w, rho: w,
         "Upside down: a smaller gap needs a larger scale.": lambda w, rho: rho / w},
        ("The student's guided output at w' is u + w' rho (c - u).", "The teacher's at w is u + w (c - u).",
         "Both are equal if w' rho = w."),
        source(answer_00_1)),
    "00.2": Exercise(
        "At which scale does a student sample perfectly if its conditional branch is exact and its unconditional one "
        "wrong? Give a number.",
        lambda: 1.0, None,
        {"At w = 0 the guided output is the unconditional branch, the wrong one.": lambda: 0.0,
         "At that scale the unconditional branch still counts: its factor is 1 - w.": lambda: 1.5,
         "At w = 2 the error of the unconditional branch counts in full: its factor is 1 - w.": lambda: 2.0,
         "At w = 1/2 both branches count one half.": lambda: 0.5,
         "At w = -1 the unconditional branch counts twice: its factor is 1 - w.": lambda: -1.0},
        ("The guided output is w c + (1 - w) u.", "Which w removes u from it?", "1 - w must be 0."),
        "answer = 1"),
}
