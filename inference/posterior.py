"""Where the draws of a fit come from: a guide of one of the libraries, or the chains of a sampler."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.accumulate import by_rows, chunks
from latentzoo.inference.automatic import Arrays, Backend, Pair, backend, num_draws
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import Library

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

CHUNK_ROWS = 65_536
BOUND_DRAWS = 1000  # for an estimated bound


class OwnGuide(NamedTuple):
    """A guide that is not the model's: a callable of one library, `(data, prior, params)`, or one of its AutoGuides.

    needs_data: whether its global sites may depend on the data; those of an AutoGuide do not.
    """

    name: str
    program: Callable[..., Any]
    needs_data: bool


class Draws(NamedTuple):
    """Draws of the latent variables of a model, by site, and the log density that they were drawn with."""

    values: Arrays
    log_q: np.ndarray


def own_guide(zoo: "Entry", library: Library, guide: Any, start: Callable[[], Arrays]) -> OwnGuide:
    """Return a guide as it is run; an AutoGuide, given by its name or class, is made for the model.

    start: returns the values of the latent sites that an AutoGuide begins at.

    Raises
    ------
    UserError: there is no AutoGuide of this name, or it cannot be had for this model.
    """
    if isinstance(guide, str):
        autoguides = importlib.import_module(f"{library}.infer.autoguide")
        known = [name for name in dir(autoguides) if name.startswith("Auto")]
        guide = getattr(autoguides, choose(guide, known, f"AutoGuide of {library}"))
    if isinstance(guide, type):
        return OwnGuide(guide.__name__, _auto_guide(zoo, library, guide, start()), needs_data=False)
    if not callable(guide):
        raise UserError(f"guide is a {type(guide).__name__}: give a callable (data, prior, params), or an AutoGuide")
    return OwnGuide(getattr(guide, "__name__", type(guide).__name__), guide, needs_data=True)


def _auto_guide(zoo: "Entry", library: Library, kind: type, start: Arrays) -> Any:
    """Make an AutoGuide for the sites of the model that are not summed over."""
    autoguides = importlib.import_module(f"{library}.infer.autoguide")
    if library == "numpyro" and zoo.guide_room.LOSS == "enumerated" and issubclass(kind, autoguides.AutoContinuous):
        raise UserError(
            f"NumPyro's {kind.__name__} fails on a model with enumerated sites: take 'AutoNormal', or library='pyro'"
        )
    initialise = importlib.import_module(f"{library}.infer" + (".autoguide" if library == "pyro" else ""))
    auto = backend(library)
    with auto.precision():
        values = {site: auto.ppl.array(value) for site, value in start.items()}
    hidden = [site for site in zoo.plates() if site not in start]
    block = importlib.import_module("pyro.poutine" if library == "pyro" else "numpyro.handlers").block
    model = block(zoo.model.on(library), hide=hidden)
    return kind(model, init_loc_fn=initialise.init_to_value(values=values))


def start_values(zoo: "Entry", data: Any, prior: Any, params: Params, seed: int) -> dict[str, np.ndarray]:
    """Return the means of the continuous latent variables under the model's guide at these parameters.

    By draws in NumPyro, whichever library will start there: both start at the same values.
    """
    auto = backend("numpyro")
    guide, args = zoo.guide.numpyro, (data, prior, params)
    with auto.precision():
        latents = auto.latents(Pair(zoo.model.numpyro, guide, args), {}, {}, seed)
    sites = [name for name, site in latents.items() if not site.discrete]
    draws, _ = auto.draws(guide, args, sites, 100, seed)
    return {site: values.mean(0) for site, values in draws.items()}


class GuideDraws:
    """The draws of a guide at given parameters."""

    def __init__(self, zoo: "Entry", library: Library, guide: OwnGuide | None, prior: Any, params: Params):
        self._zoo, self._prior = zoo, prior
        self._auto: Backend = backend(library)
        if guide is None:
            self._program, self._args = zoo.guide.on(library), params
        else:
            self._program = self._auto.at(guide.program, params.phi)
            self._args = Params(theta=params.theta)

    def plates(self, data: Any) -> dict[str, tuple[str, ...]]:
        """Return the plates around each site of the model that the guide draws."""
        drawn = self._auto.plates(self._program, (data, self._prior, self._args), {})
        return {site: plates for site, plates in self._zoo.plates().items() if site in drawn}

    def global_sites(self, data: Any) -> tuple[str, ...]:
        """Return the sites that the guide draws outside the plate of the rows."""
        rows = set(self._zoo.row_plates)
        return tuple(site for site, plates in self.plates(data).items() if not set(plates) & rows)

    def draws(self, data: Any, sites: Sequence[str], num_draws: int, seed: int) -> Draws:
        """Return draws of some sites, and the log density of those outside the plate of the rows."""
        args = (data, self._prior, self._args)
        return Draws(*self._auto.draws(self._program, args, sites, num_draws, seed, self._zoo.row_plates))


def log_likelihood(
    zoo: "Entry", data: Any, prior: Any, params: Params, latents: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return log p(row | globals) of each row at one draw of the global latent variables, local ones summed out.

    Where there are no rows: what the target has beside the density of the latent variables.
    """
    rows, parts = zoo.closed_form.log_likelihood, chunks(data, CHUNK_ROWS) if zoo.has_rows else iter([data])
    return np.concatenate([rows(latents, params, part, prior, zoo.spec) for part in parts])


def has_log_predictive(zoo: "Entry") -> bool:
    """Return whether the predictive density under the model's own guide, or at its points, is in closed form."""
    return hasattr(zoo.closed_form, "log_predictive")


def log_predictive(zoo: "Entry", data: Any, prior: Any, params: Params) -> np.ndarray:
    """Return log E_q p(row | globals) of each row, in closed form."""
    rows = zoo.closed_form.log_predictive
    return by_rows(lambda part: rows(params, part, prior, zoo.spec), data, CHUNK_ROWS)


def log_likelihoods(zoo: "Entry", data: Any, prior: Any, params: Params, draws: Arrays) -> Iterator[np.ndarray]:
    """Yield the log likelihood of every row at each draw, (rows,)."""
    for index in range(num_draws(draws)):
        yield log_likelihood(zoo, data, prior, params, {site: values[index] for site, values in draws.items()})


def log_prior(zoo: "Entry", library: Library, data: Any, prior: Any, params: Params, draws: Arrays) -> np.ndarray:
    """Return the log prior density of the global latent variables at each draw; it depends on no row."""
    row = contract.take_rows(data, slice(0, 1))
    return backend(library).log_probs(zoo.model.on(library), (row, prior, Params(theta=params.theta)), draws)


def log_joint(zoo: "Entry", library: Library, data: Any, prior: Any, params: Params, draws: Arrays) -> np.ndarray:
    """Return log p(data, globals) at each draw of the global latent variables, local ones summed out."""
    rows = np.array([each.sum() for each in log_likelihoods(zoo, data, prior, params, draws)])
    return log_prior(zoo, library, data, prior, params, draws) + rows


def bound_by_draws(
    zoo: "Entry", library: Library, guide: OwnGuide, data: Any, prior: Any, params: Params, seed: int
) -> tuple[float, float]:
    """Return the mean of log p(data, draw) - log q(draw) over draws of a guide, and its standard error."""
    source = GuideDraws(zoo, library, guide, prior, params)
    draws, log_q = source.draws(data, source.global_sites(data), BOUND_DRAWS, seed)
    log_ratio = log_joint(zoo, library, data, prior, params, draws) - log_q
    return float(log_ratio.mean()), float(log_ratio.std(ddof=1) / np.sqrt(len(log_ratio)))
