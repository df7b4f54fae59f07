"""One Gaussian against two modes: its exclusive bound by quadrature, its inclusive optimum by moments.

Symbols: m, T = loc and the Cholesky factor of q(x) = Normal(m, T T'); x = m + T e with e ~ Normal(0, I); w_k, m_k, s_k
of the modes and Z = exp(log_evidence) as in `models/two_modes.py`; p~ = Z p is the target. Equation numbers are this
file's own.

    (1)  log p~(x) = log Z + log sum_k w_k Normal(x; m_k, s_k^2 I)
    (2)  g(x) = d log p~ / dx = sum_k r_k(x) (m_k - x) / s_k^2,            r_k the posterior probability of mode k
    (3)  ELBO = E_e log p~(m + T e) + sum_j log T_jj + D (1 + log 2 pi) / 2
    (4)  d ELBO / dm = E g,    d ELBO / dT = the lower triangle of E g e' + diag(1 / T_jj)
    (5)  R_a = (1/a) log E_e (p~ / q)^a
    (6)  d R_a = (1 - a) / a times the mean of d log q, weighted by (p~ / q)^a:
         d log q / dm = T'^-1 e,    d log q / dT = the lower triangle of T'^-1 (e e' - I)

(5) is the variational Renyi bound of order 1 - a (Li & Turner, 2016, equation 6); where it is highest, Minka's
divergence of order a, D_a(p || q) (2005, equation 3), is lowest. As a tends to 0 it is the ELBO; as it tends to 1,
(R_a - log Z) / (1 - a) tends to -KL(p || q).

The expectations are sums over nodes (`quadrature`). Those of (3) and (4) are exact to rounding for modes of the same
width in any number of dimensions, and for others in one, and in two unless the modes are far apart. Else they are means
over 32,768 points of a Sobol sequence: with concentric modes, whose bound a radial integral gives, it was off by 4e-5
nats in three dimensions, by 3e-4 in five and by 4e-3 in twenty. (5) and (6) are exact in one dimension, and while the
nodes are at most MOST_NODES; else (5) was off by 3e-5 in four dimensions and 4e-5 in ten at a = 0.05, by 1e-6 at 0.5.
`value_and_gradient` has the estimate of (3) from one e of its own, with log q(x) in place of its mean.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, softmax

from latentzoo.guides.two_modes import Phi
from latentzoo.inference.arrays import cholesky, raw_cholesky
from latentzoo.inference.quadrature import (
    HALF_LOG_2PI,
    REACH,
    Axis,
    Nodes,
    cubic_nodes,
    mixture_nodes,
    product,
    sobol_nodes,
)
from latentzoo.inference.tables import aligned
from latentzoo.models.language.contract import Params
from latentzoo.models.two_modes import Data, Prior, Spec
from latentzoo.models.two_modes import moments as moments_of

METHODS = ("ascent", "moments", "alpha", "svi", "nuts")
PROOF = "common noise"
MOST_NODES = 2**19  # of a tensor rule, which takes a few tenths of a second

Array = Any


class Stats(NamedTuple):
    """Expectations under q. There are no rows, and nothing to add up.

    bound: E log p~(x), in nats. scale: E |log p~(x)|; rounding is a multiple of it.
    pull: E g. twist: E g e'.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    pull: Float[Array, "num_dims"]
    twist: Float[Array, "num_dims num_dims"]


# --- the target and q -----------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """The prior as float64 arrays of NumPy."""

    weights: Float[Array, "2"]
    loc: Float[Array, "2 num_dims"]
    scale: Float[Array, "2"]
    log_evidence: Float[Array, ""]

    @classmethod
    def of(cls, prior: Prior) -> "Target":
        """Return the target of a prior."""
        return cls(*(np.asarray(field, dtype=np.float64) for field in prior))

    def log_parts(self, x: Float[Array, "nodes num_dims"]) -> Float[Array, "nodes 2"]:
        """Return log w_k + log Normal(x; m_k, s_k^2 I) of each mode."""
        squared = np.stack([((x - loc) ** 2).sum(1) for loc in self.loc], axis=1) / self.scale**2
        return np.log(self.weights) - 0.5 * squared - x.shape[1] * (np.log(self.scale) + HALF_LOG_2PI)

    def at(self, x: Float[Array, "nodes num_dims"]) -> "Place":
        """Return the target at some points."""
        parts = self.log_parts(x)
        log_density = np.logaddexp(*parts.T)
        resp = np.exp(parts - log_density[:, None])
        precise = resp / self.scale**2
        return Place(self.log_evidence + log_density, precise @ self.loc - precise.sum(1, keepdims=True) * x, resp)


class Place(NamedTuple):
    """The target at some points: (1), (2) and r_k."""

    log_density: Float[Array, "nodes"]
    pull: Float[Array, "nodes num_dims"]
    resp: Float[Array, "nodes 2"]


class Gaussian(NamedTuple):
    """q(x): m and T, as float64 arrays of NumPy."""

    loc: Float[Array, "num_dims"]
    factor: Float[Array, "num_dims num_dims"]

    @classmethod
    def of(cls, params: Params) -> "Gaussian":
        """Return the q of some params."""
        return cls(*(np.asarray(each, dtype=np.float64) for each in (params.phi.loc, cholesky(params.phi.raw_scale))))

    def push(self, e: Float[Array, "nodes num_dims"]) -> Float[Array, "nodes num_dims"]:
        """Return x = m + T e."""
        return self.loc + e @ self.factor.T

    def log_density(self, e: Float[Array, "nodes num_dims"]) -> Float[Array, "nodes"]:
        """Return log q(x)."""
        return -0.5 * (e**2).sum(1) - e.shape[1] * HALF_LOG_2PI - np.log(np.diagonal(self.factor)).sum()

    def gradient(self, pull: Float[Array, "num_dims"], twist: Float[Array, "num_dims num_dims"]) -> Params:
        """Return (4) from means of g and g e', the diagonal of T through its logarithm."""
        diagonal = np.diagonal(self.factor) * np.diagonal(twist) + 1.0
        return Params(phi=Phi(pull, np.tril(twist, -1) + np.diag(diagonal)))

    def score(self, first: Array, second: Array, factor: float) -> Params:
        """Return the mean of d log q, by (6), times a factor; first, second: means of e and e e'."""
        by_mean = np.linalg.solve(self.factor.T, first)
        by_factor = np.linalg.solve(self.factor.T, second - np.eye(len(first)))
        by_log = np.diag(np.diagonal(self.factor) * np.diagonal(by_factor))
        return Params(phi=Phi(factor * by_mean, factor * (np.tril(by_factor, -1) + by_log)))


# --- the nodes ------------------------------------------------------------------------------------------------------


def quadrature(params: Params, prior: Prior, alpha: float = 0.0) -> Nodes:
    """Return nodes for expectations of log p~ under q, or, with 0 < alpha < 1, of (p~ / q)^alpha.

    log p~ has a kink where both modes are as likely: the first axis lies across it. Where they are as wide as each
    other, log p~ is quadratic along the other axes, for which few nodes are enough in any number of dimensions.
    """
    target, (loc, factor) = Target.of(prior), Gaussian.of(params)
    # u = log (w_2 N_2 / w_1 N_1), and its slope by e at e = 0.
    slope = factor.T @ np.diff((target.loc - loc) / target.scale[:, None] ** 2, axis=0)[0]
    rotation = np.linalg.qr(slope[:, None], mode="complete")[0]
    turned = factor @ rotation
    tilted = _tilted(target, loc, turned, alpha)
    low, high = tilted.extent()
    strip = _strip(target, turned, rotation.T @ slope, reach=np.maximum(-low, high).max())
    narrowest = np.diagonal(tilted.precision, axis1=1, axis2=2).max(0)
    axes = [Axis(*map(float, axis)) for axis in zip(low, high, narrowest, strip, strict=True)]
    flat = len(axes) - 1 if alpha == 0.0 and target.scale[0] == target.scale[1] else 0
    kinked = axes[: len(axes) - flat]
    if np.prod([axis.size for axis in kinked]) <= MOST_NODES:
        found = product([*(axis.nodes() for axis in kinked), *([cubic_nodes(flat)] if flat else [])])
    elif alpha == 0.0:
        return sobol_nodes(len(axes))  # not turned: the same for all params, so that (4) is the gradient of the sum (3)
    else:
        found = mixture_nodes(*tilted)
    return found._replace(e=found.e @ rotation.T)


class Tilted(NamedTuple):
    """q (w_k N_k / q)^alpha as functions of e, for each mode: a share of their sum, and a Gaussian."""

    share: Float[Array, "2"]
    mean: Float[Array, "2 num_dims"]
    precision: Float[Array, "2 num_dims num_dims"]

    def extent(self) -> tuple[Float[Array, "num_dims"], Float[Array, "num_dims"]]:
        """Return, along each axis, between what points they have their mass."""
        wide = REACH * np.sqrt(np.diagonal(np.linalg.inv(self.precision), axis1=1, axis2=2))
        return (self.mean - wide).min(0), (self.mean + wide).max(0)


def _tilted(target: Target, loc: Array, turned: Array, alpha: float) -> Tilted:
    """Return them where x = loc + turned e: the exponent is quadratic in e, and so is the square that completes it."""
    size, log_total, means, precisions = len(loc), [], [], []
    for weight, mode, scale in zip(target.weights, target.loc, target.scale, strict=True):
        precision = (1.0 - alpha) * np.eye(size) + alpha * turned.T @ turned / scale**2
        mean = np.linalg.solve(precision, alpha * turned.T @ (mode - loc) / scale**2)
        squared = ((mode - loc) ** 2).sum() / scale**2
        log_height = np.log(weight) - size * np.log(scale) - 0.5 * squared
        log_total.append(alpha * log_height + 0.5 * mean @ precision @ mean - 0.5 * np.linalg.slogdet(precision)[1])
        means.append(mean)
        precisions.append(precision)
    return Tilted(softmax(log_total), np.array(means), np.array(precisions))


def _strip(target: Target, turned: Array, slope: Array, reach: float) -> Array:
    """Return, along each axis, a distance from the real line within which u is never +- i pi, where log p~ is singular.

    u is quadratic, u(e + i y) = u(e) - ... + i y u'(e): y < pi / |u'| is near enough. Where the modes differ in width,
    u = u* - gain t^2 / 2 along the line on which u is steepest for its height, whose roots are known; the farther
    of the two bounds holds.
    """
    (narrow, wide), length = 1.0 / target.scale**2, np.sqrt((turned**2).sum(0))
    gain = wide - narrow
    steepest = np.abs(slope) + reach * abs(gain) * np.sqrt(((turned.T @ turned) ** 2).sum(0))
    tiny = np.finfo(np.float64).tiny
    by_slope = np.pi / np.maximum(steepest, tiny)
    if gain == 0.0:
        return by_slope
    weight, scale = np.diff(np.log(target.weights))[0], np.diff(np.log(target.scale))[0]
    apart = ((target.loc[1] - target.loc[0]) ** 2).sum() / np.diff(target.scale**2)[0]
    height = weight - len(slope) * scale - 0.5 * apart  # u*
    real, imaginary = 2.0 * height / gain, 2.0 * np.pi / abs(gain)  # of t^2 / |T v|^2
    by_roots = imaginary / np.sqrt(max(2.0 * (np.hypot(real, imaginary) + real), tiny)) / length
    return np.maximum(by_slope, by_roots)


# --- the exclusive bound --------------------------------------------------------------------------------------------


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the expectations under q."""
    nodes, q = quadrature(params, prior), Gaussian.of(params)
    weight, target = np.exp(nodes.log_weight), Target.of(prior).at(q.push(nodes.e))
    pull = weight[:, None] * target.pull
    return Stats(weight @ target.log_density, weight @ abs(target.log_density), pull.sum(0), pull.T @ nodes.e)


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return (3): log_evidence - KL(q || p), in nats."""
    return stats.bound + np.trace(params.phi.raw_scale) + spec.num_dims * (0.5 + HALF_LOG_2PI)


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return (4)."""
    return Gaussian.of(params).gradient(stats.pull, stats.twist)


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return log p~(x) - log q(x) at x = m + T e, e the noise of x, and its gradient."""
    e, q = noise["x"][None], Gaussian.of(params)
    target = Target.of(prior).at(q.push(e))
    return float((target.log_density - q.log_density(e))[0]), q.gradient(target.pull[0], target.pull.T @ e)


# --- the other divergences ------------------------------------------------------------------------------------------


def renyi_bound(alpha: float, params: Params, data: Data, prior: Prior, spec: Spec) -> tuple[float, Params]:
    """Return (5) and (6); 0 < alpha < 1."""
    nodes, q = quadrature(params, prior, alpha), Gaussian.of(params)
    target = Target.of(prior).at(q.push(nodes.e))
    log_weight = nodes.log_weight + alpha * (target.log_density - q.log_density(nodes.e))
    total = logsumexp(log_weight)
    weighted = np.exp(log_weight - total)[:, None] * nodes.e
    return float(total) / alpha, q.score(weighted.sum(0), weighted.T @ nodes.e, (1.0 - alpha) / alpha)


def moments(given: Params | None, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the params where KL(p || q) is lowest: q has the mean and the covariance of p."""
    mean, covariance = moments_of(prior)
    return Params(phi=Phi(mean, raw_cholesky(covariance)))


# --- what a fit says ------------------------------------------------------------------------------------------------


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return which part of q lies in each mode: the mean of its posterior probability."""
    nodes = quadrature(params, prior)
    return {"mode": np.exp(nodes.log_weight) @ Target.of(prior).at(Gaussian.of(params).push(nodes.e)).resp}


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return which part of the draws lies in each mode."""
    return {"mode": Target.of(prior).at(draws["x"]).resp.mean(0)}


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "1"]:
    """Return log Z, the one factor of the target that is no density of x: there are no rows."""
    return np.asarray(prior.log_evidence, np.float64)[None]


def describe(params: Params, data: Data | None, spec: Spec) -> str:
    """Return the mean and the standard deviation of q along each axis, of the first ten."""
    loc, factor = Gaussian.of(params)
    sd = np.sqrt((factor**2).sum(1))
    rows = [[f"x[{i}]", f"{loc[i]:.4g}", f"{sd[i]:.4g}"] for i in range(min(spec.num_dims, 10))]
    return "\n".join(aligned([["q(x)", "mean", "sd"]], rows))
