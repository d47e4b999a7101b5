"""Each control of each explorer changes the picture and the read-out, and moving it back restores both."""

import itertools
import threading
from functools import cache

import ipywidgets as ipw
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dashkit.analysis.statistics import bootstrap
from dashkit.analysis.tables import published_results
from dashkit.classroom import explorers
from dashkit.datasets import sources
from dashkit.method import curriculum, guidance
from dashkit.method.arms import ARMS
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.guidance import branches, interval, tag
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule

SCHEDULE = cosine_schedule(1000)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few points: they must differ, and nobody looks at them."""
    monkeypatch.setitem(plt.rcParams, "savefig.dpi", 40)


@pytest.fixture(autouse=True)
def one_thread():
    """As in the notebooks: threads that wait for each other on a busy machine would be what is timed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def exact_teacher():
    images = sources.load_images("digits")
    return images, ExactTeacher(SCHEDULE, images.x0, images.labels, bandwidth=0.1)


class Resized:
    """An exact teacher with its gap multiplied by rho."""

    def __init__(self, rho):
        self.rho, self.teacher = rho, exact_teacher()[1]
        self.null_label = self.teacher.null_label

    def __call__(self, x_t, t, y):
        c, u = branches(self.teacher, x_t, t, y)
        return torch.where((y == self.null_label)[:, None, None, None], u, u + self.rho * (c - u))


def judge(x):
    return exact_teacher()[1].posterior(x, torch.full((len(x),), 100))


def noise(n):
    return torch.randn((n, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def make_size():
    return explorers.size_explorer(Resized, SCHEDULE, torch.arange(10), x_T=noise(10), classify=judge)


def make_guidance():
    images, teacher = exact_teacher()
    return explorers.guidance_explorer(teacher, images.test_x0[:10], images.test_labels[:10], judge, seed=0)


def make_samples():
    grid = explorers.sample_grid({"teacher": Resized(1.0), "half": Resized(0.5)}, SCHEDULE, torch.arange(4),
                               x_T=noise(4), ws=(1.0, 2.0, 4.0), steps=4)
    return explorers.sample_explorer(grid, torch.arange(4), judge)


def make_results():
    results = published_results("digits").table
    return explorers.results_explorer(results, [a for a in ARMS if a in set(results.arm)], arm="im_base")


def make_tirt():
    return explorers.tirt_explorer(SCHEDULE, torch.linspace(1, 0, 1000))


def seen(explorer):
    return bytes(explorer.image.value), explorer.readout.value


def make_ledger():
    row = {"paper": "", "ours": 0.5, "lo": 0.1, "hi": 0.9, "n": 8, "rule": "", "note": "", "profile": "digits"}
    return explorers.ledger_explorer(pd.DataFrame([
        row | {"claim": "C2", "measure": "a", "verdict": "holds", "figure": "06_x#a"},
        row | {"claim": "C3", "measure": "b", "verdict": "contradicted", "figure": "07_y#b"}]))


def make_photos():
    models = {"teacher": Resized(1.0), "half": Resized(0.5)}
    return explorers.photo_explorer(models, SCHEDULE, torch.arange(4), x_T=noise(4), name="abcd".__getitem__, steps=5)


def corrections():
    """A study in which seed and everything else change a distance, and where one factor leaves a quarter of it."""
    kinds = {"none": 1.0} | dict.fromkeys(explorers.CORRECTED, 2.0) | {"beta:noised": 0.25, "teacher_u": 1.0}
    return pd.DataFrame([
        {"arm": arm, "seed": seed, "metric": f"{to}@{kind},w={w:g}@ch=16",
         "value": size * w * share ** (w - 1 + (arm == "dash")) * (1 + 0.2 * (seed % 3 - 1) * (kind == "teacher_u"))}
        for arm in ("dash", "scratch") for seed in range(5) for kind, share in kinds.items() for w in (1.5, 4.0)
        for to, size in (("frechet", 9.0), ("frechet_teacher", 3.0 if kind == "none" else 6.0))])


def make_corrections():
    return explorers.correction_explorer(corrections(), ["dash", "scratch"])


EXPLORERS = {
    "corrections": (make_corrections, {"arm": "scratch", "w": 1.5, "to": "frechet"}),
    "photos": (make_photos, {"w": 1.0, "step": 3}),
    "size": (make_size, {"rho": 1.5, "w": 1.0}),
    "guidance": (make_guidance, {"t": 200, "w": 0.0, "table": "TAG", "clip": "keep"}),
    "metric": (explorers.metric_explorer, {"w1": 0.0, "w2": 1.5, "w3": 8.0, "composite": False, "L_im": True,
                                         "L_un": True, "gap": True}),
    "samples": (make_samples, {"kind": "TAG", "w": 4.0}),
    "results": (make_results, {"arm": "dash_no_un", "other": "scratch", "statistic": "cos", "t": "950"}),
    "prediction": (explorers.prediction_explorer, {"kind": "scaled_linear", "end": 0.01, "t": 700}),
    "gap": (explorers.gap_explorer, {"size": 0.3, "noise": 1.5}),
    "ledger": (make_ledger, {"claim": "C2", "verdict": "contradicted"}),
    "tirt": (make_tirt, {"gamma": 1.5, "lr": 0.002, "steps": 100, "base": "min_snr"}),
}


@cache
def made(name):
    """An explorer that several tests look at; a test that moves a control moves it back."""
    return EXPLORERS[name][0]()


@pytest.mark.parametrize("name", EXPLORERS)
def test_each_control_changes_picture_and_readout_and_restores_them(name):
    explorer, moves = made(name), EXPLORERS[name][1]
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


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_page_can_have_every_state_with_the_present_one_among_them(name):
    explorer = made(name)
    assert 2 <= np.prod([len(values) for values in explorer.grid.values()]) <= 400
    assert all(explorer.labels.values()) and explorer.play in ("", *explorer.controls)
    for control, values in explorer.grid.items():
        widget = explorer.controls[control]
        assert len({text for text, _ in values}) == len(values) > 1
        assert widget.value in [value for _, value in values], control
        for _, value in values:
            assert getattr(widget, "min", value) <= value <= getattr(widget, "max", value), control


def ends_of(ax):
    """The ends of the bars of an axis, and its points."""
    ends = [(bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for group in ax.containers
            for bar in group if hasattr(bar, "get_width")]
    ends += [point for line in ax.lines if line.get_marker() != "None" for point in line.get_xydata()]
    ends += [point for group in ax.collections if len(group.get_offsets()) for point in group.get_offsets()]
    return ends


def cut(ax):
    """The ends of bars and points that lie outside the axis, or have no place, and are not written there."""
    (left, right), (low, high) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    said = [text.get_text() for text in ax.texts]
    return [(x, y) for x, y in ends_of(ax) if not (left <= x <= right and low <= y <= high)
            and not any((f"{x:.2f}" in text) if np.isfinite(x) else "no value" in text for text in said)]


@pytest.mark.parametrize("name", EXPLORERS)
def test_no_bar_and_no_point_of_any_page_is_cut_without_a_word(name, monkeypatch):
    drawn, found = [], []

    def look(figure):
        drawn.append(sum(len(ends_of(ax)) for ax in figure.axes))
        found.extend(end for ax in figure.axes for end in cut(ax))
        plt.close(figure)
        return b""

    monkeypatch.setattr(explorers.plots, "png", look)
    monkeypatch.setattr(explorers, "bootstrap", lambda *a, **k: bootstrap(*a, draws=10))
    explorer = EXPLORERS[name][0]()
    for values in itertools.product(*([v for _, v in pairs] for pairs in explorer.grid.values())):
        explorer.draw(**dict(zip(explorer.grid, values, strict=True)))
        assert not found, values
        if not drawn[0]:                 # pictures and curves alone, as in every state
            break
    assert any(drawn) or name in ("photos", "size", "guidance", "metric", "samples", "prediction")


@pytest.mark.parametrize(("value", "said"), [(-3.975, "← -3.98"), (40.1, "40.10 →"), (np.nan, "no value"), (2.0, "")])
def test_a_bar_beyond_its_limits_says_how_long_it_is(value, said):
    ax = explorers.plots.plot_bars({"a": 0.5, "b": value}, limits=(-2, 2))
    assert [text.get_text().strip() for text in ax.texts] == ([said] if said else []) and ax.get_xlim() == (-2, 2)
    assert cut(ax) == []
    plt.close("all")


def test_the_photo_explorer_begins_with_noise_and_ends_with_samples():
    rows, plot = [], explorers.plots.plot_image_rows
    explorer = make_photos()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorers.plots, "plot_image_rows", lambda r, **k: rows.append(r) or plot(r, **k))
        explorer.draw(w=2.0, step=0)
        explorer.draw(w=2.0, step=5)
    assert all(torch.equal(x, noise(4)) for x in rows[0].values())
    wanted = sample(Resized(0.5), SCHEDULE, torch.arange(4), x_T=noise(4), w=2.0, steps=5)
    assert torch.equal(rows[1]["half"], wanted)


def test_a_move_while_the_picture_is_drawn_ends_on_the_last_value():
    slider, box = explorers.number("size", 1, 0, 9)

    def draw(size):
        if size in (2, 3):
            slider.value = size + 1           # the learner is quicker than the drawing
        return plt.figure(figsize=(1, 1 + size)), f"size {size}"

    explorer = explorers.Explorer(draw, {"size": slider}, [box])
    slider.value = 2
    assert slider.value == 4 and "size 4" in explorer.readout.value
    fresh = explorers.Explorer(draw, {"size": explorers.number("size", 4, 0, 9)[0]}, [])
    assert seen(explorer) == seen(fresh)
    slider.value = 7
    assert "size 7" in explorer.readout.value


def test_moves_from_another_thread_end_on_the_last_value():
    slider, box = explorers.number("size", 1, 0, 9)
    under_way, moved, alone = threading.Event(), threading.Event(), threading.Lock()

    def draw(size):
        assert alone.acquire(blocking=False)  # pyplot is for one thread at a time
        if size == 2:
            under_way.set()
            assert moved.wait(20)
        alone.release()
        return plt.figure(figsize=(1, 1)), f"size {size}"

    explorer = explorers.Explorer(draw, {"size": slider}, [box])
    slow = threading.Thread(target=lambda: setattr(slider, "value", 2))
    slow.start()
    assert under_way.wait(20)
    slider.value = 5
    assert "size 1" in explorer.readout.value
    moved.set()
    slow.join(20)
    assert "size 5" in explorer.readout.value


def test_a_drawing_that_fails_does_not_stop_the_next():
    slider, box = explorers.number("size", 1, 0, 9)

    def draw(size):
        if size == 2:
            raise RuntimeError("no")
        return plt.figure(figsize=(1, 1)), f"size {size}"

    explorer = explorers.Explorer(draw, {"size": slider}, [box])
    with pytest.raises(RuntimeError):
        slider.value = 2
    slider.value = 3
    assert "size 3" in explorer.readout.value


@pytest.mark.parametrize(("values", "says"), [
    ({}, ("rank 1", "unseen: (0.75, 1)", "Var(w) = 0.")),
    ({"w1": 1.0, "w3": 1.0}, ("rank 2", "Var(w) = 2.")),
    ({"w1": 1.0, "w2": 1.0, "w3": 1.0}, ("rank 1", "unseen: (0, 1)")),
    ({"L_im": True}, ("rank 2", "+ L_im")),
    ({"composite": False, "gap": True}, ("rank 1", "unseen: (1, 1)")),
    ({"composite": False, "gap": True, "L_im": True}, ("rank 2", "condition number 6.85")),
    ({"composite": False, "L_un": True, "L_im": True}, ("rank 2", "condition number 1,")),
    ({"composite": False}, ("nothing is supervised",)),
])
def test_which_losses_identify_the_branches(values, says):
    explorer = explorers.metric_explorer()
    for name, value in values.items():
        explorer.controls[name].value = value
    assert all(piece in explorer.readout.value for piece in says), explorer.readout.value


def test_a_student_samples_as_its_teacher_at_the_product_of_scale_and_size():
    explorer = make_size()
    for rho, w in ((0.5, 3.0), (1.0, 4.0), (2.0, 1.5)):
        explorer.controls["rho"].value, explorer.controls["w"].value = rho, w
        assert "differ by nothing" in explorer.readout.value


def test_the_size_explorer_calls_classes_by_their_names(monkeypatch):
    titles, plot = [], explorers.plots.plot_image_rows
    monkeypatch.setattr(explorers.plots, "plot_image_rows", lambda *a, title: titles.append(title) or plot(*a))
    y, call = torch.tensor([1, 0]), ("cat", "hare").__getitem__
    monkeypatch.setattr(explorers, "STEPS", 2)
    named = explorers.size_explorer(Resized, SCHEDULE, y, x_T=noise(2), classify=judge, name=call)
    explorers.size_explorer(Resized, SCHEDULE, y, x_T=noise(2), classify=judge)
    assert titles[0].endswith("asked for hare, cat") and titles[1].endswith("asked for 1, 0")
    assert "Of 2 images" in named.readout.value


def test_schedules_have_the_scale_as_their_largest():
    tables = guidance.tables_at(1000, 4.0)
    assert torch.equal(tables["TAG"], tag(1000, 4.0)) and torch.equal(tables["interval"], interval(1000, 4.0))
    assert all(t.max() <= 4 and t.max() > 3.7 for t in tables.values())


def test_a_grid_holds_what_sampling_gives():
    y, x_T, model = torch.arange(3), noise(3), Resized(0.5)
    grid = explorers.sample_grid({"half": model}, SCHEDULE, y, x_T=x_T, ws=(2.0,), steps=3)
    assert set(grid) == {("constant", 2.0), ("TAG", 2.0), ("interval", 2.0)}
    again = sample(model, SCHEDULE, y, x_T=x_T, w=tag(1000, 2.0), steps=3)
    assert torch.equal(grid["TAG", 2.0]["half"], again)


def test_the_browser_says_what_the_table_says():
    explorer, table = make_results(), published_results("digits").table
    explorer.controls["statistic"].value, explorer.controls["t"].value = "cos", "950"
    mean = table.query("arm == 'im_base' and metric == 'cos@t=950'").value.mean()
    assert f"cos of im_base around t = 950: {mean:.2f}" in explorer.readout.value
    explorer.controls["statistic"].value = "r2"       # not measured by timestep
    mean = table.query("arm == 'im_base' and metric == 'r2'").value.mean()
    assert f"r2 of im_base over all timesteps: {mean:.2f}" in explorer.readout.value


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
                if isinstance(text, ipw.Dropdown):           # the arrow keys of a list belong to JupyterLab
                    assert text.description and knob.continuous_update is False
                    knob.index = len(knob.options) - 1
                    assert text.index == knob.index
                    text.index = 0
                    assert knob.index == 0
                    continue
                found += 1
                assert type(text).__name__.startswith("Bounded") and text.description
                assert knob.continuous_update is False
                knob.value = knob.min
                assert text.value == knob.min
                text.value = knob.max
                assert knob.value == knob.max
    assert found == sum(type(c).__name__.endswith("Slider") for c in explorer.controls.values())
    assert not any(isinstance(row, ipw.Dropdown) for row in explorer.children)
    for control in explorer.controls.values():
        assert type(control).__name__.endswith("Slider") or control.description
        assert control.value is not None          # a list without a choice shows nothing


def test_the_correction_explorer_compares_with_the_same_student_without_correction():
    left = explorers.corrected(corrections(), "dash", w=1.5, to="frechet")
    wanted = {"beta:noised": 0.25**1.5, "weaker": 2**1.5}
    for kind, share in wanted.items():
        assert np.exp(left[kind]).tolist() == pytest.approx([share] * 5)
    left = explorers.corrected(corrections(), "dash", w=1.5)                 # to the teacher's samples: twice as much
    assert np.exp(left["beta:noised"]).tolist() == pytest.approx([2 * 0.25**1.5] * 5)
    explorer = make_corrections()
    explorer.controls["to"].value, explorer.controls["w"].value = "frechet", 1.5
    assert "one factor beta" in explorer.readout.value
    assert "below 1 for 1 of 9" in explorer.readout.value                    # not the teacher's u, whose interval has 1
    from dashkit.experiments.correction import CORRECTIONS

    fitted = {f"{k}:{where}" for k in CORRECTIONS for where in ("noised", "path")}
    assert set(explorers.CORRECTED) <= fitted | set(CORRECTIONS) | {"teacher_u", "weaker"}


def test_frozen_tirt_is_tirt_under_adam():
    base, losses = curriculum.published(SCHEDULE), torch.linspace(1, 0, 1000)
    tirt = curriculum.TIRT(base)
    optimiser = torch.optim.Adam(tirt.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        (tirt() * losses).mean().backward()
        optimiser.step()
    fast = explorers.frozen_tirt(base.double().numpy(), losses.double().numpy(), lr=0.01, steps=60)
    assert np.allclose(fast, tirt().detach().numpy(), rtol=1e-2, atol=1e-3)
    assert np.isclose(fast.mean(), 1)
