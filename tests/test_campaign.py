import pytest
import torch

from dashkit import budget, campaign, cli, fid, runs


@pytest.fixture
def run(tiny, monkeypatch):
    monkeypatch.setattr(budget, "rates", lambda run: budget.Rates(1.0, 1.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(campaign, "published_hours", lambda run: 40.0)
    return tiny


class Raw:
    """Pixels in the place of Inception's features: the stages are what is tested."""

    classifier, distances = None, ("fid", "kid")

    def __call__(self, images):
        return images.flatten(1).float()


raw = Raw()


def test_a_plan_is_made_once_and_never_exceeds_the_profile(run):
    first = campaign.make_plan(run(), 0.01, fid_samples=20)
    assert campaign.make_plan(run(), 0.01, fid_samples=20) == first
    assert first.teacher_steps <= run().profile.teacher_steps and first.fid_samples == 20
    with pytest.raises(ValueError, match=r"a campaign of 0\.01 hours was begun"):
        campaign.make_plan(run(), 1.0, fid_samples=20)
    with pytest.raises(ValueError, match="hours must be in"):
        campaign.make_plan(run(root="other"), 0.0)
    assert "40.0 h" in campaign.told(run(), first)


def test_turns_of_a_campaign_give_the_table_of_one_go(run):
    def table(root, minutes):
        one = run(root=root)
        plan = campaign.make_plan(one, 10.0, fid_samples=20)
        one, real = campaign.planned(one, plan), fid.statistics(raw(one.images.test_pixels))
        turns = 1
        while not campaign.carry_out(one, plan, minutes=minutes, extract=raw, reference=real):
            turns += 1
            assert turns < 200
        return campaign.table(one, plan, raw, real), turns

    whole, once = table("whole", 60)
    broken, many = table("broken", 0)
    assert once == 1 and many > 10
    assert whole.equals(broken)
    found = set(whole[whole.arm == "dash"].metric)
    assert {"fid@tag", "kid@tag", "fid@w=1.5", "fid@w=1.5, eps kept", "rho", "rho_x0"} <= found
    assert "spearman" in set(whole[whole.arm == "teacher"].metric)
    summary = campaign.summary(whole)
    assert summary.loc["dash", "N"] == 20 and summary.loc["real", "N"] == 250


def test_a_reference_of_another_size_is_refused(run, monkeypatch):
    images = run().images
    monkeypatch.setattr(campaign.data, "load", lambda *a, **k: images)
    with pytest.raises(ValueError, match="must be 4 to 1297 images, not 3"):
        campaign.judge(run(), 3)


def test_grey_images_get_the_small_classifier_and_no_fid(run):
    one = run(samples=40)
    extract, real = campaign.judge(one)
    assert extract.distances == ("fd", "kd") and real.n == len(one.images.pixels) and real.features.shape[1] == 32
    upright, flipped = (fid.fid(extract(x), real) for x in (one.images.test_pixels, one.images.test_pixels.flip(2)))
    assert 0 < real.floor < flipped and upright < 0.2 * flipped


def test_only_fid_is_published(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "_start", lambda options: run())
    assert cli.main(["campaign", "--publish", "--hours", "0.01"]) == 2
    assert "has no FID to publish" in capsys.readouterr().err


@pytest.mark.parametrize("change", [
    {"hours": "1"}, {"teacher_steps": 10**9}, {"teacher_steps": 1.5}, {"fid_samples": -1}, {"more": 1}, {"hours": []},
])
def test_a_plan_that_is_none_is_refused_and_named(run, change):
    one = run()
    plan = campaign.make_plan(one, 0.01, fid_samples=20)
    runs.write_json(campaign.plan_path(one), {"plan": plan._asdict() | change})
    with pytest.raises(ValueError, match=r"campaign-s1\.json holds no plan of smoke"):
        campaign.make_plan(one, 0.01, fid_samples=20)


@pytest.mark.parametrize("tensors", [{}, {"features": torch.ones(19, 64)}, {"features": torch.ones(20, 64).double()}])
def test_features_of_fewer_images_are_not_taken_for_all(run, tensors, tmp_path):
    one = run()
    plan = campaign.make_plan(one, 10.0, fid_samples=20)
    path = campaign.fid_path(one, plan, "dash", 1, "tag").with_suffix("") / "000000.safetensors"
    runs.save_tensors(path, tensors, {})
    parts = campaign.fid_parts(one, plan, None, "dash", 1, "tag", raw, fid.statistics(raw(one.images.test_pixels)))
    with pytest.raises(ValueError, match=r"000000\.safetensors does not hold the features of 20 images"):
        next(parts)
