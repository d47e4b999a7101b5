from dataclasses import replace

import pytest
import torch

from dashkit import cli
from dashkit.datasets import sources
from dashkit.experiments import campaign, costing, evaluation, fid
from dashkit.experiments.run import FINAL
from dashkit.storage import store, tables

DASH_TAG = campaign.Sampled("dash", 1, "tag")


@pytest.fixture
def run(tiny, monkeypatch):
    costs = costing.Costs(teacher_step=1.0, students_step=3.0, evaluation=1.0, fid_sample=0.1)
    monkeypatch.setattr(costing, "measured", lambda run, of, wanted: costs)
    monkeypatch.setattr(costing, "published_hours", lambda run, costs: 40.0)
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
    with pytest.raises(ValueError, match=r"campaign-s1-\w+\.json plans 0\.01 hours and at most 20 samples, not 1 "):
        campaign.make_plan(run(), 1.0, fid_samples=20)
    with pytest.raises(ValueError, match="hours must be a number in"):
        campaign.make_plan(run(root="other"), 0.0)
    assert "40.0 h" in campaign.describe(run(), first)


def test_turns_of_a_campaign_give_the_table_of_one_go(run):
    def table(root, minutes):
        one = run(root=root)
        plan = campaign.make_plan(one, 10.0, fid_samples=20)
        one, real = campaign.with_plan(one, plan), fid.statistics(raw(one.images.test_pixels))
        turns = 1
        while not campaign.run_stages(one, plan, minutes=minutes, extract=raw, reference=real):
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


def test_a_table_holds_what_there_was_time_for(run):
    one = run(samples=20)
    plan = campaign.make_plan(one, 10.0, fid_samples=20)
    planned, real = campaign.with_plan(one, plan), fid.statistics(raw(one.images.test_pixels))
    campaign.run_turn(planned, plan, {"teacher": 0.0, "students": 0.0}, seconds=600)
    assert not campaign.is_evaluated(planned)
    campaign.run_turn(planned, plan, {"evaluation": 0.0}, seconds=600)
    assert campaign.is_evaluated(planned)
    for _ in range(2):                                       # FID of the teacher alone
        campaign.run_turn(planned, plan, {"fid": 0.0}, seconds=0, extract=raw, reference=real)
    table = campaign.table(planned, plan, raw, real)
    assert set(table[table.metric.str.startswith("fid")].arm) == {"real", "teacher"}
    assert {"dash", "cond_only"} <= set(table[table.metric == "rho"].arm)


def test_what_was_measured_is_published_though_fid_is_left(run, monkeypatch):
    one, published = run(samples=20), []
    real = fid.statistics(raw(one.images.test_pixels))
    monkeypatch.setattr(cli, "_start", lambda options: one)
    monkeypatch.setattr(campaign, "check", lambda *a, **k: None)
    monkeypatch.setattr(campaign, "make_reference", lambda *a: (raw, real))
    monkeypatch.setattr(cli, "_publish", lambda options, run, results, **more: published.append(results))
    said = ["campaign", "--publish", "--minutes", "0", "--hours", "1", "--fid-samples", "20"]
    turns = 0
    while not published:
        assert cli.main(said) == 0 and turns < 200
        turns += 1
    assert turns > 4 and not set(published[0].metric) & {"fid@w=1.5"}
    while "fid@w=1.5" not in set(published[-1].metric):
        assert cli.main(said) == 0


def test_a_reference_of_another_size_is_refused(run, monkeypatch):
    images = run().images
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: images)
    with pytest.raises(ValueError, match=r"reference images must be an integer in \[4, 1297\], not 3"):
        campaign.make_reference(run(), 3)


def test_grey_images_get_the_small_classifier_and_no_fid(run):
    one = run(samples=40)
    extract, real = campaign.make_reference(one)
    assert extract.distances == ("fd", "kd") and real.n == len(one.images.pixels) and real.features.shape[1] == 32
    upright, flipped = (fid.fid(extract(x), real) for x in (one.images.test_pixels, one.images.test_pixels.flip(2)))
    assert 0 < real.floor < flipped and upright < 0.2 * flipped


def test_only_fid_is_published(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "_start", lambda options: run())
    assert cli.main(["campaign", "--publish", "--hours", "0.01"]) == 2
    assert "has no FID to publish" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"student_lr": 0.007}, {"teacher_steps": 2}, {"ws": (1.0, 1.5, 3.0)}])
def test_other_settings_have_a_plan_of_their_own(run, settings):
    first = campaign.make_plan(run(), 10.0, fid_samples=20)
    other = run(**settings)
    assert campaign.plan_path(other) != campaign.plan_path(run()) and not campaign.plan_path(other).exists()
    assert campaign.make_plan(other, 5.0, fid_samples=30).hours == 5
    assert campaign.make_plan(run(), 10.0, fid_samples=20) == first


def test_a_plan_made_for_another_number_of_samples_is_refused(run):
    plan = campaign.make_plan(run(), 0.01, fid_samples=1000)
    assert plan.fid_samples < 1000                          # it is what was asked that counts, not what fits the hours
    with pytest.raises(ValueError, match=r"at most 1000 samples, not 0\.01 and 50000: go on .* or delete it"):
        campaign.make_plan(run(), 0.01)


@pytest.mark.parametrize("change", [
    {"teacher_steps": 10**9}, {"teacher_steps": 1.5}, {"fid_samples": -1}, {"more": 1}, {"hours": "x"},
])
def test_a_plan_that_is_none_is_refused_and_named(run, change):
    one = run()
    campaign.make_plan(one, 0.01, fid_samples=20)
    saved = store.read_json(path := campaign.plan_path(one))
    store.write_json(path, saved | {"plan": saved["plan"] | change})
    with pytest.raises(ValueError, match=r"campaign-s1-\w+\.json holds no plan of smoke"):
        campaign.make_plan(one, 0.01, fid_samples=20)


@pytest.mark.parametrize("wrong", [{"planned": 3}, {"planned": ["teacher", "dinner"]}, {"planned": [[]]}])
def test_a_plan_of_strange_stages_is_refused_and_named(run, wrong):
    one = run()
    campaign.make_plan(one, 0.01, fid_samples=20)
    store.write_json(path := campaign.plan_path(one), store.read_json(path) | wrong | {"expected": "much"})
    with pytest.raises(ValueError, match=r"campaign-s1-\w+\.json holds no plan of smoke"):
        campaign.make_plan(one, 0.01, fid_samples=20)
    assert campaign.expected_seconds(one) == {}


@pytest.mark.parametrize("wrong", [{"plan": []}, {"plan": {}}])
def test_a_file_without_plan_is_refused_and_named(run, wrong):
    one = run()
    campaign.make_plan(one, 0.01, fid_samples=20)
    saved = store.read_json(path := campaign.plan_path(one))
    store.write_json(path, saved | wrong)
    with pytest.raises(ValueError, match=r"campaign-s1-\w+\.json holds no plan of smoke"):
        campaign.make_plan(one, 0.01, fid_samples=20)
    for name in wrong:
        store.write_json(path, {k: v for k, v in saved.items() if k != name})
        with pytest.raises(ValueError, match=rf"campaign-s1-\w+\.json lacks {name}"):
            campaign.make_plan(one, 0.01, fid_samples=20)


def test_fid_under_other_guidance_is_measured_again(run):
    """`tag` follows the largest of ws, and a kept eps is another way to sample: neither name says so."""
    one, other = run(), run(ws=(1.0, 1.5, 4.0))
    plan, real = campaign.make_plan(one, 10.0, fid_samples=20), fid.statistics(raw(one.images.test_pixels))
    assert one.folder("dash", 1) == other.folder("dash", 1)
    drawn, zero = [], torch.nn.Module()
    zero.forward, zero.null_label = (lambda x, t, y: drawn.append(0) or 0.1 * x * (1 + y.view(-1, 1, 1, 1))), 10
    values = []
    for made in (one, other, one):
        drawn.clear()
        path = campaign.fid_path(made, plan, DASH_TAG, real)
        if not path.is_file():
            path.with_name(f"{path.stem}-01234567").mkdir(parents=True)       # of an earlier classifier
        list(campaign.fid_parts(made, plan, zero.eval(), DASH_TAG, raw, real))
        values.append((tables.read_table(path).value[0], bool(drawn)))
        assert [p for p in path.parent.iterdir() if p.is_dir()] == []
    assert values[0][0] == values[2][0] != values[1][0] and [new for _, new in values] == [True, True, False]
    assert len({campaign.fid_path(made, plan, DASH_TAG._replace(name="w=1.5"), real) for made in (one, other)}) == 1


def test_fid_is_of_each_networks_own_best_scale_first_once_that_is_measured(swept, monkeypatch):
    run = swept
    curve = {w: k for k, w in enumerate(run.profile.ws)}
    assert campaign._sampled(run)[0].name == f"w={campaign.best_scales(run, 'teacher')[0]:g}"
    read = evaluation._read_evaluation
    monkeypatch.setattr(evaluation, "_read_evaluation", lambda run, arm, seed, path: read(run, arm, seed, path).assign(
        value=lambda t: [curve.get(float(m.partition("=")[2] or 0), v) if m.startswith("frechet@w=") else v
                         for m, v in zip(t.metric, t.value, strict=True)]))
    names = list(campaign._guidances(run, "dash"))
    assert names[0] == f"w={min(run.profile.ws):g}" and {f"w={run.profile.w:g}", "tag"} < set(names)
    sampled = campaign._sampled(run)
    assert [one.name for one in sampled[: 1 + len(run.profile.arms)]] == [names[0]] * (1 + len(run.profile.arms))
    assert len(set(sampled)) == len(sampled)
    monkeypatch.setattr(campaign, "best_scales", lambda run, arm: [])
    assert names[0] not in campaign._guidances(run, "dash")
    unknown = campaign.fid_of(run, None, None).sets                 # a plan counts a scale that it does not know yet
    assert len(unknown) == len(campaign._sampled(run)) + 1 + len(run.profile.arms)


def test_the_key_of_samples_holds_how_eps_is_made_and_the_weights(run, monkeypatch):
    one = run()
    plan, real = campaign.make_plan(one, 10.0, fid_samples=20), fid.statistics(raw(one.images.test_pixels))
    found = set()
    for how in (campaign.Guidance(1.5), campaign.Guidance(1.5, recompute_eps=False), campaign.Guidance(2.0)):
        monkeypatch.setattr(campaign, "_guidances", lambda run, arm, how=how: {"own": how})
        found.add(campaign.fid_path(one, plan, DASH_TAG._replace(name="own"), real))
    assert len(found) == 3
    store.save_tensors(one.folder("dash", 1) / FINAL, {"a": torch.ones(2)}, {})
    assert campaign.fid_path(one, plan, DASH_TAG._replace(name="own"), real) not in found


def test_fid_is_kept_by_the_size_of_its_reference_and_features_by_what_extracts_them(run):
    """The small classifier is another one in each turn; what was measured with it is found again, and not mixed."""
    one = run()
    plan, features = campaign.make_plan(one, 10.0, fid_samples=20), raw(one.images.pixels)
    all_of_them, fewer, others = (fid.statistics(features[i:j]) for i, j in ((0, 400), (0, 200), (200, 400)))
    files = [campaign.fid_path(one, plan, DASH_TAG, real) for real in (all_of_them, fewer, others)]
    assert files[0] != files[1] == files[2]
    assert campaign.parts_path(files[1], fewer) != campaign.parts_path(files[1], others)
    assert campaign.parts_path(files[1], fewer) == campaign.parts_path(files[1], fid.statistics(features[:200].clone()))


def test_a_small_reference_is_of_all_classes_also_where_images_are_stored_class_by_class(run, monkeypatch):
    one = run()
    order = one.images.labels.argsort(stable=True)
    images = replace(one.images, pixels=one.images.pixels[order], labels=one.images.labels[order])
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: images)
    seen = []
    monkeypatch.setattr(campaign, "SmallFeatures", lambda run: lambda x: seen.append(x) or raw(x))
    for n in (130, 130, len(order), None):
        campaign.make_reference(one, n)
    few, again, full, default = seen
    assert len(few) == 130 and few.equal(again) and full.equal(default) and full.equal(images.pixels)
    same = (few.flatten(1)[:, None] == images.pixels.flatten(1)[None]).all(-1)
    found = images.labels[same.float().argmax(1)]
    assert same.any(1).all() and (found.bincount(minlength=10) > 4).all()


@pytest.mark.parametrize("tensors", [{}, {"features": torch.ones(19, 64)}, {"features": torch.ones(20, 64).double()}])
def test_features_of_fewer_images_are_not_taken_for_all(run, tensors, tmp_path):
    one = run()
    plan = campaign.make_plan(one, 10.0, fid_samples=20)
    real = fid.statistics(raw(one.images.test_pixels))
    path = campaign.parts_path(campaign.fid_path(one, plan, DASH_TAG, real), real) / "000000.safetensors"
    store.save_tensors(path, tensors, {})
    parts = campaign.fid_parts(one, plan, None, DASH_TAG, raw, real)
    with pytest.raises(ValueError, match=r"000000\.safetensors does not hold the features of 20 images"):
        next(parts)
