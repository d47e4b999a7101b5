"""How training begins: average and warm-up as they are set, or in step with the planned number of steps.

Settings for hundreds of thousands of steps are wrong for the hundreds that fit a short loan: the average would still be
made of starting weights, and the whole training would be warm-up.
"""

from torch import nn

from dashkit.experiments.profiles import Profile
from dashkit.method.training import Learner, ramp

WARMUP_SHARE = 10       # of a ramped training at most a tenth is warm-up


def paced(profile: Profile, model: nn.Module, *, lr: float, steps: int, ema: float) -> Learner:
    """The learner of one network, with the profile's warm-up, clipping and `pace`."""
    if profile.pace == "fixed":
        return Learner(model, lr=lr, steps=steps, ema=ema, warmup=profile.warmup, clip=profile.clip)
    warmup = min(profile.warmup, steps // WARMUP_SHARE)
    return Learner(model, lr=lr, steps=steps, ema=ramp(ema), warmup=warmup, clip=profile.clip)
