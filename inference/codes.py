"""Gaussian codes by hand: draws from the Gaussians that an encoder's numbers stand for, and the way back through them.

With m, s or A the mean, the standard deviations or the Cholesky factor of q, and e standard normal noise:

    (1)  z = m + s e,  log q(z) = - sum (e^2 / 2 + log s + log 2 pi / 2)             or with A for s, and log A_ii
    (2)  d/dm [f(z) - log q(z)] = g,  g = df/dz
    (3)  d/d log s [f(z) - log q(z)] = g s e + 1
    (4)  d/dA_ij = g_i e_j for j <= i; of log A_ii: g_i A_ii e_i + 1
    (5)  KL(q || Normal(0, I)) = (|m|^2 + |A|^2 - d) / 2 - sum log A_ii

z moves with the parameters in (2) to (4), and log q, as a function of e, through its scales alone.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from latentzoo.inference.arrays import cholesky
from latentzoo.models.language.deep import Posterior

Array = Any
LOG_2PI = float(np.log(2.0 * np.pi))


class Gaussian(NamedTuple):
    """q of each row: loc (*batch, d); scale (*batch, d), or a Cholesky factor (*batch, d, d)."""

    loc: Float[Array, "*batch d"]
    scale: Float[Array, "..."]

    @classmethod
    def of(
        cls, code: Float[Array, "*batch numbers"], num_latents: int, posterior: Posterior = "diagonal"
    ) -> "Gaussian":
        """Return the Gaussian of an encoder's numbers, as `models.language.deep.gaussian` reads them."""
        loc, rest = code[..., :num_latents], code[..., num_latents:]
        if posterior == "diagonal":
            return cls(loc, np.exp(rest))
        return cls(loc, cholesky(rest.reshape(*rest.shape[:-1], num_latents, num_latents)))

    @property
    def is_full(self) -> bool:
        """Whether its scale is a Cholesky factor."""
        return self.scale.ndim > self.loc.ndim

    @property
    def diagonal(self) -> Float[Array, "*batch d"]:
        """The standard deviations, or the diagonal of the Cholesky factor."""
        return np.diagonal(self.scale, axis1=-2, axis2=-1) if self.is_full else self.scale

    def push(self, eps: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return (1), z."""
        return self.loc + ((self.scale @ eps[..., None])[..., 0] if self.is_full else self.scale * eps)

    def log_prob_at(self, eps: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Return (1), log q at the z of this noise."""
        return -(0.5 * eps**2 + np.log(self.diagonal) + 0.5 * LOG_2PI).sum(-1)

    def by_code(
        self, eps: Float[Array, "*batch d"], by_z: Float[Array, "*batch d"], weight: Any = 1.0
    ) -> Float[Array, "*batch numbers"]:
        """Return (2) to (4), the derivative of f(z) - weight log q(z) by the encoder's numbers; by_z is that of f."""
        weight = np.asarray(weight)[..., None]
        if not self.is_full:
            return np.concatenate([by_z, by_z * self.scale * eps + weight], -1)
        by_factor = np.tril(by_z[..., :, None] * eps[..., None, :], -1)
        by_diagonal = by_z * self.diagonal * eps + weight
        raw = by_factor + by_diagonal[..., None] * np.eye(self.loc.shape[-1])
        return np.concatenate([by_z, raw.reshape(*raw.shape[:-2], -1)], -1)

    def kl(self) -> Float[Array, "*batch"]:
        """Return (5), the divergence from a standard normal."""
        squared = (self.scale**2).sum((-2, -1) if self.is_full else -1)
        return 0.5 * ((self.loc**2).sum(-1) + squared - self.loc.shape[-1]) - np.log(self.diagonal).sum(-1)

    def log_prob(self, z: Float[Array, "*points d"]) -> Float[Array, "*points"]:
        """Return log q at any points, which broadcast with the batch."""
        gap = z - self.loc
        centred = np.linalg.solve(self.scale, gap[..., None])[..., 0] if self.is_full else gap / self.scale
        return -(0.5 * centred**2 + np.log(self.diagonal) + 0.5 * LOG_2PI).sum(-1)


def standard_log_prob(z: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Return the log density of a standard normal; its derivative by z is -z."""
    return -0.5 * ((z**2).sum(-1) + z.shape[-1] * LOG_2PI)


# --- what is observed -------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """log p(x | output) of each row, and its derivatives by the decoder's output and by log noise_scale."""

    log_prob: Float[Array, "*batch"]
    by_output: Float[Array, "*batch features"]
    by_log_scale: Float[Array, "*batch"]


def seen(
    likelihood: str, x: Float[Array, "*batch features"], output: Float[Array, "*batch features"], scale: Any
) -> Seen:
    """Return log p(x | output), every constant kept.

    (6)  Bernoulli with logits a: sum x a - log(1 + exp a); by a: x - 1 / (1 + exp -a)
    (7)  Normal(a, s^2): - sum ((x - a)^2 / s^2 + log 2 pi s^2) / 2;  by a: (x - a) / s^2
    (8)  by log s: sum (x - a)^2 / s^2 - 1
    """
    log_prob = log_likelihood(likelihood, x, output, scale)
    if likelihood == "bernoulli":
        return Seen(log_prob, x - expit(output), np.zeros_like(log_prob))
    gap = (x - output) / scale
    return Seen(log_prob, gap / scale, (gap**2 - 1.0).sum(-1))


def log_likelihood(
    likelihood: str, x: Float[Array, "*batch features"], output: Float[Array, "*batch features"], scale: Any
) -> Float[Array, "*batch"]:
    """Return log p(x | output) by (6) or (7), without the derivatives: what a million draws are weighed by."""
    if likelihood == "bernoulli":
        # log(1 + exp a) without overflow, by functions that NumPy has vectorised: logaddexp takes ten times as long.
        softplus = np.maximum(output, 0.0) + np.log1p(np.exp(-np.abs(output)))
        return np.vecdot(x, output) - softplus.sum(-1)
    gap = (x - output) / scale
    return -(0.5 * gap**2 + np.log(scale) + 0.5 * LOG_2PI).sum(-1)


def mean(likelihood: str, output: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """Return the mean of the features given the decoder's output: probabilities of logits, or the output itself."""
    return expit(output) if likelihood == "bernoulli" else output


def noise_scale(prior: Any, theta: Any) -> Any:
    """Return the standard deviation of Gaussian noise: the point parameter where it is learnt, else the prior's."""
    return prior.noise_scale if theta.noise_log_scale is None else np.exp(theta.noise_log_scale)


def noise_gradient(theta: Any, of: Seen, weight: Any = 1.0) -> Any:
    """Return the derivative by the logarithm of a noise that is learnt; None where none is."""
    return None if theta.noise_log_scale is None else (weight * of.by_log_scale).sum()
