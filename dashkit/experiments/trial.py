"""A short trial of a teacher from elsewhere on the user's pictures, before any long work: does it denoise them?

A teacher that is misread, as another kind of prediction or with other labels, would be imitated with all its errors.
"""

from typing import Protocol

from torch import Tensor, nn

from dashkit.experiments import processes
from dashkit.experiments.profiles import Profile
from dashkit.interop.networks import Found, Source
from dashkit.interop.schedules import PREDICTIONS, from_eps, to_eps
from dashkit.method.calibration import all_branches, held_out_states
from dashkit.method.images import Images
from dashkit.method.schedule import Schedule
from dashkit.method.unet import n_parameters

STATES, FEW_STATES, LARGE = 256, 64, 50_000_000      # fewer for a network with more parameters than LARGE
BETTER = 0.8             # another reading has to have less than this share of the error to be clearly better
STD = (0.5, 2.0)         # of latents that were multiplied by their scaling factor
SEED = 5
_tried: dict[tuple[str, str, str], list[str]] = {}


class Run(Protocol):
    """What is looked at of a `Run`."""

    profile: Profile

    @property
    def images(self) -> Images: ...

    @property
    def given(self) -> Found: ...

    @property
    def data_digest(self) -> str: ...

    @property
    def schedule(self) -> Schedule: ...


def doubts(run: Run) -> list[str]:
    """What speaks against the teacher, or the latents, in sentences; nothing where all is well.

    Nothing is said of a teacher that is trained here.  ValueError if the teacher denoises these pictures clearly
    better as another kind of prediction than the one that it is said to make.  A teacher is tried once in a process.
    """
    key = _key(run)
    if key not in _tried:
        said = _of_latents(run.images) if run.images.latent else []
        _tried[key] = said + (_of_teacher(run) if isinstance(run.profile.teacher, Source) else [])
    return _tried[key]


def say_doubts(run: Run) -> None:
    """Print the doubts unless they are known already.  ValueError as `doubts` says."""
    known = _key(run) in _tried
    found = doubts(run)
    if found and not known and processes.is_main():
        print(*found, sep="\n")


def _key(run: Run) -> tuple[str, str, str]:
    network = run.given.digest if isinstance(run.profile.teacher, Source) else ""
    return network, run.profile.dataset, run.data_digest


def _of_latents(images: Images) -> list[str]:
    std = float(images.test_x0.std())
    if STD[0] <= std <= STD[1]:
        return []
    return [f"The latents have a standard deviation of {std:.2g}, and networks learn from about 1: give the encoder's "
            "output times its scaling_factor."]


def _of_teacher(run: Run) -> list[str]:
    prediction, name = run.given.diffusion.prediction, run.profile.teacher.source
    model: nn.Module = run.given.model
    states = held_out_states(run.schedule, run.images, STATES if n_parameters(model) < LARGE else FEW_STATES, seed=SEED)
    scales = run.schedule.scales(states.t, states.x_t)
    noise = scales[1].square()

    def error(eps: Tensor) -> Tensor:
        """Of the noise where there is much, and of the picture where there is little: weighted by the noise's power."""
        return (noise * (eps - states.eps).square()).flatten(1).mean(1)

    pair = all_branches(model, states, batch=64)
    with_class, without = (float(error(eps).mean()) for eps in pair)
    outputs = [from_eps(eps, states.x_t, scales, prediction) for eps in pair]
    errors = {p: min(float(error(to_eps(out, states.x_t, scales, p)).mean()) for out in outputs) for p in PREDICTIONS}
    # what the noisy picture, made smaller, says of the noise: the least that a network has to learn
    power = states.x0.square().mean()
    shrunk = float(error(scales[1] * states.x_t / (scales[0].square() * power + noise)).mean())
    best = min(errors, key=lambda p: errors[p])
    if errors[best] < BETTER * min(errors[prediction], shrunk):
        raise ValueError(f"{name} is said to predict {prediction}, and denoises these pictures better as {best} (error "
                         f"{errors[best]:.3g} instead of {errors[prediction]:.3g}): set its prediction_type to {best}, "
                         "in the scheduler's config or as the module's attribute")
    if not errors[prediction] < shrunk:
        return [f"The teacher does not denoise these pictures: its error is {errors[prediction]:.3g}, and that of the "
                f"noisy picture made smaller {shrunk:.3g}. Is it trained, on pictures of this range and kind, and with "
                "this schedule?"]
    if not with_class < without:
        return [f"The teacher denoises these pictures no better with their class than without (error {with_class:.3g} "
                f"and {without:.3g}): its classes may be in another order, or the null label may be another one."]
    return []
