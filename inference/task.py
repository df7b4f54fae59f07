"""A fit that is asked for: where its method is, and all of it checked."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from latentzoo.inference import alpha, ascent, coordinate_ascent, deep, exact, mcmc, svi, training
from latentzoo.inference.automatic import backend
from latentzoo.inference.checkpoint import digest
from latentzoo.inference.posterior import OwnGuide, has_log_predictive, log_predictive
from latentzoo.inference.registry import Entry
from latentzoo.inference.run import label
from latentzoo.inference.training import Training
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import Library

# Where each method is: a module with `Settings`, `NUM_STEPS` and `LIBRARIES`.
HOMES: dict[str, ModuleType] = {
    "cavi": coordinate_ascent,
    "em": coordinate_ascent,
    "map": coordinate_ascent,
    "ascent": ascent,
    "alpha": alpha,
    "exact": exact,
    "moments": exact,
    "mle": exact,
    "svi": svi,
    "nuts": mcmc,
}
PATIENCE = 5  # steps without a better score of the validation data, after which a run stops
# A method of the user's own: (zoo, data, prior, params) -> the parameters after each step, or after the only one.
Method = Callable[[Entry, Any, Any, Params], Iterator[Params] | Params]


class Task(NamedTuple):
    """A fit that is asked for, all of it checked.

    home: of the method; None of one of the user's own. given: the parameters that the user gave to start from.
    """

    zoo: Entry
    data: Any
    prior: Any
    name: str
    own: Method | None
    home: ModuleType | None
    settings: Any
    library: Library | None
    seed: int
    num_steps: int
    tol: float
    max_seconds: float | None
    validation: Any
    given: Params | None = None

    @property
    def label(self) -> str:
        """The name of the method, with its library."""
        return label(self.name, self.library)

    def start(self, seed: int) -> Params:
        """Return where the method starts from, by default."""
        return self.zoo.start(self.data, self.prior, seed, self._starts_as)

    def plain_start(self, seed: int) -> Params:
        """Return a start of the same shapes, which takes no time: what others are checked against."""
        return self.zoo.plain_start(self.data, self.prior, np.random.default_rng(seed), self._starts_as)

    @property
    def _starts_as(self) -> str:
        return self.zoo.methods[0] if self.own else self.name

    @property
    def score(self) -> Callable[[Params], float] | None:
        """What the validation data are worth under parameters: their log predictive density, or a bound on it."""
        if self.validation is None:
            return None
        if self.home is svi:
            return training.watched(self.zoo, self.validation, self.prior, self.settings, self.seed)
        return lambda params: float(log_predictive(self.zoo, self.validation, self.prior, params).sum())

    @property
    def patience(self) -> int:
        """The looks without a better score after which a run stops."""
        return max(self.settings.patience // svi.BLOCK, 1) if isinstance(self.settings, Training) else PATIENCE

    def identity(self, start: Params, guide: OwnGuide | None, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what tells this run from others: where it differs, another run would end elsewhere."""
        found = {"model": self.zoo.name, **dataclasses.asdict(self.zoo.spec), "method": self.name}
        found |= {"library": self.library, "guide": None if guide is None else guide.name, "seed": self.seed}
        found |= dataclasses.asdict(self.settings) | {"num_steps": self.num_steps, "tol": self.tol}
        found |= {"estimator": repr(self.settings.estimator)}
        trees = {
            "data": self.data,
            "prior": self.prior,
            "validation": self.validation,
            "start": start,
            "init": dict(state),
        }
        return found | {name: digest(tree) for name, tree in trees.items()}

    def flaw(self, params: Params) -> str:
        """Return why the parameters are no honest optimum, where the model can tell."""
        find = getattr(self.zoo.closed_form, "flaw", None)
        return find(params, self.data, self.prior, self.zoo.spec) if find and self.home is coordinate_ascent else ""


def settings_of(zoo: Entry, method: str) -> type[Any]:
    """Return the class of the settings of a method: those of training for a model whose bound is known by draws."""
    home = HOMES[method]
    return Training if home is svi and not zoo.is_exact else home.Settings


def task_of(
    zoo: Entry,
    data: Any,
    method: str | Method | None,
    prior: Any,
    library: Library | None,
    seed: int,
    num_steps: int | None,
    tol: float,
    max_seconds: float | None,
    validation: Any,
    options: dict[str, Any],
) -> Task:
    """Check all that a method is asked with."""
    contract.check_whole("seed", seed, least=0)
    contract.check_number("tol", tol, least=0.0)
    if max_seconds is not None:
        contract.check_number("max_seconds", max_seconds, above=0.0)
    own = method if callable(method) else None
    if callable(method):
        name, home, settings = getattr(method, "__name__", type(method).__name__), None, None
        contract.check_keywords(options, (), f"option of {name}")
    else:
        name = choose(method or zoo.methods[0], zoo.methods, f"method of {zoo.name}")
        home = HOMES[name]
        settings = contract.make_spec(settings_of(zoo, name), options)
        if home is svi:
            settings.check(zoo)
    num_steps = getattr(home, "NUM_STEPS", coordinate_ascent.NUM_STEPS) if num_steps is None else num_steps
    contract.check_whole("num_steps", num_steps, least=mcmc.LEAST_DRAWS if home is mcmc else 1)
    deep.check_by_hand(zoo)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior, data)
    if validation is not None:
        watches = home is coordinate_ascent and has_log_predictive(zoo)
        if not watches and not isinstance(settings, Training):
            raise UserError(
                "validation= is for EM and CAVI with an exact predictive density, and for deep models:"
                f" {zoo.name} {name} has none"
            )
        validation = zoo.check_like(validation, data)
    library = _library(name, home, library)
    if library is not None:
        backend(library)  # its import is no part of any run's time
    prior = zoo.prior_for(name, prior)
    return Task(zoo, data, prior, name, own, home, settings, library, seed, num_steps, tol, max_seconds, validation)


def _library(name: str, home: ModuleType | None, library: Library | None) -> Library | None:
    """Return the library that a method runs in: the one that is asked for, else its first."""
    known = home.LIBRARIES if home else ()
    if not known and library is not None:
        raise UserError(f"library is {library!r}: {name} needs none, leave it out")
    return cast(Library, choose(library or known[0], known, "library")) if known else None
