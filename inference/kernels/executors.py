"""Who runs a hot loop: NumPy, numba or JAX. It follows from the data and the machine, or is named by the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Literal

from latentzoo.models.language.errors import UserError

Executor = Literal["auto", "numpy", "numba", "jax"]

# A fit of fewer rows is over before numba is loaded, and before an accelerator has its data.
MANY_ROWS = 20_000

_named: ContextVar[Executor] = ContextVar("executor", default="auto")


@contextmanager
def using(executor: Executor) -> Iterator[None]:
    """Let this executor run the hot loops that are entered in the block, on NumPy arrays; JAX arrays stay in JAX."""
    token = _named.set(executor)
    try:
        yield
    finally:
        _named.reset(token)


def runs_numba(num_rows: int) -> bool:
    """Return whether numba, rather than NumPy, runs a loop over so many rows of NumPy arrays."""
    named = _named.get()
    return named == "numba" or (named == "auto" and num_rows >= MANY_ROWS and _has_numba())


def runs_jax(executor: Executor, num_rows: int) -> bool:
    """Return whether NumPy data go to JAX's devices: where it is named, and where there is an accelerator."""
    if executor != "auto":
        return executor == "jax"
    # JAX finds its accelerators through packages under this name; without one it need not be loaded to be asked.
    if num_rows < MANY_ROWS or find_spec("jax_plugins") is None:
        return False
    import jax

    return jax.default_backend() != "cpu"


def check(executor: Executor) -> None:
    """Raise `UserError` where the executor is not installed."""
    if executor == "numba" and not _has_numba():
        raise UserError("executor is 'numba', which is not installed: pip install 'latentzoo[fast]'")


def _has_numba() -> bool:
    return find_spec("numba") is not None
