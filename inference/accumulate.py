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

    @partial(jax.jit, static_argnames="spec")
    def on_all(params: Params, data: Any, prior: Any, spec: Any) -> Any:
        def on_each(params: Params, data: Any, prior: Any) -> Any:
            return jax.lax.psum(e_step(params, data, prior, spec), mesh.axis_names)  # type: ignore[no-untyped-call]

        over = map_rows(lambda _: rows.spec, map_leaves(lambda *_: same, data))
        # Sums start the same on all devices, and end different: there is nothing to check.
        spread = jax.shard_map(on_each, mesh=mesh, in_specs=(same, over, same), out_specs=same, check_vma=False)
        return spread(params, data, prior)

    on_one = jax.jit(e_step, static_argnums=3)

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
            stats = add(step(params, part, prior, spec) for step, part in placed[1:])
            return map_leaves(lambda _, leaf: np.asarray(leaf)[()], stats)

    return run


def scaled(stats: Any, factor: float) -> Any:
    """Return the statistics of a minibatch scaled up to the whole data."""
    return map_leaves(lambda _, leaf: factor * leaf, stats)
