from types import SimpleNamespace

import pytest
import torch

from dashkit.experiments.profiles import PROFILES
from dashkit.method.guidance import (
    branches,
    check_eval,
    check_labels,
    check_w,
    constant,
    drop_labels,
    guidance_table,
    interval,
    tag,
)
from dashkit.method.unet import UNet


def test_guided_at_zero_and_one_are_the_branches(pair):
    b = pair()
    assert torch.equal(b.guided(0), b.uncond)
    torch.testing.assert_close(b.guided(1), b.cond)
    torch.testing.assert_close(b.guided(3.0), b.uncond + 3 * (b.cond - b.uncond))
    assert torch.equal(b.gap, b.cond - b.uncond)


def test_guidance_takes_one_scale_a_sample(pair):
    b, w = pair(batch=3), torch.tensor([0.0, 1.0, 4.0])
    for i, scale in enumerate(w.tolist()):
        torch.testing.assert_close(b.guided(w)[i], b.guided(scale)[i])


def test_one_pass_equals_two(generator):
    net = UNet(PROFILES["smoke"].student).eval()
    x, t, y = torch.randn((4, 1, 8, 8), generator=generator), torch.tensor([1, 50, 500, 999]), torch.arange(4)
    b = branches(net, x, t, y)
    torch.testing.assert_close(b.cond, net(x, t, y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.uncond, net(x, t, torch.full((4,), net.null_label)), rtol=1e-4, atol=1e-5)


def test_labels_are_dropped_a_sample_at_a_time(generator):
    y = torch.arange(10).repeat(2000)
    dropped = drop_labels(y, 10, p=0.1, generator=generator)
    shares = (dropped == 10).float().reshape(-1, 100).mean(1)
    assert shares.mean() == pytest.approx(0.1, abs=0.01)
    assert 0.02 < shares.std() < 0.05                      # 0.3 if whole batches were dropped
    assert torch.equal(dropped[dropped != 10], y[dropped != 10])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        drop_labels(y, 10, p=1.5, generator=generator)


def test_which_labels_are_dropped_is_decided_by_the_generator_alone():
    y, state = torch.arange(1000), torch.random.get_rng_state()
    first, again, other = (drop_labels(y, 1000, p=0.5, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drop_labels(y.to("meta"), 1000, p=0.5, generator=torch.Generator()).device.type == "meta"


def test_a_network_in_train_mode_is_named_and_refused():
    net = UNet(PROFILES["smoke"].student)
    with pytest.raises(ValueError, match=r"^the UNet is in train mode; call its eval\(\)"):
        check_eval(net)
    check_eval(net.eval()), check_eval(lambda x, t, y: x)


def test_tag_runs_from_strong_to_mild_as_published():
    table = tag(1000)
    assert table[0].item() == pytest.approx(3.77, abs=0.01) and table[-1].item() == pytest.approx(1.23, abs=0.01)
    assert table.mean().item() == pytest.approx(2.5, abs=0.01) and (table.diff() < 0).all()


def test_interval_guides_inside_only():
    table = interval(1000, 3.0, lo=0.2, hi=0.8)
    assert table[200] == table[799] == 3 and table[199] == table[800] == 1
    with pytest.raises(ValueError, match="lo < hi"):
        interval(1000, 3.0, lo=0.8, hi=0.2)


@pytest.mark.parametrize("w", [-0.1, 20.1, float("nan"), float("inf"), "2", True, None])
def test_scales_out_of_range_are_refused(w):
    for make in (check_w, lambda v: constant(10, v)):
        with pytest.raises(ValueError, match=r"must be a number in \[0, 20\]"):
            make(w)


def test_tables_are_checked():
    assert torch.equal(guidance_table(4, 2), torch.full((4,), 2.0))
    for bad in (torch.ones(5), torch.full((4,), -1.0), torch.full((4,), float("nan"))):
        with pytest.raises(ValueError, match=r"shape \(4,\)"):
            guidance_table(4, bad)


def test_the_ends_of_every_range_are_allowed(generator):
    for w in (0, 20.0):
        assert check_w(w) == w and guidance_table(2, torch.full((2,), float(w)))[0] == w
    y = torch.arange(1000) % 10
    assert torch.equal(drop_labels(y, 10, p=0.0, generator=generator), y)
    assert (drop_labels(y, 10, p=1.0, generator=generator) == 10).all()
    assert (interval(10, 3.0, lo=0.0, hi=1.0) == 3).all()
    for lo, hi in ((0.5, 0.5), (0.5, 1.1), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="lo < hi"):
            interval(10, 3.0, lo=lo, hi=hi)
    with pytest.raises(ValueError, match="entries in"):
        guidance_table(2, torch.tensor([1.0, 20.5]))
    assert torch.equal(guidance_table(2, torch.tensor([0.5, 2.0])), torch.tensor([0.5, 2.0]))


def test_no_label_is_dropped_on_a_draw_of_exactly_p(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))
    y = torch.arange(4)
    assert torch.equal(drop_labels(y, 10, p=0.5, generator=torch.Generator()), y)


def test_labels_are_classes_or_the_null_label():
    model = SimpleNamespace(null_label=10)
    check_labels(torch.tensor([0, 10]), model), check_labels(torch.tensor([], dtype=torch.long), model)
    for label in (-1, 11):
        with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 9"):
            check_labels(torch.tensor([3, label]), model)
