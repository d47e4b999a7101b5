import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from dashkit.classroom import plots


def test_a_shown_figure_is_an_image_with_its_text_and_the_text_itself(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    plots.show(plots.plot_curves({"a": [1, 2]}), 'half < "full" & 0.50')
    [data] = shown
    assert data["text/plain"] == 'half < "full" & 0.50'
    assert 'alt="half &lt; &quot;full&quot; &amp; 0.50"' in data["text/html"] and "base64," in data["text/html"]


def test_the_same_figure_gives_the_same_bytes():
    a, b = (plots.png(plots.plot_curves({"dash": [1, 3, 2]}).get_figure()) for _ in range(2))
    assert a == b


def orange(picture):
    """The middle of the mark of a guess, in shares from the top left."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - [0xD5, 0x5E, 0x00]).sum(2) < 60)
    return columns.mean() / pixels.shape[1], rows.mean() / pixels.shape[0]


@pytest.mark.parametrize(("scale", "value", "place", "unit"), [
    ("linear", 12.0, {"x": 1.0}, 1.0), ("log", 30.0, {"x": 0.5}, 0.5), ("symlog", 4.0, {"y": 1.0}, 2.0),
    ("linear", 0.75, {}, 1.0),
])  # fmt: skip
def test_a_picture_says_where_another_guess_would_stand(scale, value, place, unit):
    ax = plt.subplots(layout="constrained")[1]
    ax.set(title="a title", xlim=(-1, 50) if "y" in place else (0, 2), ylim=(1, 99),
           **{"xscale" if "y" in place else "yscale": scale})
    plots.plot_guess(ax, "01.x", value, unit=unit, **place)
    picture = Image.open(io.BytesIO(plots.png(ax.figure)))
    guess = json.loads(picture.text["Guess"])
    assert guess["name"] == "01.x" and guess["along"] == ("y" if "x" in place else "x")
    shares = np.linspace(*guess["ends"], len(guess["values"]))
    along = float(np.interp(value, guess["values"], shares))
    k = "xy".index(guess["along"])
    seen = orange(picture)
    assert abs(seen[k] - along) < 0.006
    assert guess["across"] is None if not place else abs(seen[1 - k] - guess["across"]) < 0.006


@pytest.mark.parametrize(("scale", "values", "limits"), [
    ("log", (0.5, 0, -1, 0.0, -250.0), None), ("log", (2.0, 1000, 1e9, 1e-7), (0.1, 10)),
    ("linear", (0.5, 90, -40.0, 1e6), (-0.05, 1.08)), ("symlog", (3.0, -1e5, 700), (-2, 12)),
])  # fmt: skip
@pytest.mark.parametrize("place", [{"x": 1.0}, {"y": 1.0}, {}])
def test_a_guess_outside_the_axis_is_drawn_at_its_edge_in_a_picture_of_the_same_size(scale, values, limits, place):
    def drawn(value):
        ax = plots.plot_curves({"a": [0.2, 1, 5]} if "x" in place else {"a": [1.0, 2, 3]},
                               x=None if "x" in place else [0.2, 1, 5])
        ax.set(**{"yscale" if "x" in place else "xscale": scale})
        plots.plot_guess(ax, "01.x", value, **place)
        if limits:
            ax.set(**{"ylim" if "x" in place else "xlim": limits})
        picture = Image.open(io.BytesIO(plots.png(ax.figure)))
        return picture, [text.get_text() for text in ax.texts]

    inside, texts = drawn(values[0])
    assert texts == []
    for value in values[1:]:
        picture, texts = drawn(value)
        assert picture.size == inside.size and json.loads(picture.text["Guess"])["ends"] == pytest.approx(
            json.loads(inside.text["Guess"])["ends"])
        assert texts == [f"example {value:g}: outside"]
        assert all(0 < share < 1 for share in orange(picture))


def test_a_picture_without_a_guess_says_nothing():
    assert "Guess" not in Image.open(io.BytesIO(plots.png(plots.plot_curves({"a": [1, 2]}).figure))).text


def test_images_are_tiled_in_order_with_a_line_between():
    images = np.stack([np.full((1, 2, 2), v) for v in (-1.0, 0.0, 1.0)])
    sheet = plots.plot_images(images, columns=2).images[0].get_array()
    assert sheet.shape == (5, 5)
    assert sheet[0, 0] == 0 and sheet[0, 3] == 0.5 and sheet[3, 0] == 1 and sheet[0, 2] == 1


def test_every_default_arm_has_its_own_colour():
    from dashkit.method.arms import ARMS

    colours = [plots.PALETTE[a] for a in (*ARMS, "teacher")]
    assert len(set(colours)) == len(colours)


def test_the_w_curve_divides_distances_by_the_floor_and_leaves_accuracies():
    rows = [("real", 0, "frechet", 2.0), ("dash", 0, "frechet@w=1.5", 5.0), ("dash", 0, "accuracy@w=1.5", 0.9)]
    table = pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])
    assert plots.w_curve(table).to_dict("records") == [{"arm": "dash", "seed": 0, "w": 1.5, "value": 2.5}]
    assert plots.w_curve(table, "accuracy").value.item() == pytest.approx(0.9)


def test_intervals_begin_at_the_top_with_room_at_both_ends_on_shared_axes_too():
    table = pd.DataFrame({"value": [1.0, 2.0], "lo": [0.5, 1.5], "hi": [1.5, 2.5]}, index=["first", "last"])
    for axes in (1, 2, 3):
        figure, shared = plt.subplots(1, axes, sharey=True, squeeze=False)
        for ax in shared.flat:
            plots.plot_intervals(table, ax=ax)
        assert [ax.get_ylim() for ax in shared.flat] == [(1.5, -0.5)] * axes
        plt.close(figure)


def test_a_grid_shows_its_numbers_and_is_yellow_at_the_good_end_whichever_that_is():
    table = pd.DataFrame([[-3.0, 0.5], [0.0, 9.0]])
    for worst, best, dark, bright in ((0, 1, -3.0, 9.0), (1, 0, 9.0, -3.0)):
        ax = plots.plot_grid(table, worst, best)
        colours = dict(zip(table.to_numpy().ravel(), ax.collections[0].get_facecolors(), strict=True))
        assert colours[dark][:3].sum() < 1 < colours[bright][:3].sum()
        assert [t.get_text() for t in ax.texts] == ["-3.00", "0.50", "0.00", "9.00"]
        plt.close(ax.figure)


def test_the_ledger_has_a_panel_for_each_quantity_and_draws_each_rows_bound(ledger):
    rows = ledger[ledger.ours.notna() & (ledger.profile == "digits")]
    figure = plots.plot_ledger(rows)
    labels = [t.get_text() for ax in figure.axes for t in ax.get_yticklabels()]
    assert sorted(labels) == sorted(f"{r.claim}  {r.measure}" for r in rows.itertuples())
    bounds = {x for ax in figure.axes for line in ax.lines if line.get_marker() == "|" for x in line.get_xdata()}
    assert bounds == {float(x) for rule in rows.rule if rule.startswith("the whole")
                      for x in re.findall(r"[-\d.]+", rule)}
    assert {0.6, 1.0} <= bounds
    numbers = [t.get_text() for ax in figure.axes for axis in ax.child_axes for t in axis.get_yticklabels()]
    assert len(numbers) == len(rows) and any("0.31 [0.21, 0.39]" in n for n in numbers)
    plt.close(figure)
    plt.close(plots.plot_ledger(ledger[:0]))


def test_image_rows_have_the_class_asked_for_above_and_a_frame_where_it_is_not_seen():
    rows = {name: np.zeros((3, 1, 4, 4)) for name in ("a", "b")}
    figure = plots.plot_image_rows(rows, asked=["x", "y", "z"], wrong={"b": [False, True, False]})
    assert [len(ax.patches) for ax in figure.axes] == [0, 1]
    assert figure.axes[1].patches[0].get_x() == 4.5
    assert {"x", "y", "z"} <= {t.get_text() for t in figure.axes[0].texts}
    plt.close(figure)


def test_an_arm_whose_curve_lies_on_anothers_is_dashed_and_drawn_over_it():
    rows = [(arm, seed, f"frechet@w={w}", 2.0)
            for arm in ("dash_no_un", "cond_only") for seed in (0, 1) for w in (1, 2)]
    table = pd.DataFrame([("real", 0, "frechet", 1.0), *rows], columns=["arm", "seed", "metric", "value"])
    ax = plots.plot_w_curve(table, arms=["dash_no_un", "cond_only"])
    over, under = (line for line in ax.lines if line.get_label() in ("dash_no_un", "cond_only"))
    assert over.get_zorder() > under.get_zorder() and over.is_dashed() and not under.is_dashed()
    assert "thin: one training seed" in [t.get_text() for t in ax.get_legend().get_texts()]
    plt.close(ax.figure)


@pytest.mark.parametrize("name", ["smoke", "digits", "cifar10"])
def test_the_network_is_drawn_with_all_its_levels_and_the_places_of_time_and_class(name):
    from dashkit.experiments import PROFILES

    config = PROFILES[name].teacher
    ax = plots.plot_network(config)
    texts = [t.get_text() for t in ax.texts if t.get_text()]
    assert sum("residual" in t for t in texts) == 2 * len(config.ch_mult) + 1
    assert any("timestep" in t for t in texts) and any(f"table of {config.num_classes} rows" in t for t in texts)
    plt.close(ax.figure)


def test_gaps_are_arrows_of_their_length_and_angle():
    table = pd.DataFrame({"rho": [1.0, 1.0, 0.5], "cos": [1.0, 0.6, 0.0]}, index=["whole", "noisy", "other"])
    ax = plots.plot_gap_arrows(table)
    tips = [a.xy for a in ax.texts]
    assert np.allclose(tips, [(1, 0), (0.6, 0.8), (0, 0.5)])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["whole: length 1.0, 0°", "noisy: length 1.0, 53°", "other: length 0.5, 90°"]
