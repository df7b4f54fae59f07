"""The libraries' own ELBO: its value and gradient at given parameters and given draws of the guide.

One backend for each library, behind one interface, so that what is built on it (proofs, estimators, posterior draws) is
written once. Parameters are handed in by name and values of latent sites by a function of their distribution; the
user's parameter store is neither read nor written.
"""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import LIBRARIES, Handle

Array = Any
Arrays = dict[str, Any]
# The value of a latent site, as a function of its distribution: a constant, or noise pushed through loc and scale.
Fixed = Mapping[str, Callable[[Any], Array]]
# (params, nodes, weights) -> (ELBO at each node, gradient of their weighted sum), all of NumPy.
Elbos = Callable[[Arrays, Sequence[Arrays], np.ndarray], tuple[np.ndarray, Arrays]]


LOG_PROB = "log_prob"  # beside the names of sites, of which none is called so


class Pair(NamedTuple):
    """A model and a guide of one library, with the arguments that both are called with."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    max_plate_nesting: float = float("inf")


class Site(NamedTuple):
    """A latent site of a program, as it was drawn."""

    distribution: Any
    value: Array
    discrete: bool
    plates: tuple[str, ...]


class Backend(Protocol):
    """What a library must do for us; arrays are the library's own unless they are said to be NumPy's."""

    name: str
    ppl: Handle

    def precision(self, dtype: str = "float64") -> AbstractContextManager[Any]:
        """Open a context in which floats are float64, as in proofs, or float32."""

    def latents(self, pair: Pair, params: Arrays, fixed: Fixed, seed: int) -> dict[str, Site]:
        """Return the latent sites of the guide; the parameters may be the library's arrays or NumPy's."""

    def elbo(self, pair: Pair, params: Arrays, fixed: Fixed) -> Array:
        """Return the ELBO of one draw of the guide, its discrete sites enumerated, differentiable in `params`."""

    def value_and_gradient(self, function: Callable[[Arrays], Array], params: Arrays) -> tuple[float, Arrays]:
        """Return a scalar function of the parameters and its gradient, as NumPy arrays."""

    def elbos(self, pair: Pair, fix: "Fix") -> Elbos:
        """Return a function (params, nodes, weights) -> (ELBO at each node, gradient of their weighted sum).

        fix: what a node holds, `constants` (values of latent sites) or `pushed` (noise).
        """

    def double_constants(self) -> AbstractContextManager[Any]:
        """Open a context in which the numbers that a user's program writes out are float64, too."""

    def inspect(self, pair: Pair) -> tuple[set[str], int]:
        """Return the names of the parameters that the pair registers, and how deep its plates are nested."""

    def enumerated(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return the program with every discrete site of finite support marked for enumeration."""

    def sampled(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return the program with no site marked for enumeration."""

    def tempered(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return the program with a keyword more, `latent_weight`, that multiplies log p or log q of its latent sites.

        Given to the model and to the guide it is the weight of the divergence in the ELBO.
        """

    def draw(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> tuple[Arrays, Any]:
        """Run a program once; return its latent and deterministic sites, and what it returned, as NumPy arrays."""

    def plates(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """Return the plates around each site, deterministic ones too, the outermost first."""

    def held(self, program: Callable[..., Any], args: tuple[Any, ...]) -> Arrays:
        """Return the values of the sites that a program holds at points: observed or deterministic, as NumPy arrays."""

    def draws(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        sites: Sequence[str],
        num_draws: int,
        seed: int,
        without: Sequence[str] = (),
    ) -> tuple[Arrays, np.ndarray]:
        """Return many draws of some sites of a program, stacked, and the log density of each draw, as NumPy arrays.

        without: plates whose sites are left out of the log density.
        """

    def log_probs(self, program: Callable[..., Any], args: tuple[Any, ...], draws: Arrays) -> np.ndarray:
        """Return the log density of some sites of a program at each of their draws."""

    def predictive(
        self, program: Callable[..., Any], args: tuple[Any, ...], num_rows: int, draws: Arrays, seed: int
    ) -> Arrays:
        """Run a program once with each draw of some of its sites; return what it draws for the others, stacked."""

    def most_probable(self, program: Callable[..., Any], args: tuple[Any, ...], max_plate_nesting: int) -> Arrays:
        """Return the most probable values of the enumerated sites of a program together, as NumPy arrays."""

    def at(self, program: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
        """Return the program with its own parameters at these values."""


class Fix(Protocol):
    """A way to fix latent sites from the arrays of a node."""

    def __call__(self, node: Mapping[str, Any], ppl: Handle, /) -> Fixed:
        """Return the value of each site as a function of its distribution."""


def constants(values: Mapping[str, Any], ppl: Handle) -> Fixed:
    """Return the functions that give sites these values, whatever their distribution."""
    return {name: functools.partial(lambda value, _: value, ppl.array(value)) for name, value in values.items()}


def pushed(noise: Mapping[str, Any], ppl: Handle) -> Fixed:
    """Return the functions that push standard normal noise through the location and scale of each site."""
    return {name: functools.partial(push, ppl.array(eps)) for name, eps in noise.items()}


def push(eps: Array, distribution: Any) -> Array:
    """Return standard normal noise, of the shape of a draw, as a draw of a normal distribution.

    The scale of a multivariate normal is its Cholesky factor.

    Raises
    ------
    UserError: the distribution is not normal.
    """
    normal = base(distribution)
    if type(normal).__name__ == "MultivariateNormal":
        return normal.loc + (normal.scale_tril @ eps[..., None])[..., 0]
    if type(normal).__name__ != "Normal":
        raise UserError(f"noise was given for a site that is {type(normal).__name__}: only a normal one takes it")
    return normal.loc + normal.scale * eps


def base(distribution: Any) -> Any:
    """Return the distribution inside the wrappers that only move its batch and event dimensions."""
    while type(distribution).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        distribution = distribution.base_dist
    return distribution


@functools.cache
def backend(library: str) -> Backend:
    """Return the backend of a library, importing it at the first call."""
    module = importlib.import_module(f"latentzoo.inference.automatic_{choose(library, LIBRARIES, 'library')}")
    return cast(Backend, module.Backend())


def plates_of(site: Any) -> tuple[str, ...]:
    """Return the names of the plates around a site, the outermost (leftmost) first."""
    return tuple(frame.name for frame in sorted(site["cond_indep_stack"], key=lambda frame: frame.dim))


_NO_VALUES = ("Unit", "_Subsample")  # of a factor, and of Pyro's plates


def has_value(site: Any) -> bool:
    """Return whether a traced site has a value of its own: drawn, observed or deterministic, and no factor."""
    return site["type"] == "deterministic" or (site["type"] == "sample" and type(site["fn"]).__name__ not in _NO_VALUES)


def log_prob(sites: Sequence[Any]) -> Array:
    """Return the log density of traced sites at their values, summed; a deterministic one adds nothing."""
    drawn = [site for site in sites if site["type"] == "sample"]
    return sum((site["fn"].log_prob(site["value"]).sum() for site in drawn), start=0.0)


def num_draws(draws: Arrays) -> int:
    """Return how many draws these are: the length of their first axis."""
    return len(next(iter(draws.values())))


def depth_of(sites: Sequence[Any]) -> int:
    """Return how many batch dimensions the plates around these sites take."""
    frames = [frame for site in sites if site["type"] == "sample" for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.dim is not None), default=0)


def graph(model: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the plate diagram of a NumPyro model as a `graphviz` graph.

    Raises
    ------
    UserError: the Python package graphviz is not installed.
    """
    from numpyro.infer.inspect import render_model

    try:
        return render_model(model, model_args=args)
    except ImportError as error:
        raise UserError("drawing a graph needs the Python package graphviz: pip install 'latentzoo[graph]'") from error
