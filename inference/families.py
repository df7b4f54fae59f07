"""The exponential families that guides are made of: sufficient statistics, their expectations, their supports."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.automatic import Array, Site, base
from latentzoo.models.language.ppl import Handle


class Family(NamedTuple):
    """What a proof must know of a family.

    statistics: sufficient statistics of a value, in NumPy.
    expectations: their expectations, in the library, in the same order.
    to_line, from_line: an unconstrained coordinate of the support, one for each number.
    log_jacobian: log |d value / d line| of a scalar site as a function of the line; None for a vector family.
    """

    statistics: Callable[[np.ndarray], Sequence[np.ndarray]]
    expectations: Callable[[Any, Handle], Sequence[Array]]
    to_line: Callable[[np.ndarray], np.ndarray]
    from_line: Callable[[np.ndarray], np.ndarray]
    log_jacobian: Callable[[np.ndarray], np.ndarray] | None


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


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _softmax(t: np.ndarray) -> np.ndarray:
    positive = np.exp(t - t.max(-1, keepdims=True))
    return positive / positive.sum(-1, keepdims=True)


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
}


def family(site: Site) -> str:
    """Return the name of a site's family, inside the wrappers of its batch and event dimensions."""
    return type(base(site.distribution)).__name__


def statistics(site_family: str, value: np.ndarray) -> np.ndarray:
    """Return the sufficient statistics of one value of a site, as a vector."""
    return np.concatenate([np.ravel(part) for part in FAMILIES[site_family].statistics(value)])


def expected_statistics(site: Site, ppl: Handle) -> Array:
    """Return the expectations of the sufficient statistics of a site, as a vector, differentiable."""
    parts = FAMILIES[family(site)].expectations(base(site.distribution), ppl)
    return ppl.xp.concatenate([ppl.xp.broadcast_to(part, site.value.shape).reshape(-1) for part in parts])
