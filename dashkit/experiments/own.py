"""A user's own pictures and networks: what a comparison needs, before and after a student was trained."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from torch import nn

from dashkit.datasets.look import check_classes, check_pictures, look
from dashkit.experiments import trial
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run, Teacher, pick_device
from dashkit.experiments.settings import parse_settings
from dashkit.interop import networks
from dashkit.interop.schedules import same
from dashkit.method.images import words_differ

MEASURED = {"ws": (1.0, 1.5, 2.0, 4.0), "samples": 500, "states": 2000, "sample_steps": 50}
"""What `measure` measures, unless it is told otherwise."""


def comparison(teacher: str | os.PathLike, students: dict[str, str], images: str | os.PathLike, *,
               null_label: int | str | None = None, device: str = "auto", **settings: object,
               ) -> tuple[Run, Teacher, dict[str, nn.Module]]:
    """A run that compares students, by name, with their teacher on pictures, and the networks; it trains nothing.

    Networks are what `interop.networks.load` takes.  ValueError or FileNotFoundError in one sentence if they do not
    belong together: other pictures, other classes, another noise schedule, another kind of prediction.  Doubts are
    printed.
    """
    found, there = look(images), Path(images).expanduser().resolve()
    check_classes(found, images)
    shape = networks.Shape(found.channels, min(found.height, found.width), found.num_classes)
    loaded = networks.load(teacher, null_label=null_label, images=shape)
    net = loaded.model.config
    check_pictures(found, net.size, net.channels, images)
    source = networks.Source(net.size, net.channels, found.num_classes, os.fspath(teacher), null_label)
    given = {name: _student(place, null_label, loaded.rows, images=shape, diffusion=loaded.diffusion)
             for name, place in students.items()}
    for name, one in given.items():
        _check_pair(name, one, loaded)
    profile = dataclasses.replace(
        PROFILES["digits"], name="measure", dataset=str(there), teacher=source, student=source, arms=("dash",), seeds=1,
        T=loaded.diffusion.schedule.T)
    run = Run(dataclasses.replace(profile, **parse_settings(MEASURED | settings)), device=pick_device(device))
    trial.say_doubts(run)
    return run, load_teacher(run), {name: one.model.to(run.device) for name, one in given.items()}


def _student(place: str, null_label: int | str | None, rows: tuple[int, ...], **known: Any) -> networks.Found:
    """A student as it says itself which label means "no class".

    Where it says nothing it is as `null_label` was named; where that could only be guessed, it is as in the teacher,
    whose `rows` are given, unless a random class takes its place there.
    """
    try:
        found = networks.load(place, null_label=None, **known)
    except ValueError:
        if null_label is None:
            raise
        return networks.load(place, null_label=null_label, **known)
    null = rows[-1]
    if found.says_null or null in rows[:-1] or null not in found.rows:
        return found
    return networks.load(place, null_label=null, **known)


def _check_pair(name: str, student: networks.Found, teacher: networks.Found) -> None:
    a, b = student.model.config, teacher.model.config
    if (a.channels, a.size, a.num_classes) != (b.channels, b.size, b.num_classes):
        raise ValueError(f"the {name} takes {a.channels} x {a.size} x {a.size} pictures of {a.num_classes} classes, "
                         f"and the teacher {b.channels} x {b.size} x {b.size} of {b.num_classes}; they must be the "
                         "same")
    if student.names != teacher.names and sorted(student.names) == sorted(teacher.names):
        raise ValueError(f"the {name} and the teacher know the same classes in another order ({student.names[0]} and "
                         f"{teacher.names[0]} first); they must be the same")
    if words_differ(student.names, teacher.names):
        only = sorted({*student.names} - {*teacher.names}), sorted({*teacher.names} - {*student.names})
        raise ValueError(f"the {name} and the teacher know other classes ({only[0][0]} and {only[1][0]} are in only "
                         "one); they must be the same")
    if not same(student.diffusion.schedule, teacher.diffusion.schedule):
        raise ValueError(f"the {name} and the teacher have different noise schedules (T = "
                         f"{student.diffusion.schedule.T} and {teacher.diffusion.schedule.T}): their gaps cannot be "
                         "compared state by state")
    if networks.ignores_label(student.model):
        raise ValueError(f"the {name} ignores its label: its output is the same for every class, so there is no "
                         "guidance gap to measure")
