"""Divergences in closed form, written once for NumPy, JAX and torch: KL(q || p) and Renyi's, in nats.

Arguments are arrays, those of q first. Batch axes stand on the left and broadcast; results have the batch's shape. A
covariance or the scale of a Wishart is given by its Cholesky factor L, lower triangular with a positive diagonal: a
matrix S has L = cholesky(S), and no inverse is formed.
"""

from typing import Any

from jaxtyping import Float

from latentzoo.inference.arrays import multivariate, namespace, special
from latentzoo.models.language.errors import UserError

Array = Any


# --- normals --------------------------------------------------------------------------------------------------------


def kl_normal(
    q_mean: Float[Array, "*batch d"],
    q_scale_tril: Float[Array, "*batch d d"],
    p_mean: Array,
    p_scale_tril: Array,
) -> Float[Array, "*batch"]:
    """Return KL(Normal(q_mean, Q Q') || Normal(p_mean, P P')) for the Cholesky factors Q and P of the covariances.

    With M = P^-1 Q, which is lower triangular, and v = P^-1 (q_mean - p_mean), it is half of

        |v|^2 + sum_{i > j} M_ij^2 + sum_i (M_ii^2 - 1 - log M_ii^2)

    of which no term is negative: |M|^2 is the trace and the log M_ii^2 are the determinants of the usual form.
    """
    xp = namespace(q_mean)
    ratio, offset = _relative(q_mean, q_scale_tril, p_mean, p_scale_tril)
    below = (xp.tril(ratio, -1) ** 2).sum((-2, -1))
    return 0.5 * ((offset**2).sum(-1) + below + _excess(_diagonal(ratio) ** 2).sum(-1))


def kl_diagonal_normal(
    q_mean: Float[Array, "*batch d"], q_scale: Float[Array, "*batch d"], p_mean: Array, p_scale: Array
) -> Float[Array, "*batch"]:
    """Return KL(Normal(q_mean, diag(q_scale)^2) || Normal(p_mean, diag(p_scale)^2)): scales, not variances."""
    return 0.5 * (((q_mean - p_mean) / p_scale) ** 2 + _excess((q_scale / p_scale) ** 2)).sum(-1)


def kl_isotropic_normal(
    q_mean: Float[Array, "*batch d"], q_variance: Float[Array, "*batch"], p_mean: Array, p_variance: Array
) -> Float[Array, "*batch"]:
    """Return KL(Normal(q_mean, q_variance I) || Normal(p_mean, p_variance I)): variances, not scales."""
    squared = ((q_mean - p_mean) ** 2).sum(-1)
    return 0.5 * (squared / p_variance + q_mean.shape[-1] * _excess(q_variance / p_variance))


def renyi_normal(
    q_mean: Float[Array, "*batch d"],
    q_scale_tril: Float[Array, "*batch d d"],
    p_mean: Array,
    p_scale_tril: Array,
    order: float,
) -> Float[Array, "*batch"]:
    """Return Renyi's divergence log(E_p (q / p)^order) / (order - 1) of normals; order 1 is its limit, KL(q || p).

    Infinite where order * P P' + (1 - order) * Q Q' is not positive definite, which happens above order 1 only.
    Gil, Alajaji & Linder (2013), "Renyi divergence measures for commonly used univariate continuous distributions",
    Table 2. With M and v of `kl_normal`, a_i the eigenvalues of M M', t = 1 - order and W = I + t (M M' - I), it is

        order / 2 v' W^-1 v + 1/2 sum_i (log(1 + t (a_i - 1)) / t - log a_i)

    which loses no digits as the order goes to 1.

    Raises
    ------
    UserError: the order is not positive.
    """
    if not order > 0.0:
        raise UserError(f"order is {order}: it must be a positive number")
    if order == 1.0:
        return kl_normal(q_mean, q_scale_tril, p_mean, p_scale_tril)
    xp, fn = namespace(q_mean), special(q_mean)
    ratio, offset = _relative(q_mean, q_scale_tril, p_mean, p_scale_tril)
    identity = fn.asarray(xp.eye(ratio.shape[-1]), ratio)
    change = (1.0 - order) * (ratio @ ratio.swapaxes(-1, -2) - identity)
    changes = xp.linalg.eigvalsh(change)
    finite = (changes > -1.0).all(-1)
    # Where the divergence is infinite, values and gradients are those of a W that has a factor.
    factor = xp.linalg.cholesky(identity + xp.where(finite[..., None, None], change, 0.0))
    squared = (fn.solve_triangular(factor, offset[..., None]) ** 2).sum((-2, -1))
    log_dets = xp.log1p(xp.where(finite[..., None], changes, 0.0)) / (1.0 - order) - 2.0 * xp.log(_diagonal(ratio))
    return xp.where(finite, 0.5 * (order * squared + log_dets.sum(-1)), float("inf"))


def _relative(q_mean: Array, q_scale_tril: Array, p_mean: Array, p_scale_tril: Array) -> tuple[Array, Array]:
    """Return M = P^-1 Q and v = P^-1 (q_mean - p_mean): q, where p is the standard normal."""
    offset = special(q_mean).solve_triangular(p_scale_tril, (q_mean - p_mean)[..., None])
    return _ratio(q_scale_tril, p_scale_tril), offset[..., 0]


def _ratio(q_scale_tril: Array, p_scale_tril: Array) -> Array:
    return special(q_scale_tril).solve_triangular(p_scale_tril, namespace(q_scale_tril).tril(q_scale_tril))


def _diagonal(matrix: Array) -> Array:
    return namespace(matrix).diagonal(matrix, 0, -2, -1)


def _excess(ratio: Array) -> Array:
    """Return r - 1 - log r: 0 at 1, positive elsewhere."""
    return ratio - 1.0 - namespace(ratio).log(ratio)


# --- discrete ---------------------------------------------------------------------------------------------------------


def kl_categorical(q_probs: Float[Array, "*batch k"], p_probs: Array) -> Float[Array, "*batch"]:
    """Return KL(Categorical(q_probs) || Categorical(p_probs)) of probabilities that sum to 1.

    0 log 0 is 0; the divergence is infinite where p has no mass and q has some.
    """
    xp = namespace(q_probs)
    drawn = q_probs > 0.0
    # Logarithms of zero would be NaN in the gradient, though they are not chosen.
    log_ratio = xp.log(xp.where(drawn, q_probs, 1.0)) - xp.log(xp.where(p_probs > 0.0, p_probs, 1.0))
    each = xp.where(drawn & (p_probs <= 0.0), float("inf"), q_probs * log_ratio)
    return xp.where(drawn, each, 0.0).sum(-1)


# --- Gammas and their kin ---------------------------------------------------------------------------------------------


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


def kl_wishart(
    q_df: Float[Array, "*batch"], q_scale_tril: Float[Array, "*batch d d"], p_df: Array, p_scale_tril: Array
) -> Float[Array, "*batch"]:
    """Return KL(Wishart(q_df, Q Q') || Wishart(p_df, P P')): degrees of freedom, and factors of the scale matrices.

    The mean of Wishart(df, V) is df V (Bishop, 2006, appendix B). With M = P^-1 Q and psi_d, Gamma_d the multivariate
    digamma and Gamma functions:

        log Gamma_d(p_df / 2) - log Gamma_d(q_df / 2) + (q_df - p_df) / 2 psi_d(q_df / 2)
        + q_df / 2 (|M|^2 - d) - p_df sum_i log M_ii
    """
    xp, fn = namespace(q_df), special(q_df)
    ratio, size = _ratio(q_scale_tril, p_scale_tril), q_scale_tril.shape[-1]
    return (
        multivariate(fn.gammaln, p_df / 2.0, size)
        - multivariate(fn.gammaln, q_df / 2.0, size)
        + 0.5 * (q_df - p_df) * multivariate(fn.digamma, q_df / 2.0, size)
        + 0.5 * q_df * ((ratio**2).sum((-2, -1)) - size)
        - p_df * xp.log(_diagonal(ratio)).sum(-1)
    )
