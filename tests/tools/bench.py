"""`make bench`: this kit against diffusers, same work, interleaved in one run.

Each row checks that both sides compute the same, then times them in turn, the order reversed each round, and reports
the median of the rounds' ratios (above 1: faster than the peer).  `--quick` takes about two minutes.  Then: what a user
waits for, memory over many steps, and how a step grows with batch, width, arms and steps.  Everything goes to
`build/bench`; `--publish` keeps it under `data/results/bench`, where the README reads it.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import EMAModel
from matplotlib import pyplot as plt
from torch import Tensor, nn

from dashkit.classroom import plots
from dashkit.experiments.cost import seconds_of
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import start_run
from dashkit.experiments.threads import side_by_side
from dashkit.method import guidance
from dashkit.method.arms import OBJECTIVES
from dashkit.method.distillation import seeded
from dashkit.method.losses import distil_terms, total
from dashkit.method.sampling import sample
from dashkit.method.schedule import Noised, cosine_schedule, noised
from dashkit.method.training import Learner, fit
from dashkit.method.unet import UNet, UNetConfig
from dashkit.storage import paths, provenance, store, tables

sys.path.append(str(Path(__file__).resolve().parents[1]))
from oracles import diffusers_twin

OUT, PUBLISHED = paths.BUILD / "bench", paths.ROOT / "data" / "results" / "bench"
SCHEDULE = cosine_schedule(1000)
LR, EMA, CLIP = 1e-3, 0.999, 1.0
CIFAR, DIGITS = PROFILES["cifar10"], PROFILES["digits"]


class Sides(NamedTuple):
    """One row's two ways of doing the same work, each a call, and how far apart their results may be."""

    ours: Callable[[], object]
    peer: Callable[[], object]


@dataclass(frozen=True)
class Row:
    name: str
    peer: str
    target: float | None
    make: Callable[[bool], Sides]     # checks that both sides agree; takes `quick`
    rounds: int = 9
    device: str = "cpu"
    flops: float = 0.0                # of one call; on a GPU its share of the measured bf16 rate is reported


def seeded_batch(config: UNetConfig, size: int, device: str = "cpu") -> Noised:
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn((size, config.channels, config.size, config.size), generator=g).clamp(-1, 1)
    y = torch.randint(config.num_classes, (size,), generator=g)
    return Noised(*(v.to(device) for v in noised(SCHEDULE, x0, y, generator=g)))


def low_precision(device: str) -> torch.autocast:
    """bf16 on a GPU, for both sides; on a CPU as it is."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def network(config: UNetConfig, seed: int = 0) -> UNet:
    return seeded(seed, lambda: UNet(config)).to(memory_format=torch.channels_last)


def agree(a: Tensor, b: Tensor, tolerance: float) -> None:
    difference = (a - b).abs().max().item()
    if not difference <= tolerance:
        raise SystemExit(f"the two sides differ by {difference:.2g}: equal work is part of a benchmark")


class Peer:
    """diffusers' network in a plain training loop: default AdamW, gradient clipping, diffusers' own EMA."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.train()
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=LR)
        self.ema = EMAModel(net.parameters(), decay=EMA)

    def update(self, loss: Tensor) -> Tensor:
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimiser.step()
        self.ema.step(self.net.parameters())
        return loss.detach()


def learner(net: UNet) -> Learner:
    return Learner(net, lr=LR, steps=10**6, ema=EMA, clip=CLIP)


def training(
    config: UNetConfig, size: int, *, peer_groups: int | None = None, device: str = "cpu"
) -> Callable[[bool], Sides]:
    """One optimiser step with EMA on a fixed batch."""

    def make(quick: bool) -> Sides:
        config_ = replace(config, dropout=0.0)
        batch, ours = seeded_batch(config_, size, device), learner(network(config_).to(device))
        other = config_ if peer_groups is None else replace(config_, groups=peer_groups)
        peer = Peer(diffusers_twin(network(other)).to(device))

        def our_loss() -> Tensor:
            with low_precision(device):
                return (ours.model(batch.x_t, batch.t, batch.y) - batch.eps).square().mean()

        def peer_loss() -> Tensor:
            with low_precision(device):
                return (peer.net(batch.x_t, batch.t, class_labels=batch.y).sample - batch.eps).square().mean()

        if peer_groups is None:
            agree(our_loss().detach(), peer_loss().detach(), 1e-4 if device == "cpu" else 1e-2)
        return Sides(lambda: ours.update(our_loss()), lambda: peer.update(peer_loss()))

    return make


def sampling(
    config: UNetConfig, size: int, steps: int, *, peer_groups: int | None = None, device: str = "cpu"
) -> Callable[[bool], Sides]:
    """Guided DDIM from the same noise; the peer makes one pass of 2B a step too."""

    def make(quick: bool) -> Sides:
        n_steps = max(5, steps // 5) if quick else steps
        config_ = replace(config, dropout=0.0)
        net, line = network(config_).eval().to(device), SCHEDULE.to(device)
        other = net if peer_groups is None else network(replace(config_, groups=peer_groups)).eval()
        twin, y = diffusers_twin(other).to(device), torch.arange(size, device=device) % config.num_classes
        x_T = torch.randn((size, config.channels, config.size, config.size), generator=torch.Generator().manual_seed(0))
        x_T = x_T.to(device)
        scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)

        def ours() -> Tensor:
            with low_precision(device):
                return sample(net, line, y, x_T=x_T, w=1.5, steps=n_steps, batch=size)

        @torch.inference_mode()
        def peer() -> Tensor:
            with low_precision(device):
                return plain()

        def plain() -> Tensor:
            scheduler.set_timesteps(n_steps)
            x, labels = x_T, torch.cat([y, torch.full_like(y, config.num_classes)])
            for t in scheduler.timesteps:
                cond, uncond = twin(torch.cat([x, x]), t, class_labels=labels).sample.chunk(2)
                eps = uncond + 1.5 * (cond - uncond)
                x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
            return x

        if peer_groups is None:
            agree(ours(), peer(), 0.5 if device == "cuda" else 1e-4 if config.size > 8 else 1e-3)
        return Sides(ours, peer)

    return make


def sweep(
    teacher: UNetConfig, student: UNetConfig, size: int, arms: int, steps: int, *, seeds: int = 1
) -> Callable[[bool], Sides]:
    """DASH students: ours as in a sweep, the arms of a seed in lockstep on one teacher pass and the seeds side by side.

    The peer has one run after another.
    """

    def make(quick: bool) -> Sides:
        n = max(1, steps // 4) if quick else steps
        plain = (replace(c, dropout=0.0) for c in (teacher, student))
        big, small = (network(c, 1).eval().requires_grad_(False) for c in plain)
        twin, batch = diffusers_twin(big), seeded_batch(teacher, size)
        lam, omega = OBJECTIVES["dash"].lam, torch.ones(1000)
        groups = [list(range(j, arms, seeds)) for j in range(seeds)]

        def loss(student: guidance.Branches, target: guidance.Branches) -> Tensor:
            terms = distil_terms(student, target, eps=batch.eps, w=1.0)
            return total(terms, lam, omega[batch.t])

        def run_group(members: list[int]):
            learners = {str(m): learner(network(small.config, m)) for m in members}

            def batches():
                while True:
                    with torch.no_grad():
                        target = guidance.branches(big, batch.x_t, batch.t, batch.y)
                    yield target

            def loss_fn(name, model, target):
                return loss(guidance.branches(model, batch.x_t, batch.t, batch.y), target)

            yield from fit(learners, loss_fn, batches(), steps=n)

        run = start_run("smoke", device="cpu")

        def ours() -> None:
            side_by_side(run, {str(i): (lambda g=g: run_group(g)) for i, g in enumerate(groups)},
                                 at_once=seeds, ticks=seeds * n, title="")

        def both(net: nn.Module) -> guidance.Branches:
            labels = torch.cat([batch.y, torch.full_like(batch.y, teacher.num_classes)])
            eps = net(torch.cat([batch.x_t] * 2), torch.cat([batch.t] * 2), class_labels=labels).sample
            return guidance.Branches(*eps.chunk(2))

        def peer() -> None:
            for m in range(arms):
                one = Peer(diffusers_twin(network(small.config, m)))
                for _ in range(n):
                    with torch.no_grad():
                        target = both(twin)
                    one.update(loss(both(one.net), target))

        with torch.no_grad():
            agree(guidance.branches(big, batch.x_t, batch.t, batch.y).gap, both(twin).gap, 1e-4)
        return Sides(ours, peer)

    return make


SAME = "diffusers, same weights"
ROWS = [
    Row("train_teacher32", SAME, 1.15, training(CIFAR.teacher, 16), rounds=9),
    Row("train_student32", SAME, 1.2, training(CIFAR.student, 32), rounds=15),
    Row("train_digits", "diffusers, 16 groups", 1.4, training(DIGITS.student, 64, peer_groups=16), rounds=41),
    Row("train_digits_same", SAME, None, training(DIGITS.student, 64), rounds=41),
    Row("sample_digits", "diffusers, 16 groups", 1.5, sampling(DIGITS.student, 64, 50, peer_groups=16), rounds=15),
    Row("sample_digits_same", SAME, None, sampling(DIGITS.student, 64, 50), rounds=15),
    Row("sample_student32", SAME, 1.25, sampling(CIFAR.student, 8, 10), rounds=9),
    Row("sweep_digits", "8 runs with diffusers", 2.6,
        sweep(DIGITS.teacher, DIGITS.student, 64, 8, 12, seeds=2), rounds=5),
    Row("sweep_student32", "3 runs with diffusers", 2.0, sweep(CIFAR.teacher, CIFAR.student, 16, 3, 2), rounds=5),
]
GPU = [
    Row("gpu_train_teacher32", SAME, 1.0, training(CIFAR.teacher, 256, device="cuda"), rounds=21, device="cuda",
        flops=3 * 256 * 12.44e9),
    Row("gpu_train_student32", SAME, 1.0, training(CIFAR.student, 512, device="cuda"), rounds=21, device="cuda",
        flops=3 * 512 * 2.15e9),
    Row("gpu_sample_student32", SAME, 1.0, sampling(CIFAR.student, 1000, 50, device="cuda"), rounds=5, device="cuda",
        flops=2 * 50 * 1000 * 2.15e9),
]
if torch.cuda.is_available():
    ROWS += GPU


def bf16_rate() -> float:
    """Operations a second of large bf16 products on the GPU: what a share of the peak refers to."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    seconds = min(timed(lambda: a @ a, "cuda") for _ in range(10))
    return 2 * 8192**3 / seconds


def timed(call: Callable[[], object], device: str = "cpu") -> float:
    return seconds_of(call, torch.device(device))


def measure(row: Row, *, quick: bool) -> dict:
    """Interleaved rounds: `ratio` is the median of the rounds' own ratios, `spread` their middle half."""
    sides, times = row.make(quick), {"ours": [], "peer": []}
    rounds = max(3, row.rounds // 4) if quick else row.rounds
    for call in sides:
        call()                                                     # warm
    for i in range(rounds):
        for name in ("ours", "peer") if i % 2 else ("peer", "ours"):
            times[name].append(timed(getattr(sides, name), row.device))
    ratios = sorted(p / o for o, p in zip(times["ours"], times["peer"], strict=True))
    ours, peer = statistics.median(times["ours"]), statistics.median(times["peer"])
    quarter = len(ratios) // 4
    found = {"name": row.name, "ours_s": ours, "peer": row.peer, "peer_s": peer, "ratio": statistics.median(ratios),
             "spread": [ratios[quarter], ratios[-1 - quarter]], "target": row.target, "rounds": rounds}
    if row.device == "cuda":
        found["share_of_peak"] = row.flops / ours / bf16_rate()
    return found | {"device": provenance.device_name(row.device)}


def growth(*, quick: bool) -> pd.DataFrame:
    """Seconds of our training against batch, width, number of arms in lockstep (one step), and number of steps."""
    found = []

    def add(axis: str, value: int, config: UNetConfig, size: int, arms: int = 1, steps: int = 1) -> None:
        batch, several = seeded_batch(config, size), [learner(network(config, i)) for i in range(arms)]

        def train() -> None:
            for _ in range(steps):
                for one in several:
                    one.update((one.model(batch.x_t, batch.t, batch.y) - batch.eps).square().mean())

        train()
        seconds = statistics.median(timed(train) for _ in range(3 if quick else 7))
        found.append({"axis": axis, "value": value, "seconds": seconds})

    for size in (16, 32, 64, 128, 256):
        add("batch", size, DIGITS.student, size)
    for ch in (8, 16, 32, 64):
        add("width", ch, replace(DIGITS.student, ch=ch, groups=max(2, ch // 4)), 64)
    for arms in (1, 2, 4, 8):
        add("arms", arms, DIGITS.student, 64, arms)
    for steps in (1, 4, 16, 64):
        add("steps", steps, DIGITS.student, 64, steps=steps)
    return pd.DataFrame(found)


_FIRST_PICTURE = """
import sys, time
start = time.perf_counter()
import nbformat
from nbclient import NotebookClient
class Found(Exception): pass
def look(cell, cell_index, execute_reply):
    if any("<img" in o.get("data", {}).get("text/html", "") for o in cell.outputs): raise Found
notebook = nbformat.read(sys.argv[1], 4)
try:
    NotebookClient(notebook, timeout=600, on_cell_executed=look).execute()
    sys.exit("no picture")
except Found:
    print(time.perf_counter() - start)
"""


def waits(*, quick: bool) -> dict[str, dict]:
    """Seconds until a fresh process has imported the kit, and until notebook 00 shows its first picture."""
    imports = "import time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"
    notebook = str(paths.ROOT / "notebooks" / "00_start_here.ipynb")
    calls = {"import torch": (["-c", imports.format("torch")], None),
             "import dashkit.experiments.training": (["-c", imports.format("dashkit.experiments.training")], 2.0),
             "first picture of notebook 00": (["-c", _FIRST_PICTURE, notebook], 20.0)}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2 if quick else 5):
        for name, (arguments, _) in calls.items():
            out = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
            found[name].append(float(out.split()[-1]))
    return {name: {"seconds": statistics.median(s), "most": calls[name][1]} for name, s in found.items()}


def resident() -> int:
    """Bytes that this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def leak(*, quick: bool) -> dict[str, float]:
    """How much memory grows from step 1,000 to the last of many, in MiB; a leak of a tensor a step would show."""
    steps, first = (2_000, 500) if quick else (10_000, 1_000)
    config = PROFILES["smoke"].student
    batch, one = seeded_batch(config, 8), {"one": learner(network(config))}
    sizes = {}
    for step in fit(one, lambda _, net, b: (net(b.x_t, b.t, b.y) - b.eps).square().mean(),
                          iter(lambda: batch, None), steps=steps):
        if step.number in (first, steps):
            sizes[step.number] = resident() / 2**20
    return {"steps": steps, "since": first, "grown_mib": sizes[steps] - sizes[first], "resident_mib": sizes[steps]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about two minutes")
    parser.add_argument("--only", default="", help="names of rows, separated by commas")
    parser.add_argument("--publish", action="store_true", help="keep the results under data/results/bench")
    options = parser.parse_args()
    known = [r.name for r in ROWS]
    wanted = [n for n in options.only.split(",") if n] or known
    if set(wanted) - set(known):
        parser.error(f"unknown row; choose from {', '.join(known)}")
    made = {"threads": torch.get_num_threads(), "commit": provenance.commit()}
    results = []
    print(f"{'row':20s} {'ours':>9s} {'peer':>9s} {'ratio':>6s}  middle half   target")
    for row in ROWS:
        if row.name not in wanted:
            continue
        got = measure(row, quick=options.quick) | made
        results.append(got)
        reached = row.target is None or got["ratio"] >= row.target
        verdict = "" if row.target is None else f"{row.target:.2f} {'reached' if reached else 'MISSED'}"
        print(f"{row.name:20s} {got['ours_s']:8.3f}s {got['peer_s']:8.3f}s {got['ratio']:6.2f}  "
              f"{got['spread'][0]:.2f} – {got['spread'][1]:.2f}   {verdict}", flush=True)
    store.write_json(OUT / "bench.json", results)
    if wanted == known:
        others = {"waits": waits(quick=options.quick)}
        for name, wait in others["waits"].items():
            limit = "" if wait["most"] is None else f"at most {wait['most']:g} s"
            print(f"{name:30s} {wait['seconds']:6.2f} s   {limit}", flush=True)
        if sys.platform == "linux":
            grown = others["leak"] = leak(quick=options.quick)
            print(f"memory from step {grown['since']:,} to {grown['steps']:,}: {grown['grown_mib']:+.1f} MiB of "
                  f"{grown['resident_mib']:.0f}", flush=True)
        store.write_json(OUT / "waits.json", others | made | {"device": provenance.device_name("cpu")})
        write_picture(growth(quick=options.quick))
    if options.publish:
        if wanted != known or options.quick:
            parser.error("only a whole bench is published: leave out --only and --quick")
        for name in ("bench.json", "waits.json", "growth.csv", "growth.png"):
            (PUBLISHED / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(OUT / name, PUBLISHED / name)
    print(OUT / "bench.json")
    return 0


def write_picture(table: pd.DataFrame) -> None:
    plots.use_style()
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    for ax, (axis, part) in zip(axes, table.groupby("axis", sort=False), strict=True):
        ms = 1000 * part.seconds
        ax.loglog(part.value, ms, marker="o", base=2)
        ax.set(xlabel=axis, ylabel="ms" if axis == "steps" else "ms a training step", xticks=part.value,
               xticklabels=part.value, yticks=ms, yticklabels=[f"{m:.0f}" for m in ms])
    tables.write_table(OUT / "growth.csv", table)
    store.write_bytes(OUT / "growth.png", plots.png(figure))


if __name__ == "__main__":
    sys.exit(main())
