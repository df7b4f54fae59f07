"""What a case is: programs of a few lines, one a library, the exact value, and the verdict that was recorded."""

import importlib
import importlib.util
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Peer = Literal["pyro", "numpyro", "torch", "jax", "sklearn", "arviz"]
Verdict = Literal["right", "wrong", "warns", "raises", "absent"]

# The name of each library, and its name as a package.
PEERS: dict[Peer, tuple[str, str]] = {
    "pyro": ("Pyro", "pyro-ppl"),
    "numpyro": ("NumPyro", "numpyro"),
    "torch": ("torch", "torch"),
    "jax": ("JAX", "jax"),
    "sklearn": ("scikit-learn", "scikit-learn"),
    "arviz": ("ArviZ", "arviz"),
}
VERDICTS: dict[Verdict, str] = {
    "right": "the exact value, within the tolerance",
    "wrong": "another value, and no warning",
    "warns": "another value, and a warning",
    "raises": "an error",
    "absent": "the library has no such thing",
}
# The verdicts of all cases were recorded with these.
RECORDED_WITH = {
    "pyro-ppl": "1.9.2",
    "numpyro": "0.22.0",
    "torch": "2.13.0",
    "jax": "0.10.2",
    "funsor": "0.4.8",
    "scikit-learn": "1.9.1",
    "arviz": "0.23.4",
    "numba": "0.68.1",
}
TOPICS = ("gradients", "derivatives", "bounds", "enumeration", "distributions", "state")


class Case:
    """One thing that a user would do, with its exact value and a program for each library.

    The programs are static methods that bear the names of the libraries, import what they use and return numbers.

    Attributes
    ----------
    title: what goes wrong, in a line.
    user: what a user would do, in a line.
    known: how the exact value is known.
    tolerance: how far a right value may be from the exact one, absolute.
    verdicts: those recorded, for each library.
    note: what else is to be known: the thread where it was reported, what to do instead.
    dtype: torch's default while the program runs.
    """

    title: ClassVar[str]
    user: ClassVar[str]
    known: ClassVar[str]
    tolerance: ClassVar[float]
    verdicts: ClassVar[Mapping[Peer, Verdict]]
    note: ClassVar[str] = ""
    dtype: ClassVar[str] = "float64"

    @staticmethod
    def exact() -> Any:
        """Return the exact value: a number or several."""
        raise NotImplementedError


class Outcome(NamedTuple):
    """What a program did: its verdict and the recorded one, its numbers (None: it raised), and what it was told."""

    case: type[Case]
    peer: Peer
    verdict: Verdict
    recorded: Verdict
    value: Float[np.ndarray, " n"] | None
    exact: Float[np.ndarray, " n"]
    message: str

    @property
    def changed(self) -> bool:
        """Whether the library does something else than when the verdict was recorded."""
        return self.verdict != self.recorded


def cases() -> list[type[Case]]:
    """Return the cases of all topics, in the order of their files."""
    modules = [importlib.import_module(f"latentzoo.benchmarks.conformance_cases.{topic}") for topic in TOPICS]
    return [each for module in modules for each in vars(module).values() if _is_case(each, module.__name__)]


def _is_case(each: Any, module: str) -> bool:
    return inspect.isclass(each) and issubclass(each, Case) and each.__module__ == module


def program(case: type[Case], peer: Peer) -> Callable[[], Any] | None:
    """Return the program of a library, or None where there is none to write."""
    return getattr(case, peer, None)


def source(case: type[Case], peer: Peer) -> str:
    """Return the source of a program as a function on its own; "" where there is none."""
    function = program(case, peer)
    return textwrap.dedent(inspect.getsource(function)).removeprefix("@staticmethod\n") if function else ""


def installed(peer: Peer) -> bool:
    """Return whether a library can be imported."""
    return importlib.util.find_spec(peer) is not None


def run(case: type[Case], peer: Peer) -> Outcome:
    """Run the program of a library and compare what it returns with the exact value."""
    exact = numbers(case.exact())
    value, verdict, message = judge(program(case, peer), peer, exact, case.tolerance, case.dtype)
    return Outcome(case, peer, verdict, case.verdicts[peer], value, exact, message)


def judge(
    function: Callable[[], Any] | None,
    peer: Peer,
    exact: Float[np.ndarray, " n"],
    tolerance: float,
    dtype: str = "float64",
) -> tuple[Float[np.ndarray, " n"] | None, Verdict, str]:
    """Return what a program returns (None: nothing), the verdict, and what it warned or raised."""
    if function is None:
        return None, "absent", ""
    try:
        with warnings.catch_warnings(record=True) as caught, clean(peer, dtype):
            warnings.simplefilter("always")
            value = numbers(function())
    except ImportError as error:  # of the very thing that is asked for: the library itself is installed
        return None, "absent", first_line(error)
    except Exception as error:
        return None, "raises", first_line(error)
    if value.shape == exact.shape and np.allclose(value, exact, rtol=0.0, atol=tolerance):
        return value, "right", ""
    # A deprecation says nothing about the value.
    told = [first_line(each.message) for each in caught if issubclass(each.category, UserWarning | RuntimeWarning)]
    return value, "warns" if told else "wrong", "; ".join(dict.fromkeys(told))


def numbers(value: Any) -> Float[np.ndarray, " n"]:
    """Return what a program returned as an array of one axis."""
    return np.asarray(value, dtype=np.float64).ravel()


def first_line(error: Warning | Exception | str) -> str:
    """Return the class of an error or warning and the first line of what it says."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def clean(peer: Peer, dtype: str = "float64") -> AbstractContextManager[None]:
    """Open a context with float64, a seed and an empty parameter store, and give back what was there before."""
    if peer in ("pyro", "torch"):
        return _torch(dtype)
    return _jax() if peer in ("numpyro", "jax") else nullcontext()


@contextmanager
def _torch(dtype: str) -> Iterator[None]:
    import pyro
    import torch

    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def _jax() -> Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield
