"""The classroom: figures, explorers, exercises with their checks, predictions.  For the notebooks and their teachers.

This room imports all rooms above it: method, storage, datasets, interop, experiments and analysis.  `plots` and
`explorers` are modules: `from dashkit.classroom import plots`.
"""

from dashkit.classroom.checks import Note, Result, check, hint, my_progress, recall
from dashkit.classroom.conclusions import conclude
from dashkit.classroom.journal import guess_label, predict

__all__ = [
    "Note", "Result", "check", "conclude", "guess_label", "hint", "my_progress", "predict", "recall",
]
