"""The sums of a mixture in JAX: a scan over chunks of rows, on every device that the rows are spread over."""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from latentzoo.inference.kernels.mixture_numpy import MixtureSums
from latentzoo.inference.kernels.moments import Moments, Quadratic, features

# Rows of a chunk: what fits a core's cache and is not worth several threads, and what keeps an accelerator busy.
_CHUNK_ON_CPU, _CHUNK = 2**8, 2**17


def sums(moments: Moments, natural: Float[Any, "features components"]) -> MixtureSums:
    """Return the sums, as `mixture.mixture_sums` promises; they are JAX's, and may be traced."""
    x, centre, quadratic, more = moments
    x, natural = jnp.asarray(x), jnp.asarray(natural)
    more = None if more is None else jnp.asarray(more)
    sharding = None if isinstance(x, jax.core.Tracer) else x.sharding
    if isinstance(sharding, NamedSharding) and sharding.num_devices > 1 and sharding.spec[0] is not None:
        return _on_devices(sharding.mesh, sharding.spec[0], quadratic)(x, more, centre, natural)
    return _on_one(x, more, centre, natural, quadratic)


@functools.cache
def _on_devices(mesh: Any, axis: Any, quadratic: Quadratic) -> Any:
    """Return the compiled sums of rows that lie on several devices: each scans its own, and the totals are added."""

    def local(x: Any, more: Any, centre: Any, natural: Any) -> MixtureSums:
        return jax.lax.psum(_scan(x, more, centre, natural, quadratic), axis)  # type: ignore[no-untyped-call]

    rows, same = PartitionSpec(axis), PartitionSpec()  # type: ignore[no-untyped-call]
    # The totals of the scan start the same on all devices, and end different: there is nothing to check.
    spread = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, same, same), out_specs=same, check_vma=False)
    return jax.jit(spread)


@partial(jax.jit, static_argnames="quadratic")
def _on_one(x: Any, more: Any, centre: Any, natural: Any, quadratic: Quadratic) -> MixtureSums:
    return _scan(x, more, centre, natural, quadratic)


def _scan(x: Any, more: Any, centre: Any, natural: Any, quadratic: Quadratic) -> MixtureSums:
    """Return the sums of rows that lie on one device.

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
