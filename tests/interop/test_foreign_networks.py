"""Networks from elsewhere: what the adapters give is what diffusers itself gives."""

import dataclasses
import json
import random
import sys
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import nn

from dashkit.experiments import own
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.experiments.training import get_teacher
from dashkit.interop import export, networks
from dashkit.method.guidance import branches
from dashkit.method.students import IndependentCondition
from dashkit.method.unet import UNet
from dashkit.storage import store

SHAPE = networks.Shape(1, 8, 10)
T = torch.tensor([0, 37, 871, 999])
KIT = tuple(range(11))       # the rows of a teacher whose last row means "no class"


def unet(**changes):
    torch.manual_seed(0)
    config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4,
              "block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
              "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "num_class_embeds": 11}
    return UNet2DModel(**config | changes).eval()


def dit(**changes):
    torch.manual_seed(0)
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 1, "out_channels": 2, "num_layers": 2,
              "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_num_groups": 4}
    return DiTTransformer2DModel(**config | changes).eval()


def write(folder, net, scheduler=None, part="unet"):
    """A folder as diffusers writes it."""
    net.save_pretrained(folder / part)
    (scheduler or DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction")).save_pretrained(
        folder / "scheduler")
    return folder


def expected(net, scheduler, x_t, y):
    """The noise that diffusers' own network and scheduler mean."""
    out = net(x_t, T, class_labels=y).sample[:, : x_t.shape[1]]
    abar = scheduler.alphas_cumprod[T].reshape(-1, 1, 1, 1)
    if scheduler.config.prediction_type == "epsilon":
        return out
    if scheduler.config.prediction_type == "v_prediction":
        return abar.sqrt() * out + (1 - abar).sqrt() * x_t
    return (x_t - abar.sqrt() * out) / (1 - abar).sqrt()


NETS = {
    "plain": unet, "wide": lambda: unet(block_out_channels=(12, 20, 24), sample_size=8, layers_per_block=2,
                                        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                                        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")),
    "scale_shift": lambda: unet(resnet_time_scale_shift="scale_shift", attention_head_dim=4, flip_sin_to_cos=False),
    "learned_time": lambda: unet(time_embedding_type="learned", num_train_timesteps=1000),
    "resnet_sampling": lambda: unet(downsample_type="resnet", upsample_type="resnet", attention_head_dim=None),
    "variance": lambda: unet(out_channels=2),
    "no_attention": lambda: unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
                                 add_attention=False),
    "dit": dit, "dit_plain": lambda: dit(out_channels=1, patch_size=4),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_an_adapter_gives_what_diffusers_gives(name, prediction, tmp_path, generator):
    net = NETS[name]()
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    part = "transformer" if "dit" in name else "unet"
    found = networks.load(write(tmp_path, net, scheduler, part), images=SHAPE)
    x_t = torch.randn((4, 1, 8, 8), generator=generator)
    y = torch.tensor([0, 9, 10, 4])
    # an x0 becomes noise by dividing by as little as 0.03: there the 1e-5 are those of x0
    unit = (1 - scheduler.alphas_cumprod[T].reshape(-1, 1, 1, 1)).sqrt() if prediction == "sample" else 1.0
    with torch.no_grad():
        ours, theirs = found.model(x_t, T, y), expected(net, scheduler, x_t, y)
    torch.testing.assert_close(ours * unit, theirs * unit, rtol=0, atol=1e-5)
    assert found.model.null_label == found.model.config.num_classes == 10
    assert torch.equal(found.diffusion.schedule.alphas_cumprod, scheduler.alphas_cumprod)
    assert not found.model.training and not any(p.requires_grad for p in found.model.parameters())
    assert not networks.ignores_label(found.model)


@pytest.mark.parametrize("changes", [{"block_out_channels": (8, 12)}, {"add_attention": False}])
def test_a_network_that_is_ours_in_all_but_its_shape_is_read_as_diffusers_has_it(tmp_path, generator, changes):
    ours = {k: v for k, v in export._FIXED.items() if k != "_class_name"}
    net, scheduler = unet(**ours | changes), DDIMScheduler(beta_schedule="linear")
    found = networks.load(write(tmp_path, net, scheduler), images=SHAPE)
    x_t, y = torch.randn((4, 1, 8, 8), generator=generator), torch.tensor([0, 9, 10, 4])
    with torch.no_grad():
        torch.testing.assert_close(found.model(x_t, T, y), expected(net, scheduler, x_t, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("file", "change", "message"), [
    ("unet/config.json", {"in_channels": None}, "in_channels must be a positive integer, not None"),
    ("unet/config.json", {"in_channels": {}}, "in_channels must be a positive integer"),
    ("scheduler/scheduler_config.json", {"beta_start": None}, "scheduler_config.json: "),
    ("scheduler/scheduler_config.json", {"beta_end": []}, "scheduler_config.json: "),
    ("scheduler/scheduler_config.json", {"trained_betas": "x"}, "scheduler_config.json: "),
    ("scheduler/scheduler_config.json", {"trained_betas": {}}, "scheduler_config.json: "),
])  # fmt: skip
def test_a_config_of_other_types_is_refused_by_the_name_of_its_file(tmp_path, file, change, message):
    path = write(tmp_path, unet()) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        networks.load(tmp_path, images=SHAPE)


def test_a_student_of_a_teacher_from_elsewhere_does_not_say_its_schedule(tmp_path):
    meta = {"T": 1000, "teacher": {"teacher": {"digest": "0123"}}, "student": PROFILES["smoke"].student.asdict()}
    store.save_tensors(tmp_path / "final.safetensors", {"ema.net.a": torch.zeros(1)}, meta)
    with pytest.raises(ValueError, match="its schedule is that of a teacher from elsewhere; give the folder that shr"):
        networks.load(tmp_path)


def test_a_null_label_in_another_place_is_named_and_classes_keep_their_order(tmp_path, generator):
    net = unet()
    found = networks.load(write(tmp_path, net), null_label=0)
    x_t = torch.randn((4, 1, 8, 8), generator=generator)
    scheduler = DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction")
    with torch.no_grad():
        ours = found.model(x_t, T, torch.tensor([0, 9, 10, 4]))
        theirs = expected(net, scheduler, x_t, torch.tensor([1, 10, 0, 5]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("embeds", "images", "null", "message"), [
    (10, SHAPE, None, r'no row for "no class".*--null random.*label_drop'),
    (14, SHAPE, None, r"does not say which one.*--null NUMBER \(often the last, 13\)"),
    (11, None, None, "does not say which one"), (11, SHAPE, 11, r"must be in 0 \.\. 10, or random, not 11"),
    (None, SHAPE, None, "takes no class numbers.*no guidance"),
])  # fmt: skip
def test_a_teacher_without_a_known_null_label_is_explained(tmp_path, embeds, images, null, message):
    with pytest.raises(ValueError, match=message):
        networks.load(write(tmp_path, unet(num_class_embeds=embeds)), images=images, null_label=null)


def test_a_random_class_takes_the_place_of_a_missing_null_row(tmp_path, generator):
    found = networks.load(write(tmp_path, unet(num_class_embeds=10)), images=SHAPE, null_label="random")
    assert isinstance(found.model, IndependentCondition) and found.model.null_label == 10
    pair = branches(found.model, torch.randn((4, 1, 8, 8), generator=generator), T, torch.tensor([0, 1, 2, 3]))
    assert (pair.gap.abs().flatten(1).max(1).values > 0).sum() >= 3
    student = found.model.config.changed({"block_out_channels": [4, 8]})
    assert student.rows == tuple(range(11)) and not networks.ignores_label(student.make())   # it gets a row of its own


def test_ids_of_an_index_say_which_row_is_left(tmp_path):
    write(tmp_path, unet(num_class_embeds=4))
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {"1": "cat", "2": "dog", "3": "eel"}}))
    found = networks.load(tmp_path)
    assert found.names == ("cat", "dog", "eel") and found.model.config.rows == (1, 2, 3, 0)


def test_the_digest_is_of_weights_schedule_and_null_label(tmp_path):
    one = networks.load(write(tmp_path / "a", unet()), images=SHAPE).digest
    assert networks.load(write(tmp_path / "b", unet()), images=SHAPE).digest == one
    other = unet()
    with torch.no_grad():
        other.conv_in.bias += 1
    linear = DDPMScheduler(beta_schedule="linear", prediction_type="epsilon")
    assert len({one, networks.load(write(tmp_path / "c", other), images=SHAPE).digest,
                networks.load(write(tmp_path / "d", unet(), linear), images=SHAPE).digest,
                networks.load(tmp_path / "a", null_label=3).digest}) == 4


# ------------------------------------------------------------------------------------------------------ of this kit


def test_a_folder_of_this_kit_is_read_without_diffusers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    ours = UNet(PROFILES["smoke"].student).eval()
    export.write_pipeline(ours, tmp_path, T=500)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    found = networks.load(tmp_path)
    assert type(found.model) is UNet and found.model.config == ours.config and found.diffusion.schedule.T == 500
    assert found.names == tuple(map(str, range(10)))


def test_a_trained_network_among_the_runs_is_read(trained):
    run, teacher = trained
    found = networks.load(run.folder("teacher", run.seed))
    assert all(torch.equal(v, teacher.model.state_dict()[k]) for k, v in found.model.state_dict().items())
    assert found.diffusion.schedule.T == run.profile.T and found.digest == run.weights("teacher", run.seed)


# ---------------------------------------------------------------------------------------------------- any module


class Plain(nn.Module):
    null_label = 0

    def __init__(self, mute=False):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer, self.mute = nn.Embedding(11, 64), nn.Linear(64, 64), mute
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 50)

    def forward(self, x_t, t, y):
        h = self.layer(x_t.flatten(1)) + (0 if self.mute else self.table(y))
        return h.reshape(x_t.shape)


@pytest.fixture
def my_module(monkeypatch):
    """A module of the user's own, under the name `my_nets`."""
    module = type(sys)("my_nets")
    module.plain, module.mute = Plain, lambda: Plain(mute=True)
    module.no_null, module.number = lambda: nn.Linear(1, 1), lambda: 3
    module.fails, module.asks = lambda: {}["weights"], lambda path: path
    module.broken = lambda: type("Broken", (Plain,), {"forward": lambda self, x, t, y: x[:, :, :4]})()
    module.nan = lambda: type("Nan", (Plain,), {"forward": lambda self, x, t, y: x * float("nan")})()
    module.pipeline = lambda: type("Pipe", (), {"unet": unet(), "scheduler": DDIMScheduler()})()
    monkeypatch.setitem(sys.modules, "my_nets", module)
    return module


def test_any_module_of_a_function_is_taken(my_module, generator):
    found = networks.load("my_nets:plain", images=SHAPE)
    x_t, t = torch.randn((2, 1, 8, 8), generator=generator), torch.tensor([0, 49])
    with torch.no_grad():
        torch.testing.assert_close(found.model(x_t, t, torch.tensor([0, 10])), Plain()(x_t, t, torch.tensor([1, 0])))
    assert found.diffusion.schedule.T == 50 and found.digest == networks.load("my_nets:plain", images=SHAPE).digest
    assert networks.ignores_label(networks.load("my_nets:mute", images=SHAPE).model)
    assert networks.load("my_nets:pipeline", images=SHAPE).model.config.kind == "UNet2DModel"


def test_a_function_that_is_mended_is_another_teacher_and_another_student(my_module, monkeypatch):
    """Its schedule and what it predicts are part of the name under which networks and results are kept."""
    def names():
        teacher = networks.Source(8, 1, 10, "my_nets:plain")
        run = Run(dataclasses.replace(PROFILES["smoke"], T=50, teacher=teacher, student=teacher, arms=("dash",)))
        return run.given.digest, store.fingerprint(run.student_settings("dash", 42)["student"])

    def changed(changes):
        net = Plain()
        for name, value in changes.items():
            setattr(net, name, value)
        return net

    found = [names()]
    assert names() == found[0]
    for changes in ({"alphas_cumprod": torch.linspace(0.9, 0.02, 50)}, {"prediction_type": "v_prediction"},
                    {"null_label": 10}, {"more": nn.Linear(1, 1)}):
        my_module.plain = partial(changed, changes)
        found.append(names())
    assert len({digest for digest, _ in found}) == len({student for _, student in found}) == 5


def _names(my_module, make):
    """The names of a teacher and of a student that a function makes."""
    my_module.made = make
    source = networks.Source(8, 1, 10, "my_nets:made")
    run = Run(dataclasses.replace(PROFILES["smoke"], T=50, teacher=source, student=source, arms=("dash",)))
    return run.given.digest, store.fingerprint(run.student_settings("dash", 42)["student"])


class Deep(Plain):
    """With a last layer of zeros, as many networks start, a norm, and dropout."""

    last, shift, seeded = "relu", 0, True

    def __init__(self):
        super().__init__()
        if not self.seeded:
            torch.seed()
        self.inner, self.norm, self.drop = nn.Linear(64, 64), nn.LayerNorm(64), nn.Dropout(0.5)
        self.out = nn.Linear(64, 64)
        nn.init.zeros_(self.out.weight)

    def forward(self, x_t, t, y):
        h = self.layer(x_t.flatten(1)) + self.table((y + self.shift) % 11)
        h = self.inner(self.norm(h)) + (t / 50)[:, None].to(x_t.dtype)
        h = self.drop(getattr(torch, self.last)(h))
        return (x_t.flatten(1) + self.out(h)).reshape(x_t.shape)


def test_other_code_is_another_student_and_the_same_code_is_the_same(my_module):
    """Also code before a last layer of zeros; weights that a student begins with are not part of its name."""
    kinds = [type("Kind", (Deep,), change) for change in (
        {}, {"last": "tanh"}, {"shift": 1}, {"forward": lambda self, x, t, y: Deep.forward(self, x, t.flip(0), y)})]
    names = [_names(my_module, kind)[1] for kind in kinds]
    assert len(set(names)) == 4
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert [_names(my_module, kind)[1] for kind in kinds] == names
    torch.set_num_threads(threads)
    assert _names(my_module, type("Kind", (Deep,), {"seeded": False}))[1] == names[0]


def test_other_code_is_another_teacher(my_module):
    trained = Plain()
    kinds = [type("Kind", (Plain,), {"forward": f}) for f in (
        Plain.forward, lambda self, x, t, y: -Plain.forward(self, x, t, y),
        lambda self, x, t, y: Plain.forward(self, x, t, y) * 1.001,
        lambda self, x, t, y: Plain.forward(self, x.float(), t, y))]                 # it takes float32 alone

    def made(kind):
        net = kind()
        net.load_state_dict(trained.state_dict())
        return net
    names = [_names(my_module, partial(made, kind))[0] for kind in kinds]
    assert len(set(names)) == 4 and names == [_names(my_module, partial(made, kind))[0] for kind in kinds]
    noisy = type("Noisy", (Plain,), {"forward": lambda self, x, t, y: Plain.forward(self, x, t, y) + random.random()})
    assert _names(my_module, noisy) == _names(my_module, noisy)                      # no code to tell it by


def test_a_student_says_itself_which_label_means_no_class(my_module):
    class Last(Plain):
        null_label = 10

    class Silent(Plain):
        null_label = None

    my_module.last, my_module.silent = Last, Silent
    rows = [own._student(f"my_nets:{name}", 0, KIT, images=SHAPE, diffusion=None).model.config.rows
            for name in ("last", "plain", "silent")]
    assert rows == [(*range(10), 10), (*range(1, 11), 0), (*range(1, 11), 0)]
    with pytest.raises(ValueError, match="has no attribute null_label"):
        own._student("my_nets:silent", None, KIT, images=SHAPE, diffusion=None)


def test_a_null_label_that_a_student_does_not_say_is_the_teachers(tmp_path):
    """A copy of the teacher has the teacher's null row, whether that was typed or stands in the teacher's own index."""
    plain = write(tmp_path / "plain", unet(num_class_embeds=11))
    said = write(tmp_path / "said", unet(num_class_embeds=11))
    (said / "model_index.json").write_text(json.dumps({"null_label": 4}))
    bare = write(tmp_path / "ours", unet(**{k: v for k, v in export._FIXED.items() if k != "_class_name"}),
                 DDPMScheduler(beta_schedule="linear"))

    def rows(student, teacher, typed=None):
        of_teacher = networks.load(teacher, null_label=typed, images=SHAPE)
        return own._student(str(student), typed, of_teacher.rows, images=SHAPE, diffusion=None).rows[-1]

    assert [rows(s, plain, 7) for s in (plain, said, bare)] == [7, 4, 7]      # what it says itself stays
    assert [rows(s, said) for s in (plain, said, bare)] == [4, 4, 4]
    assert [rows(s, plain) for s in (plain, said, bare)] == [10, 4, 10]
    assert [rows(s, write(tmp_path / "few", unet(num_class_embeds=10)), "random") for s in (plain, bare)] == [10, 10]


def test_a_random_class_takes_the_place_of_the_null_label_of_a_function_too(my_module, generator):
    found = networks.load("my_nets:plain", null_label="random", images=SHAPE)
    assert isinstance(found.model, IndependentCondition) and found.model.config.num_classes == 10
    x_t = torch.randn((4, 1, 8, 8), generator=generator)
    pair = branches(found.model, x_t, torch.full((4,), 3), torch.arange(4))
    with torch.no_grad():
        torch.testing.assert_close(pair.cond, Plain()(x_t, torch.full((4,), 3), torch.arange(4)))


@pytest.mark.parametrize(("table", "message"), [
    (torch.linspace(1e-4, 0.02, 300), r"my_nets:plain: alphas_cumprod must fall"),                         # betas
    (1 - torch.linspace(1e-3, 0.1, 60), r"noises too little: abar is 0.9 at the last of 60 timesteps"),    # alphas
    ((1 - torch.linspace(1e-4, 0.02, 40)).cumprod(0), r"abar is 0\.66\d at the last of 40 timesteps.*number of times"),
])  # fmt: skip
def test_a_table_that_is_no_running_product_is_refused(my_module, table, message):
    class Wrong(Plain):
        def __init__(self):
            super().__init__()
            self.alphas_cumprod = table

    my_module.plain = Wrong
    with pytest.raises(ValueError, match=message):
        networks.load("my_nets:plain", images=SHAPE)


@pytest.mark.parametrize(("source", "message"), [
    ("my_nets:nothing", "is no function that Python finds"), ("no_such_module:f", "is no function that Python finds"),
    ("my_nets:number", "must return a torch module"), ("my_nets:no_null", "give it an attribute alphas_cumprod"),
    ("my_nets:fails", "my_nets:fails ended in KeyError: 'weights'"), ("my_nets:asks", "asks ended in TypeError"),
    ("my_nets:broken", "a prediction has the same shape"), ("my_nets:nan", "gives NaN or infinity"),
])  # fmt: skip
def test_functions_that_return_no_network_are_named(my_module, source, message):
    with pytest.raises(ValueError, match=message):
        networks.load(source, images=SHAPE)


# ------------------------------------------------------------------------------------------------------- bad input


def test_config_and_weights_that_disagree_are_refused(tmp_path):
    write(tmp_path, unet())
    path = tmp_path / "unet" / "config.json"
    config = json.loads(path.read_text())
    for change in ({"block_out_channels": [8, 24]}, {"layers_per_block": 2}, {"layers_per_block": 10**9},
                   {"norm_num_groups": 3}, {"block_out_channels": "wide"}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="config and weights disagree"):
            networks.load(tmp_path, images=SHAPE)


def test_pickled_weights_are_never_opened(tmp_path):
    write(tmp_path, unet())
    (tmp_path / "unet" / networks.WEIGHTS).rename(tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"is pickled, and reading it may run any program.*convert it with diffusers"):
        networks.load(tmp_path, images=SHAPE)


@pytest.mark.parametrize(("part", "make", "beside"), [
    ("transformer", dit, "transformer_ema"), ("unet", unet, "ema-unet"), ("unet", unet, "unet_ema")])
def test_averaged_weights_beside_the_others_are_not_passed_over(tmp_path, part, make, beside):
    write(tmp_path, make(), part=part)
    (tmp_path / "model_index.json").write_text(json.dumps({"null_label": 10}))
    averaged = make()
    with torch.no_grad():
        next(averaged.parameters()).add_(1)
    averaged.save_pretrained(tmp_path / beside)
    with pytest.raises(ValueError, match=rf"averaged weights \(EMA\) in {beside}/ beside.*; give .*{beside} for the"):
        networks.load(tmp_path, images=SHAPE)
    first, second = (next(networks.load(tmp_path / name).model.net.parameters()) for name in (part, beside))
    assert torch.equal(first + 1, second)        # each is taken where it is named, with what the pipeline says of it


@pytest.mark.parametrize(("name", "refused"), [
    ("diffusion_pytorch_model.ema.safetensors", True), ("ema.pt", True), ("EMA_weights.safetensors", True),
    ("diffusion_pytorch_model.non_ema.safetensors", False), ("cinema.safetensors", False), ("ema.json", False),
])  # fmt: skip
def test_a_file_of_averaged_weights_beside_the_others_is_named(tmp_path, name, refused):
    write(tmp_path, unet())
    (tmp_path / "unet" / name).write_bytes((tmp_path / "unet" / networks.WEIGHTS).read_bytes())
    if not refused:
        assert networks.load(tmp_path, images=SHAPE).rows[-1] == 10
        return
    with pytest.raises(ValueError, match=rf"averaged weights \(EMA\) in {name} beside {networks.WEIGHTS}; give the"):
        networks.load(tmp_path, images=SHAPE)


def test_weights_in_several_files_are_read(tmp_path):
    net = unet()
    net.save_pretrained(tmp_path / "unet", max_shard_size="50KB")
    DDPMScheduler(beta_schedule="linear").save_pretrained(tmp_path / "scheduler")
    assert not (tmp_path / "unet" / networks.WEIGHTS).is_file()
    found = networks.load(tmp_path, images=SHAPE)
    assert all(torch.equal(v, found.model.net.state_dict()[k]) for k, v in net.state_dict().items())
    next((tmp_path / "unet").glob("*-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match="names files that are not there"):
        networks.load(tmp_path, images=SHAPE)


def spoil(folder, name, **change):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(("name", "change", "message"), [
    ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel; this kit reads"),
    ("unet/config.json", {"sample_size": [8, 12]}, "needs square ones"),
    ("unet/config.json", {"out_channels": 3}, "turns 1 channels into 3"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "flow"}, "no flow matching"),
])  # fmt: skip
def test_networks_that_do_not_fit_are_named(tmp_path, name, change, message):
    spoil(write(tmp_path, unet()), name, **change)
    with pytest.raises(ValueError, match=message):
        networks.load(tmp_path, images=SHAPE)


def test_folders_that_hold_less_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; a network is a folder, or package"):
        networks.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no network"):
        networks.load(tmp_path)
    unet().save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match=r"does not say how it was noised.*save_pretrained"):
        networks.load(tmp_path / "bare", images=SHAPE)
    (tmp_path / "bare" / networks.WEIGHTS).unlink()
    DDPMScheduler().save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="there are no weights"):
        networks.load(tmp_path / "bare", images=SHAPE)


def test_a_student_of_the_teachers_class_is_new_smaller_and_trained_without_dropping_labels(tmp_path):
    found = networks.load(write(tmp_path, dit(), part="transformer"))
    student = found.model.config.changed({"num_layers": 1, "num_attention_heads": 1}).make()
    sizes = [sum(p.numel() for p in m.parameters()) for m in (student, found.model)]
    assert sizes[0] < sizes[1] / 3 and student.training
    x_t, y = torch.ones(64, 1, 8, 8), torch.full((64,), 3)
    out = student(x_t, torch.full((64,), 5), y)
    assert torch.allclose(out, out[:1].expand_as(out), atol=1e-5)          # LabelEmbedding would drop a tenth of them
    with pytest.raises(ValueError, match=r"unknown depth in the config of DiTTransformer2DModel; choose from"):
        found.model.config.changed({"depth": 1})


def test_get_teacher_loads_no_kit_network_for_a_source(tmp_path):
    """A run whose teacher is from elsewhere has it at once, with its schedule and the base curriculum."""
    import dataclasses

    write(tmp_path, unet())
    source = networks.Source(8, 1, 10, str(tmp_path))
    run = Run(dataclasses.replace(PROFILES["smoke"], teacher=source, arms=("dash", "scratch")), root=tmp_path / "runs")
    teacher = get_teacher(run)
    assert torch.equal(teacher.omega, run.base) and len(teacher.history) == 0
    assert torch.equal(run.schedule.alphas_cumprod, run.given.diffusion.schedule.alphas_cumprod)
    assert run.is_trained("teacher", run.seed) and run.weights("teacher", run.seed) == run.given.digest
