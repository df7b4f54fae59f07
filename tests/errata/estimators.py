"""What the notes get wrong about gradient estimators."""

from collections.abc import Callable

import numpy as np
import pyro
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro import distributions as dist

from latentzoo.inference.automatic import Pair
from latentzoo.inference.estimators import gradients

Check = Callable[..., None]


def test_estimators_score_term(check: Check) -> None:
    """The derivative by m of the ELBO of p = Normal(0, 1) and q = Normal(m, s^2), at Gauss-Hermite nodes as noise."""
    nodes, weights = hermegauss(3)  # exact: the derivatives are linear in the noise
    weights /= weights.sum()

    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))

    def moments(estimator: str, scale: float) -> tuple[float, float]:
        def guide() -> None:
            pyro.sample("z", dist.Normal(pyro.param("m", torch.ones((), dtype=torch.float64)), scale))

        pair, noise = Pair(model, guide, max_plate_nesting=0), {"z": nodes[:, None]}
        _, found = gradients("pyro", estimator, pair, {"m": np.array(1.0)}, num_draws=len(nodes), noise=noise)
        each = found["m"]
        mean = weights @ each
        return float(mean), float(weights @ (each - mean) ** 2)

    rows = []
    for label, scale, margin in (("1/2", 0.5, 1.9), ("1", 1.0, 0.0), ("2", 2.0, 0.0)):
        (mean, variance), (mean_of_total, variance_of_total) = (moments(name, scale) for name in ("path", "total"))
        least, truth = min(variance, variance_of_total), min(scale**2, (1.0 / scale - scale) ** 2)
        rows.append((f"mean, s = {label}", mean, mean_of_total, -1.0, 0.0))
        rows.append((f"variance of the one to take, s = {label}", variance, least, truth, margin))
    check(*rows)
