"""What the notes get wrong about variational autoencoders, by SciPy where the decoder is linear."""

from collections.abc import Callable

import numpy as np
import pyro
from scipy import stats
from scipy.special import logsumexp

import latentzoo as lz
from latentzoo.inference.closed_form import vae as closed_form
from latentzoo.models.language.networks import Layer

Check = Callable[..., None]

# One row of two features and one latent coordinate: the posterior is Normal(5/6, 1/6), the evidence a normal density.
ZOO = lz.get("vae", num_latents=1, hidden=(), likelihood="gaussian")
DATA, PRIOR = ZOO.Data(np.array([[2.0, 1.5]])), ZOO.Prior(np.array(1.0))
WEIGHT = np.array([1.0, 2.0])
MEAN, SD = 5.0 / 6.0, np.sqrt(1.0 / 6.0)
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(2), np.outer(WEIGHT, WEIGHT) + np.eye(2)).logpdf(DATA.x[0])
WIDE = (0.5, 0.8)  # the mean and standard deviation of a q that is none of the posterior's

NODES = np.linspace(-12.0, 12.0, 801)  # as noise: the trapezoid rule is exact but for rounding
WEIGHTS = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])


def params(mean: float, sd: float) -> lz.Params:
    """A guide whose q is this normal."""
    encoder = {"out": Layer(np.zeros((2, 2)), np.array([mean, np.log(sd)]))}
    return lz.Params(ZOO.Theta({"out": Layer(WEIGHT[None], np.zeros(2))}), ZOO.Phi(encoder))


def at_nodes(function: Callable[..., np.ndarray], mean: float, sd: float) -> np.ndarray:
    """A function of the zoo at each node as noise."""
    return np.array(
        [function(params(mean, sd), DATA, PRIOR, {"latent": np.full((1, 1), e)}, ZOO.spec)[0] for e in NODES]
    )


def log_likelihood(z: np.ndarray) -> np.ndarray:
    """log p(x | z) by SciPy."""
    return stats.norm.logpdf(DATA.x[0], z[..., None] * WEIGHT).sum(-1)


def test_vae_reconstruction(check: Check) -> None:
    """The expectation of the notes' mean over draws of q; the zoo's log p(x) is that of its importance weights."""
    rows = []
    for label, at, margin, moved in (("the posterior", (MEAN, SD), 0.5, 0.0), ("a wider q", WIDE, 0.5, 0.3)):
        normal, guide = stats.norm(*at), params(*at)
        notes = WEIGHTS @ log_likelihood(normal.mean() + normal.std() * NODES)
        reconstruction = WEIGHTS @ at_nodes(closed_form.bounds, *at) + closed_form.posterior(guide, DATA, ZOO.spec).kl()
        truth = normal.expect(lambda z: log_likelihood(np.array(z)), epsabs=1e-12, epsrel=1e-12)
        rows.append((f"E_q log p(x given z), {label}", notes, reconstruction[0], truth, 0.0))
        log_mean = logsumexp(at_nodes(closed_form.log_weights, *at), b=WEIGHTS)
        rows.append((f"log p(x), {label}", notes, log_mean, LOG_EVIDENCE, margin))
        told = closed_form.predict(guide, DATA, PRIOR, ZOO.spec)["latent"][0, 0]
        rows.append((f"mean of the z_l, {label}", MEAN, told, drawn_mean(guide), moved))
    check(*rows)


def drawn_mean(guide: lz.Params) -> float:
    """The mean of what Pyro's guide draws."""
    trace = pyro.poutine.trace(ZOO.guide.pyro).get_trace(DATA, PRIOR, guide)
    pyro.clear_param_store()
    return float(trace.nodes["latent"]["fn"].base_dist.mean.detach())


def test_vae_importance_sampling(check: Check) -> None:
    """Two averages of the same weights, log E w and E log w: each is what the notes take the other for."""
    rows = []
    for label, at, margin in (("the posterior", (MEAN, SD), 0.0), ("a wider q", WIDE, 1.0)):
        normal = stats.norm(*at)
        log_weights = at_nodes(closed_form.log_weights, *at)
        mean_of_logs, log_of_mean = WEIGHTS @ log_weights, logsumexp(log_weights, b=WEIGHTS)
        divergence = normal.expect(lambda z, of=normal: of.logpdf(z) - stats.norm.logpdf(z, MEAN, SD))
        rows.append((f"ELBO, {label}", log_of_mean, mean_of_logs, LOG_EVIDENCE - divergence, margin))
        rows.append((f"log p(x), {label}", mean_of_logs, log_of_mean, LOG_EVIDENCE, margin))
        second = WEIGHTS @ mean_of_two(log_weights) @ WEIGHTS
        line, step = np.linspace(normal.mean() - 10.0, normal.mean() + 10.0, 1201, retstep=True)
        q = normal.pdf(line) * step
        truth = q @ mean_of_two(log_likelihood(line) + stats.norm.logpdf(line) - normal.logpdf(line)) @ q
        rows.append((f"L_2, {label}", mean_of_logs, second, truth, 0.5 * margin))
        draws = normal.mean() + normal.std() * NODES
        weighted = WEIGHTS * np.exp(log_weights - log_of_mean)
        rows.append((f"mean of z given x, {label}", WEIGHTS @ draws, weighted @ draws, MEAN, 0.3 * margin))
    check(*rows)


def mean_of_two(log_weights: np.ndarray) -> np.ndarray:
    """The logarithm of the mean of two weights, of every pair of draws."""
    return np.logaddexp(log_weights[:, None], log_weights) - np.log(2.0)
