import os
from types import SimpleNamespace

import pytest
import torch

from dashkit.experiments import cost
from dashkit.experiments.cost import counted_passes, flops, peak_memory, seconds_of
from dashkit.experiments.profiles import PROFILES
from dashkit.method.unet import UNet


def test_images_are_counted_inside_the_block_alone(capsys):
    net = UNet(PROFILES["smoke"].student)
    inputs = torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    with counted_passes(net) as passes:
        net(*inputs), net(*inputs)
    net(*inputs)
    assert passes == [6]
    assert flops(net) > 0 and capsys.readouterr().out == ""
    assert flops(net.to("meta")) == flops(UNet(net.config))          # where the network is, wherever that is


def test_peak_memory_is_what_is_held_at_once(monkeypatch):
    def work():
        first = torch.ones(2**20)                            # 4 MiB
        del first
        second, third = torch.ones(2**19), torch.ones(2**19)
        return second, third

    def together():
        return [torch.ones(2**18) for _ in range(3)]         # 3 MiB, none as large

    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    assert 4 * 2**20 <= peak_memory(work) < 4.5 * 2**20
    assert 3 * 2**20 <= peak_memory(together) < 3.5 * 2**20
    assert os.environ["KINETO_LOG_LEVEL"] == "99"


def test_peak_memory_on_cuda_is_the_allocators_above_what_was_there(monkeypatch):
    order = []
    for name, value in (("reset_peak_memory_stats", None), ("memory_allocated", 100), ("max_memory_allocated", 175)):
        monkeypatch.setattr(torch.cuda, name, lambda device, n=name, v=value: order.append((n, device)) or v)
    assert peak_memory(lambda: order.append("work"), device="cuda:1") == 75
    assert order == [("reset_peak_memory_stats", "cuda:1"), ("memory_allocated", "cuda:1"), "work",
                     ("max_memory_allocated", "cuda:1")]


@pytest.mark.parametrize(("device", "wanted"), [
    ("cpu", ["clock", "work", "clock"]), ("cuda", ["cuda", "clock", "work", "cuda", "clock"])])
def test_seconds_are_of_the_work_alone(monkeypatch, device, wanted):
    order, ticks = [], iter([10.0, 12.5])
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: order.append("clock") or next(ticks)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(device.type))
    assert seconds_of(lambda: order.append("work"), torch.device(device)) == 2.5 and order == wanted
