"""A run of a few steps, for tests that train."""

from dashkit.experiments.profiles import resolve
from dashkit.experiments.run import Run


def small_run(root, seed=1, **settings):
    """A run of a few steps."""
    small = {"teacher_steps": 6, "student_steps": 6, "samples": 20, "states": 40, "sample_steps": 2,
             "ws": (1.0, 1.5), "batch": 8, "warmup": 0, "arms": ("dash", "cond_only")}
    return Run(resolve("smoke", **small | settings), seed=seed, root=root)
