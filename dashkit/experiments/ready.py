"""Can a run be carried to its end?  What would stop it after hours is found before the first step."""

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from dashkit import environment
from dashkit.datasets import fetch
from dashkit.experiments import trial
from dashkit.experiments.settings import number
from dashkit.experiments.students import STUDENTS
from dashkit.interop import networks
from dashkit.interop.networks import Other, Source, ignores_label
from dashkit.interop.schedules import same
from dashkit.method.arms import objective
from dashkit.method.distillation import seeded
from dashkit.method.images import Images
from dashkit.method.memory import at_a_time
from dashkit.method.quality import CHUNK
from dashkit.method.unet import UNet, UNetConfig, n_parameters
from dashkit.storage import store

FEWEST = 2        # images on either side of a Fréchet distance
FEWEST_FID = 4    # real images of FID, which are halved to find its floor
FLOATS = 160      # that a classifier holds of each pixel of a chunk
STEP = {"small": (64, 230), "colour": (256, 310)}
"""By classifier: images of a training step, and the floats that it holds of each of their pixels."""


class Run(trial.Run, Protocol):
    """What is looked at of a `Run`."""

    device: torch.device
    seed: int

    @property
    def student(self) -> UNetConfig | Other: ...


def check_run(run: Run, *, weights: Path | None = None, reference: int | None = None,
              publish: Path | None = None) -> None:
    """Raise an error that names what is missing, if training, measuring or publishing this run is bound to fail.

    ValueError for images, classes or networks that do not fit, FileNotFoundError for a data set or FID's `weights` that
    are not there, ImportError for a missing package, OSError for a folder `publish` that cannot be written.
    `reference` is the number of real images that FID is measured against.  What makes a teacher from elsewhere, or
    latents, doubtful is printed.  Every way to start a run comes here first:
    the teacher's training, the students', a sweep, a search of learning rates, a campaign and the series.
    """
    images = run.images                # is the file there, is it whole, and do the profile's networks fit it?
    _check_images(run, images)
    _check_networks(run)
    trial.say_doubts(run)
    if weights is not None:
        fetch.require_fidelity()
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is not there; type: {environment.kit('fetch inception')}")
        store.checksum(weights)
    most = len(images.pixels) // (2 if run.profile.dataset.endswith("_mirrored") else 1)
    if reference is not None:
        number("the number of reference images", reference, FEWEST_FID, most, whole=True)
    if publish is not None:
        store.check_writable(publish)


def check_student(run: Run) -> None:
    """Raise ValueError if the student of the first arm cannot be trained, or not be written as a folder and opened.

    A new one is tried as it is before training.
    """
    arm, student, given = run.profile.arms[0], run.student, isinstance(run.profile.teacher, Source)
    kind, scheduler = objective(arm).student, run.given.diffusion.config if given else {}
    if objective(arm).reuses or kind == "single_head":
        raise ValueError(f"{arm} is no network that diffusers could sample from; put another arm first in arms")
    own = isinstance(student, Other)
    if scheduler.get("rescale_betas_zero_snr") and (student.diffusion.prediction if own else "epsilon") == "epsilon":
        raise ValueError("the student predicts the noise, and its teacher's schedule has zero terminal SNR: at the "
                         "last timestep such a prediction says nothing. Take a student of the teacher's own class "
                         "(--student teacher), or a function whose module has prediction_type v_prediction or sample")
    if own and not same(student.diffusion.schedule, run.schedule):
        raise ValueError("the student has another noise schedule than its teacher, which it is trained with; leave its "
                         "alphas_cumprod or its scheduler away")
    if kind == "new":
        with tempfile.TemporaryDirectory() as folder:
            networks.write(seeded(run.seed, student.make).eval(), folder, schedule=run.schedule, names=run.images.names,
                           scheduler=scheduler or None)


def _check_images(run: Run, images: Images) -> None:
    name = run.profile.dataset
    if images.num_classes < 2:
        raise ValueError(f"{name} has one class: guidance is the difference that a class makes, so take two or more")
    for part, pixels in (("training", images.pixels), ("held-out", images.test_pixels)):
        if len(pixels) < FEWEST:
            raise ValueError(f"{name} has {len(pixels)} {part} image, and measuring takes {FEWEST} or more: add "
                             "images, or hold out a larger share")
    need, memory = measuring_memory(images, run.profile.classifier), store.machine_memory()
    if run.device.type == "cpu" and memory and need > memory:
        raise ValueError(f"measuring holds the training images of {name} as floats, and what a classifier makes of "
                         f"some of them, {need / 2**30:.1f} GiB, and this machine has {memory / 2**30:.1f} GiB; take "
                         "fewer images, or smaller ones")


def measuring_memory(images: Images, classifier: str) -> int:
    """Bytes that measuring holds at once: all images as floats, and those of a classifier beside them."""
    pixels, shape = math.prod(images.shape[1:]), images.pixels.shape
    most = max(len(images.pixels), len(images.test_pixels))
    batch, floats = STEP[classifier]
    beside = max(min(most, at_a_time(shape, CHUNK)) * FLOATS, batch * floats) * pixels
    return 4 * (images.pixels.numel() + images.test_pixels.numel() + beside)


def _check_networks(run: Run) -> None:
    """Build the teacher and every kind of student without memory for weights: their shapes may not fit each other.

    A teacher from elsewhere is loaded, and a student must be smaller than it and listen to its label.
    """
    profile = run.profile
    kinds = {row.student: arm for arm in profile.arms for row in [objective(arm)]}
    given = not isinstance(profile.teacher, UNetConfig)
    if given:
        _check_size(run, run.given.model)
    with nullcontext() if given else torch.device("meta"):
        teacher = run.given.model if given else UNet(profile.teacher)
        for kind, arm in kinds.items():
            try:
                STUDENTS[kind](teacher, run.student)
            except (ValueError, RuntimeError, LookupError) as error:
                said = " ".join(str(error).split())[:200] if not isinstance(error, LookupError) else (
                    f"their layers differ, the first is {error}")
                raise ValueError(f"{arm} cannot start from the teacher of {profile.name}: {said}") from error


def _check_size(run: Run, teacher: nn.Module) -> None:
    student = seeded(run.seed, run.student.make)
    sizes = n_parameters(student), n_parameters(teacher)
    if sizes[0] >= sizes[1]:
        raise ValueError(f"the student has {sizes[0]:,} parameters and the teacher {sizes[1]:,}: a student is smaller; "
                         "give it fewer channels or blocks")
    if ignores_label(student):
        raise ValueError("the student ignores its label: its output is the same for every class, so it can have no "
                         "guidance gap; let the label enter the network")
