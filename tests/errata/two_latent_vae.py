"""What the notes get wrong about the VAE with two latents, by SciPy and torch where everything is linear."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats
from torch.distributions import Normal, kl_divergence

import latentzoo as lz
from latentzoo.inference.closed_form import two_latent_vae as closed_form
from latentzoo.models.language.networks import Layer

Check = Callable[..., None]

# One row of three features. The directions of y and z in them are orthogonal and as long, so that the posterior is two
# independent normals with the standard deviation 1/2: q(y | x) q(z | x) can be the posterior.
ZOO = lz.get("two_latent_vae", num_first=1, num_latents=1, hidden=(), likelihood="gaussian")
DATA, PRIOR = ZOO.Data(np.array([[1.0, -0.5, 2.0]])), ZOO.Prior(np.array(1.0))
WEIGHT = np.sqrt(3.0) * np.array([[2.0, 1.0, 2.0], [1.0, 2.0, -2.0]]) / 3.0
COVARIANCE = np.linalg.inv(np.eye(2) + WEIGHT @ WEIGHT.T)
MEAN = COVARIANCE @ WEIGHT @ DATA.x[0]


def params(log_sigma: Any) -> lz.Params:
    """A guide of the posterior's means and a sigma of its own, the same for y and z."""
    encoders = [{"out": Layer(np.zeros((3, 2)), np.stack([mean, log_sigma]))} for mean in MEAN]
    return lz.Params(ZOO.Theta({"out": Layer(WEIGHT, np.zeros(3))}), ZOO.Phi(*encoders))


def bound(log_sigma: Any, scale: Any) -> Any:
    """The exact mean of the zoo's bound at two nodes for each coordinate, their noise multiplied by so much."""
    line, _ = hermegauss(2)  # of weight 1/2 each; exact, as the bound is quadratic in the noise
    pairs = [np.array(pair)[:, None, None] * scale for pair in itertools.product(line, repeat=2)]
    draws = [{"first": first, "second": second} for first, second in pairs]
    return np.mean([closed_form.bounds(params(log_sigma), DATA, PRIOR, noise, ZOO.spec)[0] for noise in draws])


def test_two_latent_vae_scale(check: Check) -> None:
    """The notes' sigma^2 eps is sigma eps with its noise multiplied by sigma once more."""
    log_evidence = stats.multivariate_normal(np.zeros(3), WEIGHT.T @ WEIGHT + np.eye(3)).logpdf(DATA.x[0])
    assert np.allclose(COVARIANCE, np.eye(2) / 4.0, rtol=0, atol=1e-15)
    posterior = Normal(torch.from_numpy(MEAN), 0.5)
    rows = []
    for label, sigma, drawn, bounded in (("1", 1.0, 0.0, 0.0), ("1/2", 0.5, 0.2, 0.5)):
        log_sigma = np.log(sigma)
        q = closed_form.posterior(params(log_sigma), DATA, ZOO.spec)
        moved = [(q.push(np.full((1, 2), noise)) - q.loc)[0, 0] for noise in (sigma, 1.0)]
        quantile = stats.norm.ppf(stats.norm.cdf(1.0), scale=sigma)
        rows.append((f"y - m where eps = 1, sigma = {label}", *moved, quantile, drawn))
        truth = log_evidence - float(kl_divergence(Normal(posterior.mean, sigma), posterior).sum())
        rows.append((f"ELBO, sigma = {label}", bound(log_sigma, sigma), bound(log_sigma, 1.0), truth, bounded))
    step = np.log(0.5) + 1e-30j
    slopes = [bound(step, scale).imag / 1e-30 for scale in (np.exp(step), 1.0)]
    rows.append(("slope of the ELBO by log sigma at the posterior", *slopes, 0.0, 0.5))
    check(*rows)
