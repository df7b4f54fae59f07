"""The sums of a mixture in JAX: a scan over chunks of rows."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from latentzoo.inference.kernels.mixture_numpy import MixtureSums
from latentzoo.inference.kernels.moments import Moments, Quadratic, features

# Rows of a chunk: what fits a core's cache, and what keeps an accelerator busy.
_CHUNK_ON_CPU, _CHUNK = 2**11, 2**17


def sums(moments: Moments, natural: Float[Any, "features components"]) -> MixtureSums:
    """Return the sums, as `mixture.mixture_sums` promises; they are JAX's, and may be traced."""
    x, centre, quadratic, more = moments
    return _sums(x, more, centre, natural, quadratic)


@partial(jax.jit, static_argnames="quadratic")
def _sums(x: Any, more: Any, centre: Any, natural: Any, quadratic: Quadratic) -> MixtureSums:
    """Return the sums of the rows, chunk by chunk.

    The last chunk is as long as the others: it starts earlier, and leaves out the rows that have been visited.
    """
    num_rows = len(x)
    longest = _CHUNK_ON_CPU if jax.default_backend() == "cpu" else _CHUNK
    length = min(longest, num_rows)
    live = natural[0] != -jnp.inf
    weights = jnp.where(live, natural, 0).T  # 0 * -inf would be NaN
    start = MixtureSums(jnp.zeros((), natural.dtype), jnp.zeros_like(natural))
    if num_rows == 0:
        return start

    def add_chunk(total: MixtureSums, begin: Any) -> tuple[MixtureSums, None]:
        at = jnp.minimum(begin, num_rows - length)
        chunk = Moments(_rows(x, at, length), centre, quadratic, _rows(more, at, length))
        found = _chunk_sums(features(chunk), weights.astype(x.dtype), live, at + jnp.arange(length) >= begin)
        return MixtureSums(total.log_normaliser + found.log_normaliser, total.statistics + found.statistics), None

    return jax.lax.scan(add_chunk, start, jnp.arange(0, num_rows, length))[0]


def _rows(array: Any, begin: Any, length: int) -> Any:
    return None if array is None else jax.lax.dynamic_slice_in_dim(array, begin, length)


def _chunk_sums(feature: Any, weights: Any, live: Any, counts: Any) -> MixtureSums:
    """Return the sums of the rows that count."""
    logits = jnp.where(live[:, None], jnp.matmul(weights, feature, precision="highest"), -jnp.inf)
    top = jnp.max(logits, axis=0, initial=np.finfo(logits.dtype).min)  # finite: -inf - -inf would be NaN
    weight = jnp.exp(logits - top)
    total = jnp.sum(weight, axis=0)
    impossible = total == 0
    top, total = jnp.where(impossible, -jnp.inf, top), jnp.where(impossible, 1, total)
    share = jnp.where(counts, feature / total, 0)
    return MixtureSums(
        jnp.sum(jnp.where(counts, top + jnp.log(total), 0)), jnp.matmul(share, weight.T, precision="highest")
    )
