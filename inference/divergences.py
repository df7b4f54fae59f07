"""Kullback-Leibler divergences in closed form, written once for NumPy and JAX; each KL(q || p), in nats."""

from typing import Any

from jaxtyping import Float

from latentzoo.inference.arrays import namespace, special

Array = Any


def kl_gamma(
    q_shape: Float[Array, "*batch"], q_rate: Float[Array, "*batch"], p_shape: Array, p_rate: Array
) -> Float[Array, "*batch"]:
    """Return KL(Gamma(q_shape, q_rate) || Gamma(p_shape, p_rate)), shapes and rates.

    The divergence does not change under x -> 1/x, so it is that of inverse Gammas with the same numbers, too.
    """
    xp, fn = namespace(q_shape), special(q_shape)
    return (
        (q_shape - p_shape) * fn.digamma(q_shape)
        - fn.gammaln(q_shape)
        + fn.gammaln(p_shape)
        + p_shape * (xp.log(q_rate) - xp.log(p_rate))
        + q_shape * (p_rate - q_rate) / q_rate
    )


def kl_dirichlet(q_concentration: Float[Array, "*batch k"], p_concentration: Array) -> Float[Array, "*batch"]:
    """Return KL(Dirichlet(q_concentration) || Dirichlet(p_concentration))."""
    fn = special(q_concentration)
    total = q_concentration.sum(-1)
    expected_log = fn.digamma(q_concentration) - fn.digamma(total)[..., None]
    return (
        fn.gammaln(total)
        - fn.gammaln(q_concentration).sum(-1)
        - fn.gammaln(p_concentration.sum(-1))
        + fn.gammaln(p_concentration).sum(-1)
        + ((q_concentration - p_concentration) * expected_log).sum(-1)
    )


def kl_isotropic_normal(
    q_mean: Float[Array, "*batch d"], q_variance: Float[Array, "*batch"], p_mean: Array, p_variance: Array
) -> Float[Array, "*batch"]:
    """Return KL(Normal(q_mean, q_variance I) || Normal(p_mean, p_variance I)): variances, not scales."""
    xp = namespace(q_mean)
    dim = q_mean.shape[-1]
    squared = ((q_mean - p_mean) ** 2).sum(-1)
    return 0.5 * (
        dim * (q_variance / p_variance - 1.0 + xp.log(p_variance) - xp.log(q_variance)) + squared / p_variance
    )
