import dataclasses

import pytest
import torch

from dashkit.experiments import pruning
from dashkit.experiments.profiles import PROFILES
from dashkit.method.distillation import seeded
from dashkit.method.unet import UNet, n_parameters

DIGITS = PROFILES["digits"]


def test_pruning_keeps_the_largest_weights_at_the_students_size(untrained):
    net, wanted = pruning.pruned(untrained, DIGITS.student), n_parameters(UNet(DIGITS.student))
    zero_biases = n_parameters(untrained) - pruning.n_nonzero(untrained)        # GroupNorm's start at 0
    assert abs(pruning.n_nonzero(net) + zero_biases - wanted) < 20
    kept = torch.cat([a[b != 0].abs().flatten() for a, b in zip(untrained.parameters(), net.parameters(), strict=True)
                      if a.ndim > 1])
    lost = torch.cat([a[b == 0].abs().flatten() for a, b in zip(untrained.parameters(), net.parameters(), strict=True)
                      if a.ndim > 1])
    assert kept.min() > lost.max()


def test_pruned_weights_stay_zero_in_training(untrained, inputs):
    net = pruning.pruned(untrained, DIGITS.student)
    before = [p != 0 for p in net.parameters()]
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        net(*inputs).square().mean().backward()
        optimiser.step()
    assert all(not bool(p[~b].any()) for p, b in zip(net.parameters(), before, strict=True) if p.ndim > 1)
    assert not torch.equal(net.conv_out.weight, untrained.conv_out.weight)


def test_slicing_to_the_same_size_is_a_copy_and_to_a_smaller_one_picks_whole_channels(untrained, inputs):
    same = pruning.sliced(untrained, DIGITS.teacher)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in untrained.state_dict().items())
    small = pruning.sliced(untrained, DIGITS.student)
    assert n_parameters(small) == n_parameters(UNet(DIGITS.student))
    rows = untrained.conv_in.weight.flatten(1)
    places = [int((rows == row).all(1).nonzero()) for row in small.conv_in.weight.flatten(1)]
    assert places == sorted(places) and len(set(places)) == DIGITS.student.ch
    assert {tuple(places[i : i + 4]) for i in range(0, 16, 4)} <= {tuple(range(g, g + 4)) for g in range(0, 32, 4)}
    with pytest.raises(ValueError, match="a width that divides"):
        pruning.sliced(untrained, dataclasses.replace(DIGITS.student, ch=24))


def test_a_sliced_network_of_redundant_channels_computes_the_same(inputs):
    """A teacher whose second half of channels is dead loses nothing by slicing, up to the norms' groups."""
    wide = dataclasses.replace(DIGITS.teacher, blocks=1, ch_mult=(1,), attention=(), groups=8)
    narrow = dataclasses.replace(wide, ch=16, groups=4)
    net = seeded(1, lambda: UNet(wide))
    small = pruning.sliced(net, narrow)
    kept = [int((net.conv_in.weight.flatten(1) == r).all(1).nonzero()) for r in small.conv_in.weight.flatten(1)]
    block, cut = net.down[0].res, small.down[0].res
    torch.testing.assert_close(cut.conv1.weight, block.conv1.weight[kept][:, kept])
    torch.testing.assert_close(cut.norm1.weight, block.norm1.weight[kept])
    both = [*kept, *(k + 32 for k in kept)]
    torch.testing.assert_close(small.up[0].res.conv1.weight, net.up[0].res.conv1.weight[kept][:, both])
    qkv = [k + 32 * i for i in range(3) for k in kept]
    torch.testing.assert_close(small.mid[0].attn.qkv.weight, net.mid[0].attn.qkv.weight[qkv][:, kept])
