"""The method: what the notebooks teach.  For a reader who knows diffusion and wants to know how guidance is distilled.

Read in this order: schedule, guidance, sampling, losses, arms, curriculum, distillation, calibration.  The rest is
called by these.  This room imports torch, and nothing else of the kit.
"""

from dashkit.method import curriculum, distillation, guidance
from dashkit.method.arms import ARMS, FACTORIAL, OBJECTIVES, Objective, objective, quadratic_name
from dashkit.method.calibration import (
    GapStats,
    States,
    all_branches,
    gap_stats,
    gap_stats_by_timestep,
    held_out_states,
    measure_calibration,
    visited_states,
    x0_branches,
)
from dashkit.method.curriculum import TIRT
from dashkit.method.distillation import draw_states, seeded, student_terms, teacher_targets
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.guidance import Branches, branches, drop_labels
from dashkit.method.images import Images, minibatches, to_float, to_uint8
from dashkit.method.losses import TERMS, GapLoss, composite_metric, distil_terms, gap_loss, per_sample, total
from dashkit.method.quality import (
    Classifier,
    ImageReference,
    class_accuracy,
    frechet_distance,
    make_image_reference,
    measure_quality,
    train_classifier,
)
from dashkit.method.sampling import Sampling, ddim, guided_eps, sample
from dashkit.method.schedule import Noised, Schedule, cosine_schedule, expand, noised
from dashkit.method.students import IndependentCondition, SingleHead
from dashkit.method.training import Learner, Step, fit
from dashkit.method.unet import UNet, UNetConfig, n_parameters

__all__ = [
    "ARMS", "FACTORIAL", "OBJECTIVES", "TERMS", "TIRT", "Branches", "Classifier", "ExactTeacher",
    "GapLoss", "GapStats", "ImageReference", "Images", "IndependentCondition", "Learner", "Noised",
    "Objective", "Sampling", "Schedule", "SingleHead", "States", "Step", "UNet", "UNetConfig", "all_branches",
    "branches", "class_accuracy", "composite_metric", "cosine_schedule", "curriculum", "ddim",
    "distil_terms", "distillation", "draw_states", "drop_labels", "expand", "fit", "frechet_distance", "gap_loss",
    "gap_stats", "gap_stats_by_timestep", "guidance", "guided_eps", "held_out_states", "make_image_reference",
    "measure_calibration", "measure_quality", "minibatches", "n_parameters", "noised", "objective",
    "per_sample", "quadratic_name", "sample", "seeded", "student_terms", "teacher_targets",
    "to_float", "to_uint8", "total", "train_classifier", "visited_states", "x0_branches",
]
