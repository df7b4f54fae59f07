"""The entries of the zoo: discovered by file name, bound to a Spec."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from latentzoo.inference import arguments
from latentzoo.inference.losses import Losses
from latentzoo.models.language import contract
from latentzoo.models.language.binding import Bound
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError, choose
from latentzoo.models.language.ppl import Library

# Methods that hold the parameters of the model at points (its theta), and those of them that drop their priors.
POINT_METHODS = ("exact", "mle", "em", "map")
WITHOUT_PRIORS = ("exact", "mle", "em")


def names() -> list[str]:
    """Return the names of every model of the zoo: one file each in `latentzoo.models`."""
    package = importlib.import_module("latentzoo.models")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)


def get(name: str, **spec: Any) -> "Entry":
    """Return the entry of a model; keywords are the fields of its Spec.

    Raises
    ------
    UserError: there is no such model, or no such field: the nearest match is named.
    """
    model = importlib.import_module(f"latentzoo.models.{choose(name, names(), 'model')}")
    return _entry(name, contract.make_spec(model.Spec, spec))


@functools.cache
def _entry(name: str, spec: Any) -> "Entry":
    """Return the one entry of a Spec: what its programs compile is then kept, too."""
    model, guide, closed_form = (
        importlib.import_module(f"latentzoo.{room}.{name}") for room in ("models", "guides", "inference.closed_form")
    )
    return Entry(name, model, guide, closed_form, spec)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One model of the zoo, with its guide and its closed form, bound to a Spec.

    `model` and `guide` are plain callables of each library (`entry.model.pyro`, `entry.guide.numpyro`); `closed_form`
    is the module with the hand-derived `e_step`, `m_step`, `elbo`, `elbo_gradient`, `METHODS`.
    """

    name: str
    model_room: ModuleType
    guide_room: ModuleType
    closed_form: ModuleType
    spec: Any

    def __repr__(self) -> str:
        return f"<{self.name}: {self.spec}>"

    def __getattr__(self, name: str) -> Any:
        """Return a verb that this model alone has, one of its `ACTIONS`, bound to it."""
        if name.startswith("_") or name not in self.actions:
            raise AttributeError(f"the entry {self.__dict__.get('name')!r} has no attribute {name!r}")
        return functools.wraps(self.actions[name].run)(functools.partial(self.actions[name].run, self))

    @property
    def actions(self) -> dict[str, contract.Action]:
        """The verbs that this model alone has, by name."""
        return getattr(self.closed_form, "ACTIONS", {})

    @property
    def Data(self) -> Any:
        """The NamedTuple of what may be observed."""
        return self.model_room.Data

    @property
    def Prior(self) -> Any:
        """The NamedTuple of hyperparameters."""
        return self.model_room.Prior

    @property
    def Theta(self) -> Any:
        """The NamedTuple of point parameters of the model."""
        return self.model_room.Theta

    @property
    def Phi(self) -> Any:
        """The NamedTuple of parameters of the guide."""
        return self.guide_room.Phi

    @property
    def methods(self) -> tuple[str, ...]:
        """The inference methods, the default one first."""
        return self.closed_form.METHODS

    def is_point(self, method: str | None = None) -> bool:
        """Return whether a method, by default the first, holds the parameters of the model at points.

        A model with point parameters and without "cavi" has no other methods.
        """
        if not self.Theta._fields:
            return False
        return (method or self.methods[0]) in POINT_METHODS or "cavi" not in self.methods

    @property
    def is_exact(self) -> bool:
        """Whether the bound is in closed form, as an expectation; else it is known draw by draw of the guide."""
        return hasattr(self.closed_form, "elbo")

    def objective(self, method: str) -> str:
        """Return what a method climbs: the values of two methods compare where this is the same."""
        if not self.is_point(method) or not self.is_exact:
            return "ELBO"
        optional = any(field.optional for field in contract.fields(self.Prior).values())
        return "log likelihood" if method in WITHOUT_PRIORS or not optional else "penalised log likelihood"

    @functools.cached_property
    def model(self) -> Bound:
        """The generative story, as a callable of either library."""
        return Bound(self.model_room.model, self.spec, {"theta": self.Theta}, self.name)

    @functools.cached_property
    def guide(self) -> Bound:
        """The variational family, as a callable of either library."""
        return Bound(self.guide_room.guide, self.spec, {"theta": self.Theta, "phi": self.Phi}, self.name)

    @functools.cached_property
    def loss(self) -> Losses:
        """The right loss for SVI: `entry.loss.pyro()`, `entry.loss.numpyro()`."""
        return Losses(self.guide_room.LOSS, self.model_room.MAX_PLATE_NESTING, self.row_plates)

    # --- data, prior, parameters ---

    def check(self, data: Any) -> Any:
        """Return the data as arrays, checked; raise `UserError` that names the field and the row.

        Where the model observes nothing, None is its data.
        """
        if data is None and not self.has_rows:
            return self._empty
        if not isinstance(data, self.Data):
            raise UserError(f"data is a {type(data).__name__}: give {self.name}'s Data, zoo.Data(...) or zoo.read(...)")
        checked = contract.check(data, self.spec, "data")
        if hasattr(self.model_room, "check_data"):
            self.model_room.check_data(checked, self.spec)
        return checked

    def check_like(self, data: Any, like: Any) -> Any:
        """Return the data, checked, and refuse those that cannot go with others: of another vocabulary, for one."""
        checked = self.check(data)
        for name, value in contract.leaves(contract.without_rows(like)).items():
            other = getattr(checked, name)
            if other is not None and not np.array_equal(value, other):
                raise UserError(f"data.{name} is not that of the fit: read them with zoo.read(path, like=fit.like)")
        return checked

    def check_prior(self, prior: Any, data: Any = None) -> Any:
        """Return the prior as arrays, checked, against the sizes of the data where they are given.

        Every field that the default has must be given, and no other; for methods without priors, none that is optional.
        """
        if not isinstance(prior, self.Prior):
            raise UserError(f"prior is a {type(prior).__name__}: give {self.name}'s Prior, zoo.prior(data, ...)")
        return arguments.prior(self, prior, self.model_room.default_prior(data, self.spec), data)

    def without_priors(self, prior: Any) -> Any:
        """Return the prior as methods without priors take it: without those of point parameters, which are optional."""
        if not self.Theta._fields:
            return prior
        dropped = {name: None for name, field in contract.fields(self.Prior).items() if field.optional}
        return prior._replace(**dropped)

    def prior_for(self, method: str, prior: Any) -> Any:
        """Return the prior as a method takes it."""
        return self.without_priors(prior) if method in WITHOUT_PRIORS else prior

    def prior(self, data: Any = None, **given: Any) -> Any:
        """Return the model's default prior, scaled to the data when they are given, with any field replaced.

        One number in the place of a table of arrays fills them all.

        Raises
        ------
        UserError: an unknown field, a value of the wrong shape or out of range.
        """
        contract.check_keywords(given, self.Prior._fields, "field of the prior")
        data = None if data is None else self.check(data)
        default = self.model_room.default_prior(data, self.spec)
        filled = {name: _filled(value, getattr(default, name)) for name, value in given.items()}
        return arguments.prior(self, default._replace(**filled), default, data)

    def init(self, data: Any, prior: Any = None, seed: int = 0, method: str | None = None) -> Params:
        """Return the parameters that a method, by default the first, starts from.

        The same seed gives every method the same start, be it of point parameters or of a guide.
        """
        method = choose(method or self.methods[0], self.methods, f"method of {self.name}")
        data = self.check(data)
        prior = self.prior(data) if prior is None else self.check_prior(prior, data)
        return self.start(data, prior, seed, method)

    def start(self, data: Any, prior: Any, seed: int, method: str) -> Params:
        """Return the parameters that a method starts from, of checked arguments: `init` checks them first."""
        rng = np.random.default_rng(seed)
        first = self.plain_start(data, prior, rng, method)
        informed = getattr(self.closed_form, "start", None)
        return first if informed is None else informed(first, data, self.prior_for(method, prior), self.spec, rng)

    def plain_start(self, data: Any, prior: Any, rng: np.random.Generator, method: str) -> Params:
        """Return the guide's own start, of the shapes that a method takes, and without what a model learns for it."""
        return self.guide_room.init(data, self.prior_for(method, prior), self.spec, rng, self.is_point(method))

    def elbo(self, params: Params, data: Any, prior: Any) -> float:
        """Return the hand-derived ELBO at checked arguments, in nats, every constant kept; of a deep model by draws."""
        if not self.is_exact:
            from latentzoo.inference import deep

            return deep.bound(self, data, prior, params)[0]
        stats = self.closed_form.e_step(params, data, prior, self.spec)
        return float(self.closed_form.elbo(stats, params, prior, self.spec))

    def check_params(self, params: Params, like: Params | None = None) -> Params:
        """Return the params as arrays, checked against their declared shapes, and against those of `like`.

        Raises
        ------
        UserError: a field that this Spec needs is missing, has no place in it, or has another shape.
        """
        return arguments.params(self, params, like)

    def params(self, store: Any) -> Params:
        """Return the parameters that a library's optimiser holds: Pyro's parameter store, or NumPyro's dict.

        Raises
        ------
        UserError: the store holds none of this model's parameters, or not all of them.
        """
        found: dict[str, dict[str, Any]] = {"theta": {}, "phi": {}}
        for name in store:
            role, _, path = name.partition(".")
            if role in found:
                # A copy: what an optimiser holds goes on changing.
                found[role][path] = contract.as_numpy(store[name]).copy()
        if not any(found.values()):
            raise UserError(f"no parameter of {self.name} is in this store: its names begin with 'theta.' or 'phi.'")
        kinds = {"theta": self.Theta, "phi": self.Phi}
        trees = {role: contract.from_leaves(kinds[role], at, role) for role, at in found.items() if at}
        return arguments.completed(self, Params(**trees))

    # --- files and simulation ---

    def read(self, path: Any, *, like: Any = None, **options: Any) -> Any:
        """Read data with the model's own reader, whose options these are; rows left out are told in a `Note`.

        like: data that these are to go with, such as those that a fit was made with: a text is then read with their
            vocabulary, whatever the options say of it.

        Raises
        ------
        UserError: what the file lacks, or which rows cannot be used, by their lines.
        """
        reading = self.reading(path, like=like, **options)
        if reading.num_left_out:
            warnings.warn(reading.summary, Note, stacklevel=2)
        return reading.data

    def reading(self, path: Any = None, *, like: Any = None, **options: Any) -> contract.Reading:
        """Return what the model's own reader makes of a file, or of the model's own data where no file is named."""
        contract.check_keywords(options, inspect.signature(self.reader).parameters, "option of the reader")
        if path is None and not self.has_default_data:
            raise UserError(f"{self.name} brings no data of its own: name a file to read")
        if path is None:
            return self.model_room.default_data(self.spec, **options)
        if like is not None and hasattr(self.model_room, "options_like"):
            options |= self.model_room.options_like(like)
        return self.reader(path, self.spec, **options)

    def write(self, data: Any, path: Any) -> None:
        """Write data in the format that the model's own reader reads.

        Raises
        ------
        UserError: the model has no data, or the file cannot be written.
        """
        if not self.has_rows:
            raise UserError(f"{self.name} observes nothing: there are no data to write; fit it as it is")
        self.model_room.write(data, path, self.spec)

    @property
    def has_rows(self) -> bool:
        """Whether the model has data: where nothing is observed there are no rows, and nothing to read or write."""
        return bool(self.Data._fields)

    @property
    def reader(self) -> Callable[..., contract.Reading]:
        """The model's own reader, called with the Spec, too; of a model without data, one that refuses every file."""
        return self.model_room.read if self.has_rows else self._refuse

    def _refuse(self, path: Any, spec: Any) -> contract.Reading:
        raise UserError(f"{self.name} observes nothing: it has no data, leave {path} out")

    @property
    def has_default_data(self) -> bool:
        """Whether the model brings data of its own."""
        return hasattr(self.model_room, "default_data")

    @property
    def reads_many_files(self) -> bool:
        """Whether the model's reader takes several files as one data set."""
        return next(iter(inspect.signature(self.reader).parameters)) == "paths"

    def simulate(
        self,
        seed: int = 0,
        num_rows: int = 1000,
        prior: Any = None,
        params: Params | None = None,
        library: Library = "numpyro",
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """Draw a data set from the generative function itself; return it with the latent variables behind it.

        The same seed gives the same data; the two libraries draw different ones. Point parameters come from `params`,
        else from the model's seeded start; `Params()` leaves them to their prior.
        """
        from latentzoo.inference import automatic

        contract.check_whole("num_rows", num_rows)
        prior = self.prior() if prior is None else self.check_prior(prior)
        if params is None:
            params = self._example(prior, seed)
        if params is not None and params.theta is not None:
            prior = self.without_priors(prior)  # points are given, and not observed
        model = self.model.on(library)
        drawn, data = automatic.backend(library).draw(model, (self._empty, prior, params), {"num_rows": num_rows}, seed)
        truth = {site: value for site, value in drawn.items() if site not in self.Data._fields}
        return self.check(data), truth

    def plates(self) -> dict[str, tuple[str, ...]]:
        """Return the plates around each site of the model, from the outermost to the innermost."""
        from latentzoo.inference import automatic

        prior = self.prior()
        args = (self._empty, prior, self._example(prior, seed=0))
        return automatic.backend("numpyro").plates(self.model.numpyro, args, {"num_rows": 1})

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the dimensions of each site of the model: its plates, then those of a single event."""
        named = self.model_room.dims(self.spec)
        return {site: (*plates, *named.get(site, ())) for site, plates in self.plates().items()}

    def points(self, data: Any, prior: Any, params: Params, library: Library = "numpyro") -> dict[str, np.ndarray]:
        """Return the values of the sites that the model holds at points: what its theta stands for."""
        from latentzoo.inference import automatic

        if params.theta is None:
            return {}
        row = contract.take_rows(data, slice(0, 1))
        args = (row, prior, Params(theta=params.theta))
        held = automatic.backend(library).held(self.model.on(library), args)
        return {site: value for site, value in held.items() if site not in self.Data._fields}

    def _example(self, prior: Any, seed: int) -> Params | None:
        """Return params of a model that cannot draw its point parameters, None where all are drawn."""
        point_only = self.Theta._fields and all(map(self.is_point, self.methods))
        if not point_only:
            return None
        return self.guide_room.init(self._empty, prior, self.spec, np.random.default_rng(seed), True)

    def exchangeable(self, prior: Any) -> str | None:
        """Return the plate whose labels mean nothing: posteriors may differ by a permutation of it; or None."""
        return self.model_room.exchangeable(prior, self.spec)

    @property
    def row_plates(self) -> tuple[str, ...]:
        """The plate over the rows of the data, where the model has one."""
        return self.model_room.ROWS

    @property
    def _empty(self) -> Any:
        return self.Data(*(None,) * len(self.Data._fields))

    def graph(self) -> Any:
        """Return the plate diagram, drawn from the model itself: a `graphviz` graph, whose `.source` is DOT."""
        from latentzoo.inference import automatic

        data, _ = self.simulate(seed=0, num_rows=2)
        prior = self.prior(data)
        return automatic.graph(self.model.numpyro, (data, prior, self._example(prior, seed=0)))

    def loss_graph(self) -> Any:
        """Return the graph of the loss after reparametrisation, found from both programs: its `.source` is DOT."""
        from latentzoo.inference.loss_graph import loss_graph

        return loss_graph(self)


def _filled(value: Any, like: Any) -> Any:
    """Return a number in the place of a dict of arrays as such a dict."""
    if not isinstance(like, dict) or np.ndim(value) or isinstance(value, dict):
        return value
    return contract.map_leaves(lambda _, leaf: np.full(np.shape(leaf), value, dtype=np.float64), like)
