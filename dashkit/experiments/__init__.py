"""Experiments: profiles carried out, stopped and resumed, measured.  For whoever trains or adds an arm.

`start_run` checks every setting; `get_teacher`, `get_students` and `get_results` train and measure what is missing.
This room imports method, storage, datasets and interop, and no notebook machinery.
"""

from dashkit.datasets.sources import load_images
from dashkit.experiments import budget, campaign, fid, pruning
from dashkit.experiments.budget import format_seconds
from dashkit.experiments.cost import counted_passes, flops, peak_memory
from dashkit.experiments.evaluation import evaluate_all, get_results, measure, read_results
from dashkit.experiments.networks import load_curriculum, load_losses, load_student, load_teacher
from dashkit.experiments.profiles import PROFILES, Profile, resolve
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.run import Run, Teacher, pick_device, start_run
from dashkit.experiments.settings import parse_settings, typed
from dashkit.experiments.students import STUDENTS, new_student
from dashkit.experiments.studies import STUDIES, study
from dashkit.experiments.sweeps import sweep, tune
from dashkit.experiments.training import distil, get_students, get_teacher, train_teacher

__all__ = [
    "PROFILES", "STUDENTS", "STUDIES", "Profile", "Run", "Teacher", "budget", "campaign", "counted_passes", "distil",
    "evaluate_all", "fid", "flops", "format_seconds", "get_results", "get_students", "get_teacher", "load_curriculum",
    "load_images", "load_losses", "load_student", "load_teacher", "measure", "new_student", "parse_settings",
    "peak_memory", "pick_device", "progress_bar", "pruning", "read_results", "resolve", "start_run", "study", "sweep",
    "train_teacher", "tune", "typed",
]
