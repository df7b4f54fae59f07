"""How an E step runs over data: whole, in chunks, on devices. Sums over rows add up: the numbers are the same."""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from latentzoo.inference.kernels.executors import Executor, using
from latentzoo.models.language.contract import Params, map_leaves, map_rows, map_trees, num_rows, take_rows

CHUNK_ROWS = 4096  # of what is known of each row

EStep = Callable[[Params, Any, Any, Any], Any]


def in_chunks(e_step: EStep, chunk_rows: int) -> EStep:
    """Return an E step that visits the rows in chunks, at least one at a time, and adds their statistics."""

    def chunked(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        return add(e_step(params, chunk, prior, spec) for chunk in chunks(data, chunk_rows))

    return chunked


def chunks(data: Any, chunk_rows: int) -> Iterator[Any]:
    """Yield the rows of the data, `chunk_rows` at a time; each chunk is itself data."""
    for start in range(0, num_rows(data) or 0, chunk_rows):
        yield take_rows(data, slice(start, start + chunk_rows))


def by_rows(function: Callable[[Any], np.ndarray], data: Any, chunk_rows: int = CHUNK_ROWS) -> np.ndarray:
    """Return what a function has for each row, visited in chunks: no more of them are in memory at once."""
    return np.concatenate([function(chunk) for chunk in chunks(data, chunk_rows)])


def add(parts: Iterator[Any]) -> Any:
    """Return the sum of the statistics of disjoint sets of rows, field by field."""
    total = next(parts)
    for part in parts:
        total = map_trees(operator.add, total, part)
    return total


def by(executor: Executor, e_step: EStep) -> EStep:
    """Return an E step whose hot loops this executor runs."""

    def run(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        with using(executor):
            return e_step(params, data, prior, spec)

    return run


def on_devices(e_step: EStep) -> EStep:
    """Return an E step over rows that lie on all of JAX's devices, where they are put once; its statistics are NumPy's.

    It is compiled as a whole. Each device adds up its own rows. Those that do not divide evenly among the devices,
    fewer than these, are visited by themselves.
    """
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    same = PartitionSpec()  # type: ignore[no-untyped-call]
    rows = NamedSharding(mesh, PartitionSpec("rows"))  # type: ignore[no-untyped-call]
    placed: list[Any] = []

    def own(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        """Return the statistics of the rows of one device, on an axis of devices."""
        return map_leaves(lambda _, leaf: leaf[None], e_step(params, data, prior, spec))

    def spread(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        over = map_rows(lambda _: rows.spec, map_leaves(lambda *_: same, data))
        each = partial(own, spec=spec)
        # Sums start the same on all devices, and end different: there is nothing to check.
        of_all = jax.shard_map(each, mesh=mesh, in_specs=(same, over, same), out_specs=rows.spec, check_vma=False)
        return of_all(params, data, prior)

    on_one, on_all = (jax.jit(function, static_argnums=3) for function in (own, spread))

    def place(data: Any) -> Iterator[tuple[EStep, Any]]:
        length, even = num_rows(data) or 0, (num_rows(data) or 0) // mesh.size * mesh.size
        if even:
            yield on_all, map_rows(lambda leaf: jax.device_put(leaf[:even], rows), data)
        if even < length:
            yield on_one, map_rows(lambda leaf: jax.device_put(leaf[even:]), data)

    def run(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        with jax.enable_x64(True):
            if not placed or placed[0] is not data:
                placed[:] = [data, *place(data)]
            parts = [step(params, part, prior, spec) for step, part in placed[1:]]
            # The host adds them up: the devices need not wait for each other.
            return add(map_leaves(lambda _, leaf: np.asarray(leaf).sum(0), part) for part in parts)

    return run


def scaled(stats: Any, factor: float) -> Any:
    """Return the statistics of a minibatch scaled up to the whole data."""
    return map_leaves(lambda _, leaf: factor * leaf, stats)
