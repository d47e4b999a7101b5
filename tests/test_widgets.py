"""Each control of each explorer changes the picture and the read-out, and moving it back restores both."""

import time

import numpy as np
import pandas as pd
import pytest
import torch

from dashkit import curriculum, data, widgets
from dashkit.exact import ExactTeacher
from dashkit.schedule import cosine

SCHEDULE = cosine(1000)


@pytest.fixture(autouse=True)
def one_thread():
    """As in the notebooks: threads that wait for each other on a busy machine would be what is timed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_guidance():
    images = data.load("digits")
    teacher = ExactTeacher(SCHEDULE, images.x0, images.labels, bandwidth=0.1)
    late = torch.full((10,), 100)
    return widgets.guidance_explorer(teacher, images.test_x0[:10], images.test_labels[:10],
                                    lambda x: teacher.posterior(x, late), seed=0)


def make_tirt():
    return widgets.tirt_explorer(SCHEDULE, torch.linspace(1, 0, 1000))


def seen(explorer):
    return bytes(explorer.image.value), explorer.readout.value


def make_ledger():
    row = {"paper": "", "ours": 0.5, "lo": 0.1, "hi": 0.9, "n": 8, "rule": "", "note": "", "profile": "digits"}
    return widgets.ledger_explorer(pd.DataFrame([
        row | {"claim": "C2", "measure": "a", "verdict": "holds", "figure": "06_x#a"},
        row | {"claim": "C3", "measure": "b", "verdict": "does not hold", "figure": "07_y#b"}]))


EXPLORERS = {
    "guidance": (make_guidance, {"t": 200, "w": 0.0, "clip": "keep"}),
    "metric": (widgets.metric_explorer, {"w0": True, "w1": True, "w5": False, "more": True}),
    "gap": (widgets.gap_explorer, {"size": 0.3, "noise": 1.5}),
    "ledger": (make_ledger, {"claim": "C2", "verdict": "does not hold"}),
    "tirt": (make_tirt, {"gamma": 1.5, "lr": 0.002, "steps": 100, "base": "min_snr"}),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_each_control_changes_picture_and_readout_and_restores_them(name):
    make, moves = EXPLORERS[name]
    explorer = make()
    first = seen(explorer)
    assert first[0].startswith(b"\x89PNG") and len(first[1]) > 40
    for control, value in moves.items():
        widget = explorer.controls[control]
        before = widget.value
        widget.value = value
        moved = seen(explorer)
        assert all(a != b for a, b in zip(first, moved, strict=True)), control
        widget.value = before
        assert seen(explorer) == first, control


def test_the_extra_scale_counts_once_it_is_switched_on():
    explorer = widgets.metric_explorer()
    first = explorer.image.value
    explorer.controls["extra"].value = 1.25
    assert explorer.image.value == first
    explorer.controls["more"].value = True
    assert "1.25, 4" in explorer.readout.value and "rank 2" in explorer.readout.value
    with_extra = explorer.image.value
    explorer.controls["extra"].value = 2.0
    assert explorer.image.value != with_extra


def test_no_scale_at_all_is_a_sentence():
    explorer = widgets.metric_explorer()
    explorer.controls["w5"].value = False
    assert "nothing is supervised" in explorer.readout.value


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_slider_has_a_box_with_a_name_that_moves_with_it(name):
    explorer = EXPLORERS[name][0]()
    found = 0
    for row in explorer.children:
        for box, slider in zip(getattr(row, "children", ()), getattr(row, "children", ())[1:], strict=False):
            pairs = [(box, slider)] if type(slider).__name__.endswith("Slider") else []
            if type(slider).__name__ == "HBox":
                pairs = [tuple(slider.children)]
            for text, knob in pairs:
                found += 1
                assert type(text).__name__.startswith("Bounded") and text.description
                assert knob.continuous_update is False
                knob.value = knob.min
                assert text.value == knob.min
                text.value = knob.max
                assert knob.value == knob.max
    assert found == sum(type(c).__name__.endswith("Slider") for c in explorer.controls.values())
    for control in explorer.controls.values():
        assert type(control).__name__.endswith("Slider") or control.description


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_move_is_answered_quickly(name):
    make, moves = EXPLORERS[name]
    explorer = make()
    seconds = []
    for control, value in moves.items():
        began = time.perf_counter()
        explorer.controls[control].value = value
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0, seconds          # 0.3 s is meant; the rest is for a busy machine


def test_frozen_tirt_is_tirt_under_adam():
    base, losses = curriculum.published(SCHEDULE), torch.linspace(1, 0, 1000)
    tirt = curriculum.TIRT(base)
    optimiser = torch.optim.Adam(tirt.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        (tirt() * losses).mean().backward()
        optimiser.step()
    fast = widgets.frozen_tirt(base.double().numpy(), losses.double().numpy(), lr=0.01, steps=60)
    assert np.allclose(fast, tirt().detach().numpy(), rtol=1e-2, atol=1e-3)
    assert np.isclose(fast.mean(), 1)
