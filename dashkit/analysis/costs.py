"""What networks cost, and what another number of threads changes."""

import tempfile
from pathlib import Path

import pandas as pd
import torch

from dashkit.experiments.cost import flops, peak_memory, seconds_of
from dashkit.experiments.networks import load_losses
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run, start_run
from dashkit.experiments.training import get_students, get_teacher
from dashkit.method import guidance
from dashkit.method.distillation import seeded
from dashkit.method.sampling import sample
from dashkit.method.unet import UNet, n_parameters
from dashkit.storage import provenance, tables
from dashkit.storage.paths import ROOT


def cost_rows(profile: str, *, batch: int, rounds: int = 5) -> pd.DataFrame:
    """Parameters, operations, latency and peak memory of one guided pass of a profile's two networks, freshly made.

    Latency is the median over interleaved rounds on the CPU or the GPU that is there.
    """
    run = start_run(profile)
    p, device = run.profile, run.device
    nets = {name: seeded(0, lambda config=config: UNet(config)).to(device, memory_format=torch.channels_last)
            for name, config in (("teacher", p.teacher), ("dash", p.student))}
    x = torch.randn(batch, p.teacher.channels, p.teacher.size, p.teacher.size, device=device)
    t, y = torch.full((batch,), p.T // 2, device=device), torch.zeros(batch, dtype=torch.long, device=device)

    def work(net: UNet) -> None:
        with torch.no_grad():
            guidance.branches(net.eval(), x, t, y)
    seconds = {name: [] for name in nets}
    for i in range(rounds + 1):
        for name, net in list(nets.items())[:: 1 if i % 2 else -1]:
            taken = seconds_of(lambda net=net: work(net), device)
            if i:                                          # the first round warms up
                seconds[name].append(taken)
    found = []
    for name, net in nets.items():
        median = sorted(seconds[name])[len(seconds[name]) // 2]
        weights = sum(p.numel() * p.element_size() for p in net.parameters())
        memory = weights + peak_memory(lambda net=net: work(net), device=device)
        values = {"parameters": n_parameters(net), "flops": flops(net), "seconds": median, "memory": memory}
        found += [{"arm": name, "metric": k, "value": v, "n": rounds if k == "seconds" else 1}
                  for k, v in values.items()]
    table = pd.DataFrame(found).assign(
        profile=profile, seed=0, device=provenance.device_name(device), commit=provenance.commit())
    return table[list(tables.COLUMNS)]


def thread_rows(profile: str = "smoke") -> pd.DataFrame:
    """How far two threads are from one: the largest differences after the same training from the same seed.

    With as many threads as before, everything is equal bit for bit; another number sums in another order.
    """
    before, found, devices = torch.get_num_threads(), [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                devices.append(provenance.device_name("cpu"))
                run = Run(PROFILES[profile], root=Path(folder) / str(threads))
                net = get_students(run, get_teacher(run), ["dash"])["dash", run.seed]
                y, generator = torch.arange(20) % run.images.num_classes, torch.Generator().manual_seed(0)
                noise = torch.randn((len(y), *run.images.shape), generator=generator)
                samples = sample(net, run.schedule, y, x_T=noise, w=run.profile.w, steps=run.profile.sample_steps)
                found.append({"loss": torch.tensor(load_losses(run, "dash", run.seed)), "samples": samples,
                              "weights": torch.cat([p.flatten() for p in net.parameters()])})
        finally:
            torch.set_num_threads(before)
    one, two = found
    rows = [{"what": k, "largest_difference": float((one[k] - two[k]).abs().max()),
             "typical_size": float(one[k].abs().mean())} for k in one]
    return pd.DataFrame(rows).assign(profile=profile, seed=run.seed, teacher_steps=run.profile.teacher_steps,
                                     student_steps=run.profile.student_steps, device=" and ".join(devices),
                                     commit=provenance.commit())


def cost_ratios(cost: pd.DataFrame) -> pd.Series:
    """Teacher over student: parameters, flops, seconds, memory."""
    table = cost.pivot(index="metric", columns="arm", values="value")
    return table.teacher / table.dash


def published_cost() -> pd.Series:
    """The paper's teacher over student: parameters, flops, and on a T4 seconds and memory."""
    return pd.read_csv(ROOT / "data" / "reference" / "cost.csv").set_index("metric").ratio
