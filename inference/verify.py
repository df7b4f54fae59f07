"""`verify`: every hand-derived bound and gradient against both libraries' automatic ones, in float64.

Each number is compared at several random parameter points, not at an optimum, by the strongest way there is: discrete
sites enumerated; continuous ones by the conjugate probe, common noise or quadrature; a z-test where nothing exact
exists (`expectations.py` says how). Where the blocks of a mean-field guide do not interact, the zero-variance
certificate is added: at their optima every single draw of the libraries' ELBO is the hand-derived one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference import accumulate
from latentzoo.inference.automatic import Backend, Pair, backend, pushed
from latentzoo.inference.checks import STANDARD_ERRORS, Case, Check, Gradient, Hand, Report, check, compare
from latentzoo.inference.expectations import Estimate, Integrand, Rule, expectation
from latentzoo.inference.progress import progress as progress_bar
from latentzoo.inference.registry import Entry, get
from latentzoo.inference.result import Fit
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import LIBRARIES, Library

NUM_ROWS, NUM_BATCH = 20, 8
HOLES = 0.3  # the part of the cells that is taken out where cells may be missing


def verify(
    name: str | Entry | Fit | None = None,
    *,
    library: Library | None = None,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    elbo: Callable[[dict[str, np.ndarray], Any], float] | None = None,
    gradient: Callable[[dict[str, np.ndarray], Any], Gradient] | None = None,
    params: Mapping[str, Any] | None = None,
    data: Any = None,
    num_points: int = 3,
    seed: int = 0,
    progress: bool = True,
    **spec: Any,
) -> Report:
    """Compare hand-derived numbers with automatic ones: of a model of the zoo, or of your own derivation.

    A model of the zoo: `verify("earthquakes")`, over every choice of its Spec that the keywords leave open, and over
    what its methods climb: the likelihood, the penalised likelihood, the ELBO.

    A fit: `verify(fit)`, at its parameters and on its data, whichever method and library found them.

    Your own: `verify(library="pyro", model=..., guide=..., elbo=..., gradient=..., params=..., data=...)`, where
    `model(data)` and `guide(data)` are ordinary programs of the library with their own param sites, `params` gives each
    site its constrained value, `elbo(params, data)` returns a float and `gradient(params, data)` a dict with the same
    keys: the derivatives by the constrained values. Discrete sites of finite support are enumerated.

    Raises
    ------
    UserError: an argument is missing or unknown; a parameter that the programs do not have, or one without a value.
    """
    if isinstance(name, Fit):
        contract.check_keywords(spec, (), "argument of verify for a fit")
        return _verify_fit(name, library, seed)
    if name is not None:
        return _verify_entry(name, library, num_points, seed, progress, spec)
    own = {"library": library, "model": model, "guide": guide, "elbo": elbo, "gradient": gradient, "params": params}
    missing = [argument for argument, value in own.items() if value is None]
    if missing:
        raise UserError(f"verify lacks {missing[0]}=: give the name of a model, or {', '.join(own)} and data")
    contract.check_keywords(spec, own, "argument of verify")
    return Report(tuple(_own_checks(library, model, guide, elbo, gradient, params, data, seed)))  # type: ignore[arg-type]


# --- the way --------------------------------------------------------------------------------------------------------


def _way(integrand: Integrand, params: Mapping[str, Any], rule: Rule | None) -> str:
    """Return which sites are treated how."""
    way = rule.way if rule else "z-test"
    sites: dict[str, list[str]] = {way: [], "enumeration": []}
    for name, site in integrand.backend.latents(integrand.pair, dict(params), {}, seed=0).items():
        sites["enumeration" if site.discrete else way].append(name)
    return "; ".join(f"{way} ({', '.join(names)})" for way, names in sites.items() if names) or "enumeration"


# --- a derivation of the user's own -----------------------------------------------------------------------------------


def _own_checks(
    library: Library,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    elbo: Callable[[dict[str, np.ndarray], Any], float],
    gradient: Callable[[dict[str, np.ndarray], Any], Gradient],
    params: Mapping[str, Any],
    data: Any,
    seed: int,
) -> Iterator[Check]:
    auto = backend(library)
    values = {name: contract.as_numpy(value).astype(np.float64) for name, value in params.items()}
    with auto.precision(), auto.double_constants():
        inputs = contract.map_leaves(lambda _, leaf: auto.ppl.array(_double(leaf)), data)
        pair = Pair(auto.enumerated(model), auto.enumerated(guide), (inputs,))
        parameters, depth = auto.inspect(pair)
        _check_names(set(values), parameters, "params")
        derived = gradient(values, data)
        _check_names(set(derived), set(values), "the dict that gradient returns")
        value = float(elbo(values, data))
        integrand = Integrand(auto, pair._replace(max_plate_nesting=depth))
        rule, estimate = expectation(integrand, values, seed)
        hand = Hand(value, {name: contract.as_numpy(derived[name]) for name in values})
        case = Case("your derivation", library, "the params given", hand)
        yield from compare(case, library, _way(integrand, values, rule) + _power(rule, estimate), estimate)


def _power(rule: Rule | None, estimate: Estimate) -> str:
    """Return what a z-test would have missed: an error is seen with probability 0.99 from (5 + 2.33) errors on."""
    if rule is not None:
        return ""
    return f"; an ELBO off by {(STANDARD_ERRORS + 2.33) * estimate.value_error:.2g} would be seen with probability 0.99"


def _check_names(given: set[str], wanted: set[str], what: str) -> None:
    if missing := sorted(wanted - given):
        raise UserError(f"{what} lacks {missing[0]!r}: it needs {', '.join(sorted(wanted))}")
    if extra := sorted(given - wanted):
        raise UserError(f"{what} has {extra[0]!r}, which is no parameter: there is {', '.join(sorted(wanted))}")


def _double(leaf: Any) -> Any:
    """Return floats in float64, the rest as it is."""
    array = contract.as_numpy(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


# --- a model of the zoo -----------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One variant of an entry, with the data that it is proved on; `total_rows` where they are a minibatch.

    point: what the points are called.
    """

    entry: Entry
    label: str
    data: Any
    prior: Any
    points: tuple[Params, ...]
    total_rows: int | None = None
    point: str = "random point"

    def pair(self, library: Library) -> Pair:
        """Return the bound programs of a library."""
        zoo = self.entry
        kwargs = {"total_rows": self.total_rows} if self.total_rows else {}
        args = (self.data, self.prior, self.points[0])
        return Pair(zoo.model.on(library), zoo.guide.on(library), args, kwargs, zoo.model_room.MAX_PLATE_NESTING)

    @property
    def free(self) -> bool:
        """Whether the local fields are written out, rather than at their optimum."""
        return any(getattr(self.points[0].phi, field) is not None for field in self.entry.guide_room.LOCAL)

    @property
    def factor(self) -> float:
        """How many times the minibatch stands for its rows."""
        return self.total_rows / (contract.num_rows(self.data) or 1) if self.total_rows else 1.0


def _verify_entry(
    name: str | Entry, library: Library | None, num_points: int, seed: int, progress: bool, spec: dict[str, Any]
) -> Report:
    zoo = name if isinstance(name, Entry) else get(name, **spec)
    variants = contract.variants(zoo.spec)
    open_choices = [v for v in variants if all(getattr(v, key) == getattr(zoo.spec, key) for key in spec)]
    entries = [dataclasses.replace(zoo, spec=variant) for variant in open_choices]
    contract.check_whole("num_points", num_points)
    contract.check_whole("seed", seed, least=0)
    libraries = LIBRARIES if library is None else (library,)
    settings = [
        setting
        for each in entries
        for method in {zoo.objective(method): method for method in reversed(zoo.methods)}.values()
        for setting in _settings(each, method, libraries[0], num_points, seed)
    ]
    rows: list[Check] = []
    with progress_bar(f"verify {zoo.name}", len(settings) * len(libraries), progress) as update:
        for index, setting in enumerate(settings):
            for which, each_library in enumerate(libraries):
                rows.extend(_PROOFS[zoo.closed_form.PROOF](setting, backend(each_library), seed))
                update(index * len(libraries) + which + 1, setting.label)
    return Report(tuple(rows))


def _verify_fit(fit: Fit, library: Library | None, seed: int) -> Report:
    if fit.data is None:
        raise UserError("this fit was loaded without its data: lz.load(path, data=...)")
    if fit.chains is not None or fit.guide is not None:
        raise UserError(f"a fit by {fit.label} has no hand-derived bound: verify one of the model's own guide")
    setting = Setting(fit.entry, f"fit by {fit.label}", fit.data, fit.prior, (fit.params,), point="fitted point")
    proof, libraries = _PROOFS[fit.entry.closed_form.PROOF], LIBRARIES if library is None else (library,)
    return Report(tuple(row for each in libraries for row in proof(setting, backend(each), seed)))


def _settings(zoo: Entry, method: str, library: Library, num_points: int, seed: int) -> Iterator[Setting]:
    """Yield what a method climbs: on the whole data with local fields at their optimum and free, and on a minibatch.

    Where cells may be missing, on data with holes, too.
    """
    data, _ = zoo.simulate(seed=seed, num_rows=NUM_ROWS, library=library)
    prior = zoo.prior_for(method, zoo.prior(data))
    label = ", ".join(f"{field}={value}" for field, value in vars(zoo.spec).items()) or "no options"
    if zoo.Theta._fields:
        label = f"{zoo.objective(method)}; {label}"
    points = tuple(_random_point(zoo, data, prior, seed + point, method) for point in range(num_points))
    yield Setting(zoo, label, data, prior, points)
    if zoo.guide_room.LOCAL:
        free = tuple(_free_point(zoo, point, data, prior, seed + index) for index, point in enumerate(points))
        yield Setting(zoo, f"{label}; {', '.join(zoo.guide_room.LOCAL)} free", data, prior, free)
    if (holed := contract.with_holes(data, HOLES, np.random.default_rng(seed))) is not data:
        yield Setting(zoo, f"{label}; missing cells", holed, prior, points)
    if zoo.has_rows:
        batch = contract.take_rows(data, slice(0, NUM_BATCH))
        yield Setting(zoo, f"{label}; a minibatch of {NUM_BATCH} of {NUM_ROWS}", batch, prior, points[:1], NUM_ROWS)


def _random_point(zoo: Entry, data: Any, prior: Any, seed: int, method: str) -> Params:
    return _jittered(zoo, zoo.init(data, prior, seed, method), np.random.default_rng(seed))


def _free_point(zoo: Entry, params: Params, data: Any, prior: Any, seed: int) -> Params:
    """Return the point with its local fields written out, away from their optimum."""
    written = zoo.closed_form.local_optimum(params, data, prior, zoo.spec)
    return _jittered(zoo, written, np.random.default_rng(seed))


def _jittered(zoo: Entry, params: Params, rng: np.random.Generator) -> Params:
    """Return the params with every number moved: all are real-valued, so any move is allowed.

    Networks are random as they are, and their many numbers add up.
    """
    step = 0.3 if zoo.is_exact else 0.1
    return contract.map_leaves(lambda _, leaf: leaf + step * rng.normal(size=np.shape(leaf)), params)


def _expected_proof(setting: Setting, auto: Backend, seed: int) -> Iterator[Check]:
    """Yield the checks of a bound whose expectations are in closed form."""
    with auto.precision():
        integrand = Integrand(auto, setting.pair(auto.name))  # type: ignore[arg-type]
        for index, params in enumerate(setting.points):
            leaves = contract.leaves(params)
            hand = _expected_hand(setting, params)
            case = Case(setting.entry.name, setting.label, f"{setting.point} {index}", hand)
            rule, estimate = expectation(integrand, leaves, seed + index)
            yield from compare(case, auto.name, _way(integrand, leaves, rule), estimate)
        if rule is not None and rule.separable and setting.free and setting.points[0].theta is None:
            yield _certificate(setting, integrand, seed)


def _expected_hand(setting: Setting, params: Params) -> Hand:
    """Return the hand-derived numbers of a bound in closed form, local gradients included."""
    form, spec, prior = setting.entry.closed_form, setting.entry.spec, setting.prior
    stats = accumulate.scaled(form.e_step(params, setting.data, prior, spec), setting.factor)
    gradient = contract.leaves(form.elbo_gradient(stats, params, prior, spec))
    if set(gradient) < set(contract.leaves(params)):
        gradient |= contract.leaves(form.local_gradient(params, setting.data, prior, spec))
    return Hand(float(form.elbo(stats, params, prior, spec)), gradient)


def _certificate(setting: Setting, integrand: Integrand, seed: int) -> Check:
    """Compare single draws at the optimum of the continuous blocks: each is the bound itself, whatever the draw."""
    form, spec, prior, data = setting.entry.closed_form, setting.entry.spec, setting.prior, setting.data
    start = setting.points[0]
    moved = form.m_step(form.e_step(start, data, prior, spec), start, prior, spec)
    local = {field: getattr(start.phi, field) for field in setting.entry.guide_room.LOCAL}
    params = moved._replace(phi=moved.phi._replace(**local))
    hand = _expected_hand(setting, params)
    leaves = contract.leaves(params)
    draws = integrand.draw(leaves, 5, seed)
    values = integrand.values(leaves, draws)
    worst = float(values[np.abs(values - hand.value).argmax()])
    case = Case(setting.entry.name, setting.label, "the optimum of its blocks", hand)
    way = f"zero-variance certificate ({len(draws)} draws)"
    return check(case, integrand.backend.name, way, "elbo", hand.value, worst)


def _noise_proof(setting: Setting, auto: Backend, seed: int) -> Iterator[Check]:
    """Yield the checks of a deep model: value and gradient at the same standard normal noise."""
    zoo = setting.entry
    with auto.precision():
        pair = setting.pair(auto.name)  # type: ignore[arg-type]
        elbos = auto.elbos(pair, pushed)
        for index, params in enumerate(setting.points):
            leaves = contract.leaves(params)
            sites = auto.latents(pair, leaves, {}, seed)
            rng = np.random.default_rng(seed + index)
            noise = {
                name: rng.normal(size=tuple(site.value.shape)) for name, site in sites.items() if not site.discrete
            }
            value, derived = zoo.closed_form.value_and_gradient(params, setting.data, setting.prior, noise, zoo.spec)
            factor = setting.factor
            scaled = {name: factor * leaf for name, leaf in contract.leaves(derived).items()}
            hand = Hand(factor * float(value), scaled)
            values, gradient = elbos(leaves, [noise], np.ones(1))
            exact = Estimate(float(values[0]), gradient, 0.0, {name: np.zeros_like(g) for name, g in gradient.items()})
            case = Case(zoo.name, setting.label, f"{setting.point} {index}", hand)
            summed = [name for name, site in sites.items() if site.discrete]
            ways = {"common noise": list(noise), "enumeration": summed}
            way = "; ".join(f"{way} ({', '.join(names)})" for way, names in ways.items() if names)
            yield from compare(case, auto.name, way, exact)


_PROOFS = {"expectation": _expected_proof, "common noise": _noise_proof}
