"""How a student begins: new, with a single head, or cut out of its teacher.

A row of `arms.OBJECTIVES` names one of `STUDENTS`.  Its terms and its curriculum stand in the row, too.
"""

from collections.abc import Callable

from torch import Tensor, nn

from dashkit.experiments.pruning import pruned, sliced
from dashkit.method.arms import Objective
from dashkit.method.curriculum import TIRT
from dashkit.method.distillation import seeded
from dashkit.method.students import SingleHead, middle_channels
from dashkit.method.unet import UNet, UNetConfig

STUDENTS: dict[str, Callable[[UNet, UNetConfig], nn.Module]] = {
    "new": lambda teacher, config: config.make(),
    "single_head": lambda teacher, config: SingleHead(config),
    "pruned": pruned,
    "sliced": sliced,
}
"""How a student begins, from the trained teacher and the student's configuration.

A new student may be a network of another library: then its configuration is an `interop.networks.Other`."""


def empty(kind: str, teacher: UNetConfig, config: UNetConfig) -> nn.Module:
    """A student of this kind to load trained weights into."""
    if kind == "pruned":
        return UNet(teacher)
    return SingleHead(config) if kind == "single_head" else config.make()


def new_student(row: Objective, teacher: UNet, config: UNetConfig, *, base: Tensor, seed: int) -> nn.ModuleDict:
    """A student before training: `net`, an `adapter` for hints, a `tirt` that learns a curriculum from `base` (T,)."""
    def make() -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {"net": STUDENTS[row.student](teacher, config)}
        if row.curriculum == "relearned":
            parts["tirt"] = TIRT(base.cpu())
        if "hint" in row.lam:
            width, wanted = map(middle_channels, (config, teacher.config))
            parts["adapter"] = nn.Conv2d(width, wanted, 1)
        return nn.ModuleDict(parts)
    return seeded(seed, make)
