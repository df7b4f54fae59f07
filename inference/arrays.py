"""The array namespace of what is written once: NumPy, jax.numpy or torch, taken from the arrays themselves."""

import functools
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Float


def namespace(array: Any) -> Any:
    """Return `numpy`, `jax.numpy` or `torch`, whichever made the array."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    return torch if torch is not None and torch.is_tensor(array) else np


def special(array: Any) -> SimpleNamespace:
    """Return what the namespaces do not share, for that of the array.

    digamma, trigamma, gammaln, erfc: special functions, elementwise.
    logsumexp, log_softmax, softmax: with axis=.
    one_hot(index, size, like): of the dtype of `like`, the new axis last.
    solve_triangular(lower, right): lower^-1 right, for lower triangles (*batch, d, d) and (*batch, d, n).
    stop_gradient: the value, with no gradient through it; NumPy has none to stop.
    asarray(value, like): the value as an array of the library, the dtype and the device of `like`.
    """
    xp = namespace(array)
    if xp is np:
        return _NUMPY
    return _torch() if xp is sys.modules.get("torch") else _jax()


def add_at(like: Any, index: Any, values: Any) -> Any:
    """Return zeros of the shape of an array with values added where they belong; several may belong to one place."""
    sums = namespace(like).zeros_like(like)
    if namespace(like) is not np:
        return sums.at[index].add(values)
    np.add.at(sums, index, values)
    return sums


def multivariate(function: Any, x: Float[Any, "*batch"], size: int) -> Float[Any, "*batch"]:
    """Return sum_{i < size} function(x - i / 2): psi_n of digamma; log Gamma_n of gammaln, but for its constant."""
    return function(x[..., None] - special(x).asarray(np.arange(size) / 2.0, x)).sum(-1)


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


def _log_softmax(x: Float[np.ndarray, "*batch"], axis: int) -> Float[np.ndarray, "*batch"]:
    """Return what SciPy's function does, which takes three times as long: as much as half of an M step."""
    below = x - x.max(axis, keepdims=True)
    return below - np.log(np.exp(below).sum(axis, keepdims=True))


# A core dimension of matrices behind any batch; SciPy's and JAX's own solvers do not broadcast.
_SOLVE = "(d,d),(d,n)->(d,n)"

_NUMPY = SimpleNamespace(
    digamma=scipy.special.digamma,
    trigamma=functools.partial(scipy.special.polygamma, 1),
    gammaln=scipy.special.gammaln,
    erfc=scipy.special.erfc,
    logsumexp=scipy.special.logsumexp,
    log_softmax=_log_softmax,
    softmax=scipy.special.softmax,
    one_hot=lambda index, size, like: (np.asarray(index)[..., None] == np.arange(size)).astype(like.dtype),
    solve_triangular=np.vectorize(functools.partial(scipy.linalg.solve_triangular, lower=True), signature=_SOLVE),
    stop_gradient=lambda x: x,
    asarray=lambda value, like: np.asarray(value, dtype=like.dtype),
)


@functools.cache
def _jax() -> SimpleNamespace:
    import jax
    import jax.numpy as jnp

    return SimpleNamespace(
        digamma=jax.scipy.special.digamma,
        trigamma=functools.partial(jax.scipy.special.polygamma, 1),
        gammaln=jax.scipy.special.gammaln,
        erfc=jax.scipy.special.erfc,
        logsumexp=jax.scipy.special.logsumexp,
        log_softmax=jax.nn.log_softmax,
        softmax=jax.nn.softmax,
        one_hot=lambda index, size, like: jax.nn.one_hot(index, size, dtype=like.dtype),
        solve_triangular=jnp.vectorize(
            functools.partial(jax.scipy.linalg.solve_triangular, lower=True), signature=_SOLVE
        ),
        stop_gradient=jax.lax.stop_gradient,
        asarray=lambda value, like: jnp.asarray(value, dtype=like.dtype),
    )


@functools.cache
def _torch() -> SimpleNamespace:
    import torch

    from latentzoo.models.language.ppl import pyro_handle

    return SimpleNamespace(
        digamma=pyro_handle().nn.digamma,  # torch's own has a gradient that is 5e-10 off
        trigamma=functools.partial(torch.special.polygamma, 1),
        gammaln=torch.lgamma,
        erfc=torch.erfc,
        logsumexp=lambda x, axis: torch.logsumexp(x, axis),
        log_softmax=lambda x, axis: torch.log_softmax(x, axis),
        softmax=lambda x, axis: torch.softmax(x, axis),
        one_hot=lambda index, size, like: torch.nn.functional.one_hot(index, size).to(like.dtype),
        solve_triangular=functools.partial(torch.linalg.solve_triangular, upper=False),
        stop_gradient=lambda x: x.detach(),
        asarray=lambda value, like: torch.as_tensor(value, dtype=like.dtype, device=like.device),
    )
