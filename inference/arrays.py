"""The array namespace of the closed forms: NumPy or jax.numpy, taken from the arrays themselves."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float


def namespace(array: Any) -> Any:
    """Return `numpy` or `jax.numpy`, whichever made the array."""
    return array.__array_namespace__() if hasattr(array, "__array_namespace__") else np


def special(array: Any) -> SimpleNamespace:
    """Return digamma, trigamma, gammaln, logsumexp and log_softmax (axis=) for the namespace of the array."""
    return _NUMPY if namespace(array) is np else _jax()


def cholesky(raw: Float[Any, "*batch d d"]) -> Float[Any, "*batch d d"]:
    """Return the lower triangles of real matrices, the diagonal through exp: Cholesky factors."""
    xp = namespace(raw)
    diagonal = xp.exp(xp.diagonal(raw, axis1=-2, axis2=-1))
    return xp.tril(raw, -1) + diagonal[..., None] * xp.eye(raw.shape[-1])


def raw_cholesky(matrix: Float[Any, "*batch d d"]) -> Float[Any, "*batch d d"]:
    """Return the real matrices whose `cholesky` are the factors of positive definite ones."""
    xp = namespace(matrix)
    factor = xp.linalg.cholesky(matrix)
    diagonal = xp.log(xp.diagonal(factor, axis1=-2, axis2=-1))
    return xp.tril(factor, -1) + diagonal[..., None] * xp.eye(matrix.shape[-1])


_NUMPY = SimpleNamespace(
    digamma=scipy.special.digamma,
    trigamma=functools.partial(scipy.special.polygamma, 1),
    gammaln=scipy.special.gammaln,
    logsumexp=scipy.special.logsumexp,
    log_softmax=scipy.special.log_softmax,
)


@functools.cache
def _jax() -> SimpleNamespace:
    import jax

    return SimpleNamespace(
        digamma=jax.scipy.special.digamma,
        trigamma=functools.partial(jax.scipy.special.polygamma, 1),
        gammaln=jax.scipy.special.gammaln,
        logsumexp=jax.scipy.special.logsumexp,
        log_softmax=jax.nn.log_softmax,
    )
