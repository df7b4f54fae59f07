"""Exact expectations of importance-weighted bounds and of their gradients, where the model is probabilistic PCA.

With weights w_k = p(x, z_k) / q(z_k) of K independent draws, phi(t) = E exp(-t w) and log a = int (e^-t - e^-ta) dt/t,

(1)  E L_K = int (e^-t - phi(t)^K) dt/t - log K
(2)  d E L_K = E h(w) d log w,   h(w) = K w int phi(t)^(K-1) e^-tw dt       (K times the expected normalised weight)

so that integrals over K draws are integrals over one. d log w is the total derivative at fixed noise. Rows have weights
of their own, and add up. The integrals are by the trapezoid rule, over the noise and over log t.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.guides.probabilistic_pca import Phi
from latentzoo.inference.arrays import cholesky
from latentzoo.models.language.contract import Params
from latentzoo.models.probabilistic_pca import Theta

LIMIT, STEP = 8.0, {1: 0.02, 2: 0.2}  # of the noise, in each of so many dimensions
LOG_TIMES = np.arange(-42.0, 64.0, 0.2)


class Bound(NamedTuple):
    """E L_K in nats, and its gradient by theta and by phi."""

    value: float
    gradient: Params


class _Row(NamedTuple):
    """A row at the nodes. log_weight: (nodes,). by_theta, by_phi: the derivatives of log w, (nodes, *shape)."""

    log_weight: np.ndarray
    by_theta: Theta
    by_phi: Phi


def importance_weighted(params: Params, x: Float[np.ndarray, "rows features"], num_particles: int) -> Bound:
    """Return the expectation of L_K, and its gradient, of rows without missing cells at free q(latent[n])."""
    noise, density = _grid(params.theta.weight.shape[1])
    value, found = 0.0, []
    for mean, raw_scale, cells in zip(params.phi.latent_mean, params.phi.latent_raw_scale, x, strict=True):
        row = _row(params.theta, Phi(mean, raw_scale), cells, noise)
        bound, multiplier = _of_weights(row.log_weight, density, num_particles)
        value += bound
        found.append([np.tensordot(density * multiplier, leaf, axes=1) for leaf in (*row.by_theta, *row.by_phi)])
    columns = [np.stack(column) for column in zip(*found, strict=True)]
    return Bound(value, Params(Theta(*(column.sum(0) for column in columns[:3])), Phi(*columns[3:])))


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of the noise, (nodes, size), and their probabilities."""
    axis = np.arange(-LIMIT, LIMIT + STEP[size], STEP[size])
    noise = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1).reshape(-1, size)
    density = np.exp(-0.5 * (noise**2).sum(1))
    return noise, density / density.sum()


def _row(theta: Theta, phi: Phi, cells: np.ndarray, noise: np.ndarray) -> _Row:
    """Return the log weight of a row, and its derivatives, at each node."""
    factor, size = cholesky(phi.latent_raw_scale), noise.shape[1]
    latent = phi.latent_mean + noise @ factor.T
    residual, precision = cells - latent @ theta.weight.T - theta.loc, np.exp(-2.0 * theta.noise_log_scale)
    squared = precision * (residual**2).sum(1)
    log_joint = -0.5 * (squared + len(cells) * (np.log(2.0 * np.pi) + 2.0 * theta.noise_log_scale))
    log_joint = log_joint - 0.5 * ((latent**2).sum(1) + size * np.log(2.0 * np.pi))
    log_q = -0.5 * ((noise**2).sum(1) + size * np.log(2.0 * np.pi)) - np.trace(phi.latent_raw_scale)
    by_latent = precision * residual @ theta.weight - latent
    by_factor = np.tril(by_latent[:, :, None] * noise[:, None, :])
    # The diagonal of the factor is the exponential of its parameters, and log q falls with each of them.
    scale = np.where(np.eye(size) > 0, np.diag(factor), 1.0)
    by_theta = Theta(
        precision * residual[:, :, None] * latent[:, None, :], precision * residual, squared - float(len(cells))
    )
    return _Row(log_joint - log_q, by_theta, Phi(by_latent, scale * by_factor + np.eye(size)))


def _of_weights(log_weight: np.ndarray, density: np.ndarray, num_particles: int) -> tuple[float, np.ndarray]:
    """Return (1), and h of (2) at each node."""
    top = log_weight.max()
    unit = top + np.log(density @ np.exp(log_weight - top))  # the mean weight: log p(x)
    weight, times = np.exp(log_weight - unit)[:, None], np.exp(LOG_TIMES)
    faded = np.exp(-weight * times)
    laplace = density @ faded
    step = LOG_TIMES[1] - LOG_TIMES[0]
    value = step * (np.exp(-times) - laplace**num_particles).sum() - np.log(num_particles) + unit
    multiplier = num_particles * step * (faded * weight) @ (times * laplace ** (num_particles - 1))
    return float(value), multiplier
