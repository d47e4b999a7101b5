"""DASH on teachers that this kit did not make: `python tests/tools/own_proof.py [unet] [dit] [--publish] [--set ...]`.

Two teachers of diffusers' own classes are trained by a plain loop of diffusers on the digits that scikit-learn ships: a
`UNet2DModel` that predicts v on linear betas, and a `DiTTransformer2DModel` with room for a learned variance that
predicts the noise on scaled betas.  Then students of the teacher's own class, a sixth of its size, learn by DASH and
from scratch, with five training seeds.  The table says how much of the teacher's guidance gap each has, and how far the
adapter is from diffusers' own forward pass and the exported pipeline from our samples.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, DiTTransformer2DModel, UNet2DModel
from torch import nn

from dashkit.analysis import bootstrap
from dashkit.analysis.tables import RESULTS, write_published
from dashkit.datasets.files import save_folder
from dashkit.datasets.sources import load_images
from dashkit.experiments.evaluation import tidy
from dashkit.experiments.new import Wish, write_profile
from dashkit.experiments.run import SAMPLING_SEED, Run, start_run
from dashkit.experiments.training import get_students, get_teacher
from dashkit.method import all_branches, gap_stats, held_out_states, sample
from dashkit.method.images import Images, to_float
from dashkit.publishing.student_report import write_student
from dashkit.storage import provenance
from dashkit.storage.paths import BUILD


class Case(NamedTuple):
    """A teacher of diffusers."""

    make: Callable[[], nn.Module]
    scheduler: DDPMScheduler
    part: str                     # its folder in a pipeline
    lr: float


CASES = {
    "unet": Case(lambda: UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(24, 40),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=11), DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction"), "unet", 2e-3),
    "dit": Case(lambda: DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=1, out_channels=2, num_layers=4, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10),
        DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02), "transformer", 1e-3),
}


def train(case: Case, images: Images, folder: Path, *, steps: int, batch: int = 64) -> None:
    """A plain loop of diffusers: a tenth of the labels is hidden."""
    torch.manual_seed(0)
    net, scheduler = case.make(), case.scheduler
    optimiser = torch.optim.AdamW(net.parameters(), lr=case.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, case.lr, total_steps=steps)
    x0 = to_float(images.pixels)
    for _ in range(steps):
        i, t = torch.randint(len(x0), (batch,)), torch.randint(scheduler.config.num_train_timesteps, (batch,))
        x, noise = x0[i], torch.randn(batch, *images.shape)
        y = torch.where(torch.rand(batch) < 0.1, images.num_classes, images.labels[i])
        wanted = scheduler.get_velocity(x, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
        out = net(scheduler.add_noise(x, noise, t), t, class_labels=y).sample[:, : x.shape[1]]
        loss = (out - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
    net.eval().save_pretrained(folder / case.part)
    scheduler.save_pretrained(folder / "scheduler")


def adapter_difference(run: Run, case: Case) -> float:
    """The largest difference of the adapter's noise from what diffusers' own network and scheduler give."""
    net = type(case.make()).from_pretrained(Path(run.profile.teacher.source) / case.part, local_files_only=True).eval()
    states = held_out_states(run.schedule, run.images, 200, seed=SAMPLING_SEED)
    with torch.no_grad():
        theirs = net(states.x_t, states.t, class_labels=states.y).sample[:, : states.x_t.shape[1]]
        if case.scheduler.config.prediction_type == "v_prediction":
            abar = case.scheduler.alphas_cumprod[states.t].reshape(-1, 1, 1, 1)
            theirs = abar.sqrt() * theirs + (1 - abar).sqrt() * states.x_t
        return float((run.given.model(states.x_t, states.t, states.y) - theirs).abs().max())


def export_difference(run: Run, student: nn.Module, folder: Path) -> float:
    """The largest difference of the samples of the exported pipeline, in diffusers, from ours."""
    write_student(folder, run, student)
    pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    y = torch.arange(10)
    x_T = torch.randn((10, *run.images.shape), generator=torch.Generator().manual_seed(1))
    theirs = pipe(y.tolist(), guidance_scale=1.5, num_inference_steps=50, latents=x_T, output_type="pt").images
    return float((theirs - sample(student, run.schedule, y, x_T=x_T, w=1.5, steps=50)).abs().max())


def prove(name: str, place: Path, *, teacher_steps: int, settings: dict[str, object]) -> tuple[Run, pd.DataFrame]:
    """Train and measure one case; what is there already is not trained again."""
    case, images = CASES[name], load_images("digits")
    if not (place / "pictures").is_dir():
        save_folder(images, place / "pictures")
    if not (place / name / "scheduler").is_dir():
        train(case, images, place / name, steps=teacher_steps)
    profile = place / f"{name}.toml"
    if not profile.is_file():
        said = write_profile(profile, Wish(str(place / "pictures"), str(place / name), hours=0.1), device="cpu").said
        print(*said, sep="\n")
    run = start_run(profile, device="cpu", **settings)
    teacher = get_teacher(run)
    students = get_students(run, teacher)
    states = held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
    target, tables = all_branches(teacher.model, states), []
    for (arm, seed), student in students.items():
        stats = gap_stats(all_branches(student, states), target)._asdict()
        found = [{"metric": k, "value": v, "n": run.profile.states} for k, v in stats.items()]
        tables.append(tidy(run, arm, seed, found))
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in
             (("parameters", teacher.model), ("student_parameters", next(iter(students.values()))))}
    facts = sizes | {"adapter_difference": adapter_difference(run, case), "export_difference": export_difference(
        run, students["dash", run.seed], place / f"{name}_student")}
    own = tidy(run, "teacher", run.seed, [{"metric": k, "value": v, "n": 1} for k, v in facts.items()])
    return run, pd.concat([own, *tables], ignore_index=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--publish", action="store_true", help="write data/results/own")
    parser.add_argument("--teacher-steps", type=int, default=1200)
    parser.add_argument("--student-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    failed = []
    for name in options.cases or CASES:
        began = time.monotonic()
        run, table = prove(name, BUILD / "own_proof", teacher_steps=options.teacher_steps, settings={
            "student_steps": options.student_steps, "seeds": options.seeds, "arms": ("dash", "scratch")})
        r2 = table[table.metric == "r2"].pivot(index="seed", columns="arm", values="value")
        gain = bootstrap(r2, lambda m: m.dash - m.scratch)
        values = table.set_index("metric").value
        print(f"{name}: R² of the gap, dash {r2.dash.mean():.3f}, scratch {r2.scratch.mean():.3f}, difference {gain}; "
              f"adapter {values.adapter_difference:.1e}, export {values.export_difference:.1e}")
        if not (gain.lo > 0 and values.adapter_difference < 1e-5 and values.export_difference < 1e-4):
            failed.append(name)
        if options.publish:
            manifest = provenance.manifest(settings=run.profile.asdict() | {"dataset": "digits"}, seed=run.seed,
                                           device=provenance.device_name("cpu"), teacher_steps=options.teacher_steps,
                                           seconds=round(time.monotonic() - began, 1), gain=gain._asdict())
            manifest["settings"]["teacher"]["source"] = f"{type(CASES[name].make()).__name__} of diffusers"
            write_published(table, manifest, RESULTS / "own" / name)
    print(*(f"FAILED: {name}" for name in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
