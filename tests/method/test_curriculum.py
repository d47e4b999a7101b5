import pytest
import torch

from dashkit.method.curriculum import TIRT, min_snr, normalised, published, uniform


@pytest.mark.parametrize("make", [uniform, min_snr, published])
def test_every_curriculum_has_mean_one_over_all_timesteps(make, cosine, generator):
    omega = make(cosine)
    tirt = TIRT(omega)
    torch.testing.assert_close(tirt(), omega)
    tirt.lambda_t.data = 3 * torch.randn(1000, generator=generator)
    for table in (omega, tirt()):
        assert table.mean().item() == pytest.approx(1, abs=1e-5) and (table >= 0).all()


def test_the_two_min_snr_forms_differ_by_the_snr(cosine):
    snr = cosine.snr
    ratio = published(cosine) / min_snr(cosine) / snr
    torch.testing.assert_close(ratio / ratio[0], torch.ones(1000), rtol=1e-3, atol=0)
    assert (min_snr(cosine)[snr <= 5].diff().abs() < 1e-5).all()
    assert published(cosine)[500:].sum() / 1000 == pytest.approx(0.067, abs=0.002)


def test_the_gradient_of_tirt_lowers_the_weight_where_the_loss_is_above_average(cosine, generator):
    tirt = TIRT(published(cosine))
    tirt.lambda_t.data = torch.randn(1000, generator=generator)
    losses = torch.rand(1000, generator=generator)
    (tirt() * losses).mean().backward()
    omega, sigma = tirt().detach(), tirt.lambda_t.detach().sigmoid()
    average = (omega * losses).sum() / omega.sum()
    expected = omega * (1 - sigma) / omega.sum() * (losses - average)
    torch.testing.assert_close(tirt.lambda_t.grad, expected, rtol=1e-3, atol=1e-8)
    felt = omega > 1e-3
    assert torch.equal(tirt.lambda_t.grad[felt] > 0, (losses > average)[felt])


def test_transfer_is_a_plain_tensor(cosine):
    assert not TIRT(uniform(cosine))().detach().requires_grad


def test_bad_curricula_are_refused(cosine):
    with pytest.raises(ValueError, match=r"^omega must be a non-negative \(T,\) tensor with a positive sum$"):
        normalised(torch.zeros(4))
    for make in (min_snr, published):
        with pytest.raises(ValueError, match="gamma must be positive"):
            make(cosine, 0.0)


def test_weights_of_zero_and_small_sums_and_gammas_are_allowed(cosine):
    assert normalised(torch.tensor([0.0, 0.5])).tolist() == [0, 2]
    with pytest.raises(ValueError, match="non-negative"):
        normalised(torch.tensor([-0.5, 2.0]))
    assert published(cosine, 0.5).mean().item() == pytest.approx(1)


def test_a_curriculum_keeps_no_part_of_the_table_that_it_was_made_from(cosine):
    table = torch.ones(4)
    tirt = TIRT(table)
    table[0] = 9
    assert torch.equal(tirt.base, torch.ones(4))
