"""The exponential families that guides are made of: sufficient statistics, their expectations, their supports."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.arrays import cholesky, raw_cholesky
from latentzoo.inference.automatic import Array, Site, base
from latentzoo.models.language.ppl import Handle


class Family(NamedTuple):
    """What a proof must know of a family.

    statistics: sufficient statistics of a value, in NumPy.
    expectations: their expectations, in the library, in the same order.
    to_line, from_line: an unconstrained coordinate of the support, one for each number.
    log_jacobian: log |d value / d line| of a scalar site as a function of the line; None for a vector family.
    elementwise: whether each number of a value has statistics of its own, be its parameters its own or not.
    """

    statistics: Callable[[np.ndarray], Sequence[np.ndarray]]
    expectations: Callable[[Any, Handle], Sequence[Array]]
    to_line: Callable[[np.ndarray], np.ndarray]
    from_line: Callable[[np.ndarray], np.ndarray]
    log_jacobian: Callable[[np.ndarray], np.ndarray] | None
    elementwise: bool = True


class Joint(NamedTuple):
    """What a proof must know of two sites of which the second depends on the first, as in a Normal-Gamma.

    statistics: of the values of both, in NumPy. expectations: of both sites as they were drawn, in the library.
    """

    statistics: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]
    expectations: Callable[[Site, Site, Handle], Sequence[Array]]


def _normal(distribution: Any, ppl: Handle) -> Sequence[Array]:
    return distribution.loc, distribution.loc**2 + distribution.scale**2


def _gamma(distribution: Any, ppl: Handle) -> Sequence[Array]:
    a, b = distribution.concentration, distribution.rate
    return a / b, ppl.nn.digamma(a) - ppl.xp.log(b)


def _exponential(distribution: Any, ppl: Handle) -> Sequence[Array]:
    return 1.0 / distribution.rate, ppl.nn.digamma(distribution.rate * 0.0 + 1.0) - ppl.xp.log(distribution.rate)


def _inverse_gamma(distribution: Any, ppl: Handle) -> Sequence[Array]:
    a, b = distribution.concentration, distribution.rate
    return a / b, ppl.xp.log(b) - ppl.nn.digamma(a)


def _beta(distribution: Any, ppl: Handle) -> Sequence[Array]:
    a, b = distribution.concentration1, distribution.concentration0
    total = ppl.nn.digamma(a + b)
    return ppl.nn.digamma(a) - total, ppl.nn.digamma(b) - total


def _dirichlet(distribution: Any, ppl: Handle) -> Sequence[Array]:
    concentration = distribution.concentration
    return (ppl.nn.digamma(concentration) - ppl.nn.digamma(concentration.sum(-1))[..., None],)


def _lower(matrix: Any) -> Any:
    """Return the entries of the lower triangles: a symmetric matrix has no others."""
    rows, columns = np.tril_indices(matrix.shape[-1])
    return matrix[..., rows, columns]


def _outer(x: Any) -> Any:
    return _lower(x[..., :, None] * x[..., None, :])


def _multivariate_normal(distribution: Any, ppl: Handle) -> Sequence[Array]:
    loc = distribution.loc
    return loc, _lower(distribution.covariance_matrix) + _outer(loc)


def _wishart_moments(distribution: Any, ppl: Handle) -> tuple[Array, Array]:
    """Return the expectations of the matrix and of its log determinant (Bishop, 2006, B.80 and B.81)."""
    xp, factor = ppl.xp, distribution.scale_tril
    size = factor.shape[-1]
    df = distribution.concentration if hasattr(distribution, "concentration") else distribution.df
    scale = factor @ xp.swapaxes(factor, -1, -2)
    halves = (df[..., None] - ppl.array(np.arange(size, dtype=np.float64))) / 2
    log_det = 2.0 * xp.log(xp.diagonal(factor, 0, -2, -1)).sum(-1)
    return df[..., None, None] * scale, ppl.nn.digamma(halves).sum(-1) + size * np.log(2.0) + log_det


def _wishart(distribution: Any, ppl: Handle) -> Sequence[Array]:
    mean, log_det = _wishart_moments(distribution, ppl)
    return _lower(mean), log_det


def _normal_wishart(precision: Site, loc: Site, ppl: Handle) -> Sequence[Array]:
    """Return E of Lambda, log |Lambda|, Lambda mu and mu' Lambda mu, where mu has precision beta Lambda."""
    mean, log_det = _wishart_moments(base(precision.distribution), ppl)
    normal, xp = base(loc.distribution), ppl.xp
    trace = xp.diagonal(normal.precision_matrix, 0, -2, -1).sum(-1)
    beta = trace / xp.diagonal(precision.value, 0, -2, -1).sum(-1)
    product = (mean @ normal.loc[..., None])[..., 0]
    return _lower(mean), log_det, product, (normal.loc * product).sum(-1) + normal.loc.shape[-1] / beta


def _normal_gamma(precision: Site, loc: Site, ppl: Handle) -> Sequence[Array]:
    """Return E of lambda, log lambda, lambda mu and lambda mu^2, where mu has precision beta lambda."""
    mean, log_mean = _gamma(base(precision.distribution), ppl)
    normal, value = base(loc.distribution), precision.value
    if len(value.shape) < len(loc.value.shape):  # one precision for all coordinates
        value, spread = value[..., None], mean[..., None]
    else:
        spread = mean
    beta = 1.0 / (normal.scale**2 * value)
    return mean, log_mean, spread * normal.loc, spread * normal.loc**2 + 1.0 / beta + 0.0 * normal.loc


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _softmax(t: np.ndarray) -> np.ndarray:
    positive = np.exp(t - t.max(-1, keepdims=True))
    return positive / positive.sum(-1, keepdims=True)


def _from_raw(t: np.ndarray) -> np.ndarray:
    factor = cholesky(t)
    return factor @ np.swapaxes(factor, -1, -2)


_POSITIVE = (np.log, np.exp, _same)
FAMILIES = {
    "Normal": Family(lambda x: (x, x**2), _normal, _same, _same, np.zeros_like),
    "LogNormal": Family(lambda x: (np.log(x), np.log(x) ** 2), _normal, *_POSITIVE),
    "Gamma": Family(lambda x: (x, np.log(x)), _gamma, *_POSITIVE),
    "Exponential": Family(lambda x: (x, np.log(x)), _exponential, *_POSITIVE),
    "InverseGamma": Family(lambda x: (1.0 / x, np.log(x)), _inverse_gamma, *_POSITIVE),
    "Beta": Family(
        lambda x: (np.log(x), np.log1p(-x)),
        _beta,
        to_line=lambda x: np.log(x) - np.log1p(-x),
        from_line=lambda t: 1.0 / (1.0 + np.exp(-t)),
        log_jacobian=lambda t: -np.logaddexp(0.0, t) - np.logaddexp(0.0, -t),
    ),
    "Dirichlet": Family(lambda x: (np.log(x),), _dirichlet, np.log, _softmax, None),
    "MultivariateNormal": Family(lambda x: (x, _outer(x)), _multivariate_normal, _same, _same, None, elementwise=False),
    "Wishart": Family(lambda x: (_lower(x), np.linalg.slogdet(x)[1]), _wishart, raw_cholesky, _from_raw, None, False),
}
# By the families of the site that does not depend on the other, and of the one that does.
JOINT = {
    ("Wishart", "MultivariateNormal"): Joint(
        lambda precision, loc: (
            _lower(precision),
            np.linalg.slogdet(precision)[1],
            product := (precision @ loc[..., None])[..., 0],
            (loc * product).sum(-1),
        ),
        _normal_wishart,
    ),
    ("Gamma", "Normal"): Joint(
        lambda precision, loc: (
            precision,
            np.log(precision),
            spread := loc * (precision[..., None] if precision.ndim < loc.ndim else precision),
            loc * spread,
        ),
        _normal_gamma,
    ),
}


def family(site: Site) -> str:
    """Return the name of a site's family, inside the wrappers of its batch and event dimensions."""
    return type(base(site.distribution)).__name__


def statistics(families: tuple[str, ...], *values: np.ndarray) -> np.ndarray:
    """Return the sufficient statistics of one value of a site, or of two that are one block, as a vector."""
    parts = JOINT[families].statistics(*values) if len(families) == 2 else FAMILIES[families[0]].statistics(*values)
    return np.concatenate([np.ravel(part) for part in parts])


def expected_statistics(ppl: Handle, *sites: Site) -> Array:
    """Return the expectations of the sufficient statistics of a site, or of two, as a vector, differentiable."""
    if len(sites) == 2:
        first, second = sites
        parts = JOINT[family(first), family(second)].expectations(first, second, ppl)
        return ppl.xp.concatenate([part.reshape(-1) for part in parts])
    (site,) = sites
    known = FAMILIES[family(site)]
    parts = known.expectations(base(site.distribution), ppl)
    if known.elementwise:
        parts = [ppl.xp.broadcast_to(part, site.value.shape) for part in parts]
    return ppl.xp.concatenate([part.reshape(-1) for part in parts])
