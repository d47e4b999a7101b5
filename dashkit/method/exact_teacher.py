"""The exact teacher: the closed-form eps of a mixture, as lesson and as test oracle."""

import math

import torch
from torch import Tensor

from dashkit.method.schedule import Schedule, expand


class ExactTeacher:
    """The true eps(x_t, t, y) of a mixture of Gaussians of standard deviation `bandwidth` around `points`.

    With p_i the points and v_t = abar_t bandwidth^2 + 1 - abar_t, x_t given i is N(sqrt(abar_t) p_i, v_t I), so
    eps = sqrt(1 - abar_t) (x_t - sqrt(abar_t) E[p_i | x_t, y]) / v_t, the posterior running over the points of
    class y, or over all of them for the null label.  If the points are data, this is a kernel density; if they are a
    few centres, a Gaussian mixture.  A class weighs as much as it has points, so that sum_y p(y | x_t) gap_y = 0.

    Shapes: points (N, ...), labels (N,) in 0 .. num_classes-1; x_t (B, ...), t (B,), y (B,) -> eps (B, ...).
    """

    def __init__(self, schedule: Schedule, points: Tensor, labels: Tensor, *, bandwidth: float) -> None:
        if len(points) != len(labels) or len(points) == 0:
            raise ValueError(f"points and labels need the same non-zero length, not {len(points)} and {len(labels)}")
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be positive, not {bandwidth!r}")
        counts = torch.bincount(labels)
        if not bool((counts > 0).all()):
            raise ValueError(f"no point has label {int((counts == 0).nonzero()[0])}")
        self.schedule, self.bandwidth = schedule, bandwidth
        self.points, self.labels = points, labels
        self.null_label = self.num_classes = len(counts)
        member = torch.nn.functional.one_hot(labels, self.num_classes + 1).bool().T      # (K + 1, N)
        member[self.null_label] = True
        self._log_member = torch.where(member, 0.0, -math.inf).to(points)

    def _log_likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(x_t | point i) up to a constant per row, (B, N)."""
        abar = self.schedule.alphas_cumprod[t][:, None]                                  # (B, 1)
        x, p = x_t.flatten(1), self.points.flatten(1)
        cross, norm = x @ p.T, p.square().sum(1)                                         # (B, N), (N,)
        return (abar.sqrt() * cross - 0.5 * abar * norm) / (abar * self.bandwidth**2 + 1 - abar)

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        weights = (self._log_likelihood(x_t, t) + self._log_member[y]).softmax(1)        # (B, N)
        mean = (weights @ self.points.flatten(1)).reshape(x_t.shape)
        abar = expand(self.schedule.alphas_cumprod[t], x_t)
        return (1 - abar).sqrt() * (x_t - abar.sqrt() * mean) / (abar * self.bandwidth**2 + 1 - abar)

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(y | x_t) at timestep t, (B, num_classes)."""
        weights = self._log_likelihood(x_t, t).softmax(1)
        return weights @ self._log_member[:-1].exp().T
