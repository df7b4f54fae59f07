"""The entries of the zoo: discovered by file name, bound to a Spec."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from latentzoo.models.language import contract
from latentzoo.models.language.binding import Bound
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note, UserError, choose
from latentzoo.models.language.ppl import Library


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


class Losses:
    """The loss under which a model and its guide are exact in their discrete sites, for each library.

    Keywords (`num_particles`, ...) go to the library's class.
    """

    def __init__(self, kind: str, max_plate_nesting: int):
        self._kind, self._nesting = kind, max_plate_nesting

    def pyro(self, **options: Any) -> Any:
        """Return the loss for `pyro.infer.SVI`."""
        from pyro.infer import Trace_ELBO, TraceEnum_ELBO

        loss = {"enumerated": TraceEnum_ELBO, "sampled": Trace_ELBO}[self._kind]
        return loss(max_plate_nesting=self._nesting, **options)

    def numpyro(self, **options: Any) -> Any:
        """Return the loss for `numpyro.infer.SVI`."""
        from numpyro.infer import Trace_ELBO

        from latentzoo.inference.automatic_numpyro import enumerated_elbo

        if self._kind == "enumerated":
            return enumerated_elbo()(max_plate_nesting=self._nesting, **options)
        return Trace_ELBO(**options)


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

    @functools.cached_property
    def model(self) -> Bound:
        """The generative story, as a callable of either library."""
        return Bound(self.model_room.model, self.spec, ("theta",), self.name)

    @functools.cached_property
    def guide(self) -> Bound:
        """The variational family, as a callable of either library."""
        needs = ("phi",) if set(self.Phi._fields) - set(self.Phi._field_defaults) else ()
        return Bound(self.guide_room.guide, self.spec, ("theta", "phi"), self.name, needs)

    @functools.cached_property
    def loss(self) -> Losses:
        """The right loss for SVI: `entry.loss.pyro()`, `entry.loss.numpyro()`."""
        return Losses(self.guide_room.LOSS, self.model_room.MAX_PLATE_NESTING)

    # --- data, prior, parameters ---

    def check(self, data: Any) -> Any:
        """Return the data as arrays, checked; raise `UserError` that names the field and the row."""
        if not isinstance(data, self.Data):
            raise UserError(f"data is a {type(data).__name__}: give {self.name}'s Data, zoo.Data(...) or zoo.read(...)")
        return contract.check(data, self.spec, "data")

    def check_prior(self, prior: Any) -> Any:
        """Return the prior as arrays, checked; every field that the default has must be given, and no other."""
        if not isinstance(prior, self.Prior):
            raise UserError(f"prior is a {type(prior).__name__}: give {self.name}'s Prior, zoo.prior(data, ...)")
        default = self.model_room.default_prior(None, self.spec)
        for field, value, usual in zip(prior._fields, prior, default, strict=True):
            if value is None and usual is not None:
                raise UserError(
                    f"prior.{field} is missing: this model ({self.spec}) needs it; zoo.prior(data) gives one"
                )
            if value is not None and usual is None:
                raise UserError(f"prior.{field} has no place in this model ({self.spec}): leave it out")
        return contract.check(prior, self.spec, "prior")

    def prior(self, data: Any = None, **given: Any) -> Any:
        """Return the model's default prior, scaled to the data when they are given, with any field replaced.

        Raises
        ------
        UserError: an unknown field, a value of the wrong shape or out of range.
        """
        contract.check_keywords(given, self.Prior._fields, "field of the prior")
        data = None if data is None else self.check(data)
        return self.check_prior(self.model_room.default_prior(data, self.spec)._replace(**given))

    def init(self, data: Any, prior: Any = None, seed: int = 0) -> Params:
        """Return the parameters that inference starts from."""
        data = self.check(data)
        prior = self.prior(data) if prior is None else self.check_prior(prior)
        return self.guide_room.init(data, prior, self.spec, np.random.default_rng(seed))

    def elbo(self, params: Params, data: Any, prior: Any) -> float:
        """Return the hand-derived ELBO at checked arguments, in nats, every constant kept."""
        stats = self.closed_form.e_step(params, data, prior, self.spec)
        return float(self.closed_form.elbo(stats, params, prior, self.spec))

    def check_params(self, params: Params, like: Params | None = None) -> Params:
        """Return the params as arrays, checked against their declared shapes, and against those of `like`.

        Raises
        ------
        UserError: a field that this Spec needs is missing, has no place in it, or has another shape.
        """
        if not isinstance(params, Params):
            raise UserError(f"params is a {type(params).__name__}: give zoo.init(data, prior), or Params(theta, phi)")
        sizes: dict[str, int] = {}
        trees = zip(Params._fields, params, (self.Theta, self.Phi), strict=True)
        checked = Params(*(self._check_tree(role, tree, kind, sizes) for role, tree, kind in trees))
        given, wanted = contract.leaves(checked), contract.leaves(like or checked)
        local = {f"phi.{field}" for field in self.guide_room.LOCAL}
        for name in [*wanted, *given]:
            if name not in given:
                raise UserError(f"params.{name} is missing: this model ({self.spec}) needs it")
            if name not in wanted and name not in local:
                raise UserError(f"params.{name} has no place in this model ({self.spec}): leave it out")
            if name in wanted and np.shape(given[name]) != np.shape(wanted[name]):
                raise UserError(f"params.{name} has shape {np.shape(given[name])}: give {np.shape(wanted[name])}")
        return checked

    def _check_tree(self, role: str, tree: Any, kind: Any, sizes: dict[str, int]) -> Any:
        if tree is None:
            return None
        if not isinstance(tree, kind):
            raise UserError(f"params.{role} is a {type(tree).__name__}: give {self.name}'s {kind.__name__}")
        return contract.check(tree, self.spec, f"params.{role}", sizes)

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
        return Params(**{role: contract.from_leaves(kinds[role], at, role) for role, at in found.items() if at})

    # --- files and simulation ---

    def read(self, path: Any, **options: Any) -> Any:
        """Read data with the model's own reader, whose options these are; rows left out are told in a `Note`.

        Raises
        ------
        UserError: what the file lacks, or which rows cannot be used, by their lines.
        """
        contract.check_keywords(options, inspect.signature(self.model_room.read).parameters, "option of the reader")
        reading = self.model_room.read(path, **options)
        if reading.num_left_out:
            warnings.warn(reading.summary, Note, stacklevel=2)
        return reading.data

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
        if params is None and self.Theta._fields:
            params = self.guide_room.init(self._empty, prior, self.spec, np.random.default_rng(seed))
        model = self.model.on(library)
        drawn, data = automatic.backend(library).draw(model, (self._empty, prior, params), {"num_rows": num_rows}, seed)
        truth = {site: value for site, value in drawn.items() if site not in self.Data._fields}
        return self.check(data), truth

    def plates(self) -> dict[str, tuple[str, ...]]:
        """Return the plates around each site of the model, from the outermost to the innermost."""
        from latentzoo.inference import automatic

        return automatic.backend("numpyro").plates(self.model.numpyro, (self._empty, self.prior()), {"num_rows": 1})

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the dimensions of each site of the model: its plates, then those of a single event."""
        named = self.model_room.DIMS
        return {site: (*plates, *named.get(site, ())) for site, plates in self.plates().items()}

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
        return automatic.graph(self.model.numpyro, (data, self.prior(data)))
