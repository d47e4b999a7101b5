"""Photographs from the shipped networks."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from dashkit.classroom import photos
from dashkit.experiments import start_run
from dashkit.publishing import pictures


def test_a_sheet_an_arm_with_a_row_a_scale_and_a_column_a_class():
    images = {arm: [torch.full((2, 3, 4, 4), value) for value in (-1.0, 1.0)] for arm in ("teacher", "dash")}
    figure = photos.plot_guidance(images, titles={"teacher": "T", "dash": "S"}, scales=(1.0, 4.0), columns=["a", "b"])
    assert [ax.get_title() for ax in figure.axes] == ["T", "S"]
    for ax in figure.axes:
        assert [label.get_text() for label in ax.get_yticklabels()] == ["w = 1", "w = 4"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
        sheet = np.asarray(ax.images[0].get_array())
        assert sheet[0, 0].tolist() == [0, 0, 0] and sheet[-1, -1].tolist() == [1, 1, 1]      # dark above, light below
    plt.close(figure)


def test_columns_of_the_shipped_pictures_are_the_names_that_their_images_carry(monkeypatch):
    drawn = {arm: [torch.zeros(len(photos.CLASSES), 3, 4, 4)] * len(photos.SCALES) for arm in photos.SHOWN}
    columns, plot = [], photos.plot_guidance
    monkeypatch.setattr(photos, "sampled", lambda *a, **k: drawn)
    monkeypatch.setattr(photos, "plot_guidance", lambda *a, **k: columns.extend(k["columns"]) or plot(*a, **k))
    monkeypatch.setattr(pictures.store, "write_bytes", lambda *a: None)
    pictures.main()
    names = start_run("cifar16", device="cpu").images.names
    assert columns == [names[k] for k in photos.CLASSES] and columns[:2] == ["airplane", "automobile"]


def test_the_distance_from_the_teacher_is_told_for_each_scale():
    images = {"teacher": [torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)], "dash": [torch.ones(2, 3, 4, 4)] * 2}
    assert photos.from_teacher(images) == {"dash": [1.0, 0.0]}


def test_each_class_has_the_same_noise_for_every_arm_and_scale(monkeypatch):
    seen = []

    def sample(model, schedule, y, *, x_T, w, steps):
        seen.append((w, x_T.clone()))
        return x_T

    monkeypatch.setattr(photos, "sample", sample)
    run = start_run("cifar16", device="cpu")
    found = photos.sampled(run, ["teacher", "dash"], (1.0, 4.0), [7, 1], steps=2)
    other = photos.sampled(run, ["dash"], (1.0,), [1], steps=2)
    assert set(found) == {"teacher", "dash"} and [w for w, _ in seen[:4]] == [1.0, 4.0, 1.0, 4.0]
    assert all(torch.equal(x, seen[0][1]) for _, x in seen[:4])
    assert torch.equal(other["dash"][0][0], found["dash"][0][1])
