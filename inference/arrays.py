"""The array namespace of the closed forms: NumPy or jax.numpy, taken from the arrays themselves."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Return `numpy` or `jax.numpy`, whichever made the array."""
    return array.__array_namespace__() if hasattr(array, "__array_namespace__") else np


def special(array: Any) -> SimpleNamespace:
    """Return digamma, trigamma, gammaln, logsumexp and log_softmax (axis=) for the namespace of the array."""
    return _special("numpy" if namespace(array) is np else "jax")


@functools.cache
def _special(library: str) -> SimpleNamespace:
    if library == "numpy":
        from scipy.special import digamma, gammaln, log_softmax, logsumexp, polygamma
    else:
        from jax.nn import log_softmax
        from jax.scipy.special import digamma, gammaln, logsumexp, polygamma
    return SimpleNamespace(
        digamma=digamma,
        trigamma=functools.partial(polygamma, 1),
        gammaln=gammaln,
        logsumexp=logsumexp,
        log_softmax=log_softmax,
    )
