"""Every loss of both libraries with every kind of site and everything that may stand around it.

The models are of one shape: z from its prior, x ~ Normal(z, 1). What differs is plain data (`Feature`), from which both
the programs and the exact bound with its gradient are made. Draws are not random: a normal site is drawn at ±1 standard
deviations, which integrates the quadratic forms here exactly, a sampled coin in every state, weighted by the guide.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from latentzoo.benchmarks.conformance_cases.case import Peer, Verdict, judge
from latentzoo.benchmarks.conformance_cases.numerics import derivative
from latentzoo.models.language.ppl import ENUMERATE, Handle, handle

Array = Any
Site = Literal["normal", "sampled", "enumerated in the guide", "enumerated in the model"]

SWEPT: tuple[Peer, ...] = ("pyro", "numpyro")
TOLERANCE = 1e-9
PRIOR = 0.3  # of a coin
# The guide's parameters for each row: logits of a coin, or location and log scale of a normal.
COIN = ((0.2, -0.4),)
NORMAL = ((0.1, 0.3), (-0.2, 0.1))


class Feature(NamedTuple):
    """What stands around the sites.

    x: the observations, of one row or two.
    shared: z is one site outside the plate of the observations.
    copies: the plate is of so many times the rows, which are a minibatch of it.
    scale, mask: around both sites; prior_scale: around z, in both programs; data_mask: around x.
    particles: all get the same draw.
    """

    x: tuple[float, ...] = (0.8, -0.5)
    shared: bool = False
    copies: int = 1
    scale: Any = None
    mask: Any = None
    prior_scale: float | None = None
    data_mask: Any = None
    particles: int = 1

    @property
    def z_shape(self) -> tuple[int, ...]:
        """The shape of the latent site."""
        return () if self.shared else (len(self.x),)


FEATURES: Mapping[str, Feature] = {
    "plate": Feature(),
    "plate of one": Feature(x=(0.8,)),
    "shared site": Feature(shared=True),
    "minibatch": Feature(copies=3),
    "shared, minibatch": Feature(shared=True, copies=3),
    "scale": Feature(scale=3.0),
    "vector scale": Feature(scale=(1.0, 3.0)),
    "prior scale": Feature(prior_scale=0.5),
    "mask": Feature(mask=(True, False)),
    "data mask": Feature(data_mask=(True, False)),
    "two particles": Feature(particles=2),
}
LOSSES = ("Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "RenyiELBO", "TraceEnum_ELBO")
COLUMNS: tuple[tuple[str, Site], ...] = (
    *((loss, site) for loss in LOSSES for site in get_args(Site)[:2]),
    *(("TraceEnum_ELBO", site) for site in get_args(Site)[2:]),
)
EVERYWHERE = tuple(FEATURES)
SCALED = ("minibatch", "scale", "vector scale", "prior scale")
# What is not right; the first verdict that names a feature counts.
RECORDED: Mapping[tuple[Peer, str, Site], Mapping[Verdict, tuple[str, ...]]] = {
    ("pyro", "TraceMeanField_ELBO", "sampled"): {"raises": EVERYWHERE},
    ("pyro", "RenyiELBO", "sampled"): {"wrong": EVERYWHERE},
    ("pyro", "TraceEnum_ELBO", "enumerated in the model"): {"raises": ("vector scale",)},
    ("numpyro", "Trace_ELBO", "sampled"): {"wrong": EVERYWHERE},
    ("numpyro", "TraceMeanField_ELBO", "sampled"): {"wrong": EVERYWHERE},
    ("numpyro", "TraceGraph_ELBO", "sampled"): {"wrong": SCALED},
    ("numpyro", "RenyiELBO", "normal"): {"raises": ("shared, minibatch",)},
    ("numpyro", "RenyiELBO", "sampled"): {"raises": ("shared, minibatch",), "wrong": EVERYWHERE},
    ("numpyro", "TraceEnum_ELBO", "normal"): {"raises": ("plate of one", "vector scale")},
    ("numpyro", "TraceEnum_ELBO", "sampled"): {"raises": ("plate of one", "vector scale")},
    ("numpyro", "TraceEnum_ELBO", "enumerated in the guide"): {"raises": ("vector scale",)},
    ("numpyro", "TraceEnum_ELBO", "enumerated in the model"): {"raises": ("vector scale",)},
}


class Cell(NamedTuple):
    """A verdict of the sweep: of a library, loss, kind of site and feature."""

    peer: Peer
    loss: str
    site: Site
    feature: str
    verdict: Verdict
    recorded: Verdict
    message: str

    @property
    def changed(self) -> bool:
        """Whether the library does something else than when the verdict was recorded."""
        return self.verdict != self.recorded


def applies(loss: str, site: Site, feature: Feature) -> bool:
    """Return whether there is an exact value to compare with."""
    if loss == "RenyiELBO":  # of one particle, which is the ELBO
        return feature.particles == 1
    # Different scales within one sum over states define no bound.
    uneven = feature.prior_scale or (feature.shared and feature.copies > 1)
    return not (site == "enumerated in the model" and uneven)


def sweep(peer: Peer) -> Iterator[Cell]:
    """Yield the verdict on every loss and site of a library, with every feature."""
    for loss, site in COLUMNS:
        for name, feature in FEATURES.items():
            if applies(loss, site, feature):
                yield cell(peer, loss, site, name)


def cell(peer: Peer, loss: str, site: Site, name: str) -> Cell:
    """Return the verdict on one combination."""
    feature = FEATURES[name]
    run = {"pyro": _pyro, "numpyro": _numpyro}[peer]
    exact = _exact(site, feature)
    _, verdict, message = judge(lambda: run(loss, site, feature), peer, exact, TOLERANCE)
    faults = RECORDED.get((peer, loss, site), {})
    recorded: Verdict = next((fault for fault, features in faults.items() if name in features), "right")
    return Cell(peer, loss, site, name, verdict, recorded, message)


# --- the exact bound --------------------------------------------------------------------------------------------------


def _start(site: Site, feature: Feature) -> Float[Array, " n"]:
    """Return the parameters of the guide, flat: none where it is empty."""
    if site == "enumerated in the model":
        return np.zeros(0)
    rows = int(np.prod(feature.z_shape))
    return np.ravel([row[:rows] for row in (NORMAL if site == "normal" else COIN)])


def _exact(site: Site, feature: Feature) -> Float[Array, " n"]:
    """Return the bound and its gradient, by finite differences."""
    start = _start(site, feature)

    def along(index: int) -> Callable[[float], float]:
        return lambda value: _bound(site, feature, np.where(np.arange(len(start)) == index, value, start))

    slopes = [derivative(along(index), start[index]) for index in range(len(start))]
    return np.array([_bound(site, feature, start), *slopes])


def _bound(site: Site, feature: Feature, params: Float[Array, " n"]) -> float:
    """Return the bound, from the expected log densities of each observation and each latent value."""
    x, shape = np.asarray(feature.x), feature.z_shape
    whole = _or_one(feature.scale) * _or_one(feature.mask)
    of_x = whole * feature.copies
    of_z = whole * _or_one(feature.prior_scale) * (1 if feature.shared else feature.copies)
    seen = _or_one(feature.data_mask)
    if site == "normal":
        loc, log_scale = params.reshape(2, *shape)
        second = np.exp(2 * log_scale)
        log_x = stats.norm.logpdf(x, loc) - second / 2
        return float((of_x * seen * log_x).sum() - (of_z * ((loc**2 + second - 1) / 2 - log_scale)).sum())
    log_x = seen * np.stack([stats.norm.logpdf(x, state) for state in (0, 1)])
    log_z = np.log([1 - PRIOR, PRIOR]).reshape(2, *[1] * len(shape))
    if site == "enumerated in the model":
        log_x = log_x.sum(-1) if feature.shared else log_x
        return float((of_z * special.logsumexp(log_z + log_x, axis=0)).sum())
    q = np.stack([special.expit(-params), special.expit(params)]).reshape(2, *shape)
    q_x = q[:, None] if feature.shared else q
    return float((of_x * (q_x * log_x).sum(0)).sum() + (of_z * (q * (log_z - np.log(q))).sum(0)).sum())


def _or_one(weight: Any) -> Float[Array, "..."]:
    return np.asarray(1.0 if weight is None else weight, dtype=float)


# --- the programs -----------------------------------------------------------------------------------------------------


def _nodes(site: Site, feature: Feature) -> list[tuple[float, Float[Array, "..."]]]:
    """Return the draws of the guide, each with its weight."""
    shape = feature.z_shape
    if site == "normal":
        return [(0.5, np.full(shape, sign)) for sign in (-1.0, 1.0)]
    if site != "sampled":
        return [(1.0, np.zeros(shape))]
    q = special.expit(_start(site, feature)).reshape(shape)
    states = [np.reshape(state, shape) for state in itertools.product([0.0, 1.0], repeat=int(np.prod(shape)))]
    return [(float(np.where(state, q, 1 - q).prod()), state) for state in states]


def _programs(
    ppl: Handle, site: Site, feature: Feature, drawn: Mapping[Site, Callable[..., Any]], params: Callable[[], list[Any]]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the model and the guide; drawn: the distributions of the guide, which give the draws of a node."""
    dist, infer = ppl.dist, {"infer": ENUMERATE}

    def array(value: Any) -> Any:
        return ppl.array(np.asarray(value)) if np.ndim(value) else value

    def plate() -> Any:
        rows = len(feature.x)
        return ppl.plate("rows", feature.copies * rows, subsample_size=rows)

    @contextmanager
    def around(rows: Any, *, scale: float | None = None, mask: Any = None) -> Iterator[None]:
        with ExitStack() as stack:
            for each in filter(None, (feature.scale, scale)):
                stack.enter_context(ppl.scale(scale=array(each)))
            for each in filter(None, (feature.mask, mask)):
                stack.enter_context(ppl.mask(mask=array(each)))
            stack.enter_context(rows)
            yield

    def model() -> None:
        rows = plate()
        prior = dist.Normal(0.0, 1.0) if site == "normal" else dist.Bernoulli(PRIOR)
        with around(nullcontext() if feature.shared else rows, scale=feature.prior_scale):
            z = ppl.sample("z", prior, **infer if site == "enumerated in the model" else {})
        with around(rows, mask=feature.data_mask):
            ppl.sample("x", dist.Normal(z, 1.0), obs=ppl.array(np.asarray(feature.x)))

    def guide() -> None:
        if site != "enumerated in the model":
            with around(nullcontext() if feature.shared else plate(), scale=feature.prior_scale):
                ppl.sample("z", drawn[site](*params()), **infer if site == "enumerated in the guide" else {})

    return model, guide


def _split(site: Site, feature: Feature) -> list[Float[Array, "..."]]:
    """Return the parameters of the guide, each in the shape of the latent site."""
    flat = _start(site, feature)
    return list(flat.reshape(-1, *feature.z_shape)) if len(flat) else []


def _pyro(loss: str, site: Site, feature: Feature) -> Float[Array, " n"]:
    """Return the bound and its gradient by Pyro, integrated over the draws."""
    import pyro
    import pyro.infer

    ppl, start = handle("pyro"), _split(site, feature)
    options = {"num_particles": feature.particles, "max_plate_nesting": 1}
    objective = getattr(pyro.infer, loss)(**options, vectorize_particles=feature.particles > 1)

    def params() -> list[Any]:
        return [pyro.param(f"p{number}", ppl.array(value.copy())) for number, value in enumerate(start)]

    def at(node: Float[Array, "..."]) -> Float[Array, " n"]:
        pyro.clear_param_store()
        model, guide = _programs(ppl, site, feature, _drawn_by_pyro(ppl.array(node)), params)
        loss = objective.loss_and_grads(model, guide) if start else objective.loss(model, guide)
        slopes = [np.zeros(param.shape) if param.grad is None else param.grad.numpy() for param in params()]
        return -np.concatenate([[loss], *map(np.ravel, slopes)])

    return np.sum([weight * at(node) for weight, node in _nodes(site, feature)], axis=0)


def _drawn_by_pyro(draw: Any) -> dict[Site, Callable[..., Any]]:
    """Return the distributions of a guide whose noise or states are these."""
    import pyro.distributions as dist

    class Normal(dist.Normal):
        def rsample(self, sample_shape: Any = ()) -> Any:
            return self.loc + self.scale * draw

    class Bernoulli(dist.Bernoulli):
        def sample(self, sample_shape: Any = ()) -> Any:
            return draw.expand(self.batch_shape)

    def coin(logits: Any) -> Any:
        return Bernoulli(logits=logits)

    return {
        "normal": lambda loc, log_scale: Normal(loc, log_scale.exp()),
        "sampled": coin,
        "enumerated in the guide": coin,
    }


def _numpyro(loss: str, site: Site, feature: Feature) -> Float[Array, " n"]:
    """Return the bound and its gradient by NumPyro, integrated over the draws."""
    import jax
    import jax.numpy as jnp
    import numpyro.infer

    ppl, start = handle("numpyro"), _split(site, feature)
    options = {"max_plate_nesting": 1} if loss == "TraceEnum_ELBO" else {}
    objective = getattr(numpyro.infer, loss)(num_particles=feature.particles, **options)

    def bound(params: list[Any], node: Any) -> Any:
        model, guide = _programs(ppl, site, feature, _drawn_by_numpyro(node), lambda: params)
        return -objective.loss(jax.random.key(0), {}, model, guide)

    weights, nodes = map(np.array, zip(*_nodes(site, feature), strict=True))
    with jax.disable_jit():  # 130 programs that are run once: to compile each takes more than twice as long
        values, slopes = jax.vmap(jax.value_and_grad(bound), (None, 0))([jnp.asarray(each) for each in start], nodes)
    return weights @ np.column_stack([values, *(slope.reshape(len(nodes), -1) for slope in slopes)])


def _drawn_by_numpyro(draw: Any) -> dict[Site, Callable[..., Any]]:
    """Return the distributions of a guide whose noise or states are these."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    class Normal(dist.Normal):
        def sample(self, key: Any, sample_shape: Any = ()) -> Any:
            return self.loc + self.scale * draw

    class Bernoulli(dist.BernoulliLogits):
        def sample(self, key: Any, sample_shape: Any = ()) -> Any:
            return jnp.broadcast_to(draw, self.batch_shape)

    return {
        "normal": lambda loc, log_scale: Normal(loc, jnp.exp(log_scale)),
        "sampled": Bernoulli,
        "enumerated in the guide": Bernoulli,
    }
