"""What the notes get wrong about the autoencoder with a mixture for its prior: the truth by SciPy and quadrature."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

import latentzoo as lz
from latentzoo.inference.closed_form import mixture_vae as closed_form
from latentzoo.inference.codes import seen

Check = Callable[..., None]

LOG_2PI = np.log(2.0 * np.pi)

# A latent coordinate, and a feature that is linear in it: x ~ Normal(SLOPE w + OFFSET, NOISE^2). X is what is seen.
SLOPE, OFFSET, NOISE, X = 0.8, 0.1, 0.5, 0.4
WEIGHTS, LOC, SCALE = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.array([0.6, 0.9])
Q = stats.norm(0.5, 0.4)  # q(w | x)
EPS = np.linspace(-9.0, 9.0, 4001)  # nodes of a trapezoid rule for standard normal noise, whose weights these are
MASS = stats.norm.pdf(EPS) * (EPS[1] - EPS[0])


def quadratic_in_notes(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """The log density of independent normals as the notes have it: plus the quadratic form."""
    return (-np.log(sd) - 0.5 * LOG_2PI + 0.5 * ((x - mean) / sd) ** 2).sum(-1)


def test_mixture_vae_quadratic(check: Check) -> None:
    """A log density that grows with the distance from its mean is none."""
    mean, sd = np.array([0.3, -1.0]), np.array([0.5, 0.5])

    def zoo_at(x: np.ndarray) -> np.ndarray:
        return seen("gaussian", x, np.broadcast_to(mean, x.shape), sd[0]).log_prob

    rows = []
    for label, x, margin in (
        ("log p(x) at the mean", mean, 0.0),
        ("log p(x), two sd from it", mean + np.array([0.0, 1.0]), 3.9),
    ):
        truth = stats.multivariate_normal.logpdf(x, mean, np.diag(sd**2))
        rows.append((label, quadratic_in_notes(x, mean, sd), zoo_at(x[None])[0], truth, margin))

    nodes, masses = np.polynomial.legendre.leggauss(40)
    line = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)  # a square, two sd each way
    masses = np.outer(masses, masses).reshape(-1) * (2.0 * sd).prod()
    within = mean + line * 2.0 * sd
    by_notes, by_zoo = (float(masses @ np.exp(f)) for f in (quadratic_in_notes(within, mean, sd), zoo_at(within)))
    rows.append(("mass within two sd", by_notes, by_zoo, (2.0 * stats.norm.cdf(2.0) - 1.0) ** 2, 1.0))

    at = np.array([[1.2]])
    joint = WEIGHTS * np.exp(quadratic_in_notes(at[..., None], LOC[:, None], SCALE[:, None]))
    bayes = WEIGHTS * stats.norm.pdf(1.2, LOC, SCALE)
    zoo = closed_form.Components.at(at, setting(WEIGHTS, LOC, SCALE)[1].theta, None).resp[0, 1]
    rows.append(("r of the nearer component", joint[0, 1] / joint.sum(), zoo, bayes[1] / bayes.sum(), 0.9))
    check(*rows)


def setting(weights: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> tuple[Any, Any]:
    """The zoo's entry and its params with these components, this decoder and this q."""
    zoo = lz.get("mixture_vae", num_latents=1, hidden=(), likelihood="gaussian", num_components=len(weights))
    start = zoo.init(zoo.Data([[X]]))
    layer = type(start.theta.decoder["out"])
    theta = start.theta._replace(
        decoder={"out": layer(np.array([[SLOPE]]), np.array([OFFSET]))},
        weights_logits=np.log(weights),
        loc=loc[:, None],
        log_scale=np.log(scale)[:, None],
    )
    code = np.array([Q.mean(), np.log(Q.std())])
    return zoo, lz.Params(theta, start.phi._replace(encoder={"out": layer(np.zeros((1, 2)), code)}))


def terms(weights: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> tuple[float, float, float]:
    """The zoo's parts of the bound, integrated over the noise: a row for each node."""
    zoo, params = setting(weights, loc, scale)
    data, prior = zoo.Data(np.full((len(EPS), 1), X)), zoo.Prior(np.array(NOISE))
    found = closed_form.terms(params, data, prior, {"latent": EPS[:, None]}, zoo.spec)
    return tuple(float(MASS @ part) for part in found)  # type: ignore[return-value]


def test_mixture_vae_product(check: Check) -> None:
    """The bound must be the log evidence, known as all is linear, minus the divergence of q from the posterior."""
    w = Q.mean() + Q.std() * EPS

    def without_exponent(loc: np.ndarray, scale: np.ndarray) -> float:
        return float(MASS @ (Q.logpdf(w) - stats.norm.logpdf(w[:, None], loc, scale).sum(1)))

    def truth(weights: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
        """The coordinates' term, and the bound."""
        joint = weights * stats.norm.pdf(w[:, None], loc, scale)
        resp = joint / joint.sum(1, keepdims=True)
        evidence = weights @ stats.norm.pdf(X, SLOPE * loc + OFFSET, np.hypot(SLOPE * scale, NOISE))
        posterior = joint.sum(1) * stats.norm.pdf(X, SLOPE * w + OFFSET, NOISE) / evidence
        elbo = np.log(evidence) - MASS @ (Q.logpdf(w) - np.log(posterior))
        from_prior = MASS @ (Q.logpdf(w) - np.log(joint.sum(1)))
        return float(from_prior - MASS @ stats.entropy(resp, weights[None].repeat(len(w), 0), axis=1)), float(elbo)

    one, two = (WEIGHTS[:1] / WEIGHTS[:1], LOC[:1], SCALE[:1]), (WEIGHTS, LOC, SCALE)
    rare = np.exp(-60.0)
    three = (np.append(WEIGHTS, rare), np.append(LOC, 8.0), np.append(SCALE, 1.0))
    rows = []
    for label, at, margin in (("last term, one component", one, 0.0), ("last term, two components", two, 1.0)):
        rows.append((label, without_exponent(*at[1:]), terms(*at)[2], truth(*at)[0], margin))

    first, second, third = terms(*two)
    zoo, exact = first - second - third, truth(*two)[1]
    rows.append(("bound, without the exponent", first - second - without_exponent(LOC, SCALE), zoo, exact, 1.0))
    rows.append(("bound, one divergence for each z", first - second - 2.0 * third, zoo, exact, 0.1))

    again = terms(*three)
    by_notes = (again[0] - again[1] - without_exponent(*three[1:])) - (first - second - without_exponent(LOC, SCALE))
    by_zoo = (again[0] - again[1] - again[2]) - zoo
    rows.append(("what a component of weight e^-60 adds", by_notes, by_zoo, truth(*three)[1] - exact, 10.0))
    check(*rows)
