"""What networks cost, and what another number of threads changes."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from dashkit.experiments.cost import flops, peak_memory, seconds_of
from dashkit.experiments.networks import load_losses
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run, start_run
from dashkit.experiments.training import get_students, get_teacher
from dashkit.interop.networks import Other
from dashkit.method import guidance
from dashkit.method.distillation import seeded
from dashkit.method.sampling import sample
from dashkit.method.unet import UNet, UNetConfig, n_parameters
from dashkit.storage import provenance, tables
from dashkit.storage.paths import ROOT


def cost_rows(run: Run | str, *, batch: int, rounds: int = 5) -> pd.DataFrame:
    """Parameters, operations, latency and peak memory of one guided pass of a profile's two networks, freshly made.

    `run` is a run, whose device is measured, or the name of a profile.  Latency is the median over interleaved rounds.
    """
    run = run if isinstance(run, Run) else start_run(run)
    p, device = run.profile, run.device
    nets = {name: seeded(0, lambda config=config: UNet(config)).to(device, memory_format=torch.channels_last)
            for name, config in (("teacher", p.teacher), ("dash", p.student))}
    work = _guided_pass(p.teacher, p.T, batch=batch, device=device)
    seconds = latencies({name: net.eval() for name, net in nets.items()}, work, rounds=rounds, device=device)
    found = []
    for name, net in nets.items():
        weights = sum(p.numel() * p.element_size() for p in net.parameters())
        memory = weights + peak_memory(lambda net=net: work(net), device=device)
        values = {"parameters": n_parameters(net), "flops": flops(net), "seconds": seconds[name], "memory": memory}
        found += [{"arm": name, "metric": k, "value": v, "n": rounds if k == "seconds" else 1}
                  for k, v in values.items()]
    table = pd.DataFrame(found).assign(
        profile=p.name, seed=0, device=provenance.device_name(device), commit=provenance.commit())
    return table[list(tables.COLUMNS)]


def _guided_pass(shape: UNetConfig | Other, T: int, *, batch: int, device: torch.device) -> Callable[[nn.Module], None]:
    """Both branches of a network, for a batch of noise."""
    x = torch.randn(batch, shape.channels, shape.size, shape.size, device=device)
    t, y = torch.full((batch,), T // 2, device=device), torch.zeros(batch, dtype=torch.long, device=device)

    def work(net: nn.Module) -> None:
        with torch.no_grad():
            guidance.branches(net, x, t, y)
    return work


def latencies(nets: Mapping[str, nn.Module], work: Callable[[nn.Module], None], *, rounds: int,
              device: torch.device) -> dict[str, float]:
    """Median seconds of `work(net)` for each network; rounds are interleaved, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    for i in range(rounds + 1):
        for name, net in list(nets.items())[:: 1 if i % 2 else -1]:
            taken = seconds_of(lambda net=net: work(net), device)
            if i:                                          # the first round warms up
                seconds[name].append(taken)
    return {name: sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}


def guided_latencies(run: Run, nets: Mapping[str, nn.Module], *, batch: int = 16, rounds: int = 5) -> dict[str, float]:
    """Median seconds of one guided pass of a batch, for each network of a run."""
    work = _guided_pass(run.profile.teacher, run.profile.T, batch=batch, device=run.device)
    return latencies(nets, work, rounds=rounds, device=run.device)


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
