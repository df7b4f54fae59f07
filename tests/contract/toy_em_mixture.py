"""A toy: a one-dimensional Gaussian mixture with point parameters, fitted by EM (MLE, MAP). One module, every room."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference.arrays import namespace, special
from latentzoo.models.language.contract import Params, optional
from latentzoo.models.language.ppl import ENUMERATE, Handle

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
LOSS = "enumerated"
LOCAL = ("component_logits",)
METHODS = ("em", "map")
PROOF = "expectation"


@dataclass(frozen=True)
class Spec:
    num_components: int = 2


class Data(NamedTuple):
    x: Float[Any, "rows"] = None


class Prior(NamedTuple):
    weights_concentration: Annotated[Float[Any, "num_components"], optional] = None
    loc_mean: Annotated[Float[Any, ""], optional] = None
    loc_variance: Annotated[Float[Any, ""], optional] = None


class Theta(NamedTuple):
    weights_logits: Float[Any, "num_components"]
    loc: Float[Any, "num_components"]
    log_scale: Float[Any, "num_components"]


class Phi(NamedTuple):
    component_logits: Annotated[Float[Any, "rows num_components"], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    dist = ppl.dist
    weights = ppl.parameter(
        "weights", ppl.nn.softmax(theta.weights_logits), dist.Dirichlet, prior.weights_concentration
    )
    loc = ppl.parameter("loc", theta.loc, _normals, dist, prior.loc_mean, prior.loc_variance, theta.loc)
    with ppl.rows("rows", data):
        component = ppl.sample("component", dist.Categorical(weights), infer=ENUMERATE)
        x = dist.Normal(ppl.at(loc, component), ppl.at(ppl.xp.exp(theta.log_scale), component))
        return Data(ppl.sample("x", x, obs=data.x))


def _normals(dist: Any, mean: Any, variance: Any, like: Any) -> Any:
    return dist.Normal(mean, variance**0.5).expand(like.shape).to_event(1)


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw nothing: the model enumerates its components, which is the E step; or the free q that phi holds."""
    if phi.component_logits is not None:
        with ppl.rows("rows", data):
            ppl.sample("component", ppl.dist.Categorical(logits=phi.component_logits), infer=ENUMERATE)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    return {}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    return Prior(np.arange(spec.num_components) + 1.5, np.array(0.5), np.array(4.0))


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    size = spec.num_components
    loc = rng.normal(size=size) if data.x is None else rng.choice(data.x, size)
    return Params(Theta(np.zeros(size), loc, np.zeros(size)), Phi())


class Stats(NamedTuple):
    bound: Any
    scale: Any
    count: Any
    first: Any
    second: Any


def _log_joint(theta: Theta, x: Any) -> Any:
    xp, fn = namespace(theta.loc), special(theta.loc)
    log_weights = theta.weights_logits - fn.logsumexp(theta.weights_logits)
    z = (x[:, None] - theta.loc) * xp.exp(-theta.log_scale)
    return log_weights - 0.5 * np.log(2 * np.pi) - theta.log_scale - 0.5 * z**2


def _log_resp(params: Params, log_joint: Any) -> Any:
    logits = log_joint if params.phi.component_logits is None else params.phi.component_logits
    return logits - special(logits).logsumexp(logits, axis=1, keepdims=True)


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    log_joint = _log_joint(params.theta, data.x)
    log_resp = _log_resp(params, log_joint)
    resp = namespace(log_resp).exp(log_resp)
    terms = resp * (log_joint - log_resp)
    return Stats(terms.sum(), abs(terms).sum(), resp.sum(0), data.x @ resp, (data.x**2) @ resp)


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Any:
    if prior.loc_mean is None:
        return stats.bound
    theta, fn = params.theta, special(params.theta.loc)
    log_weights = theta.weights_logits - fn.logsumexp(theta.weights_logits)
    a = prior.weights_concentration
    log_dirichlet = ((a - 1) * log_weights).sum() + fn.gammaln(a.sum()) - fn.gammaln(a).sum()
    squared = ((theta.loc - prior.loc_mean) ** 2).sum() / prior.loc_variance
    log_normal = -0.5 * (squared + spec.num_components * np.log(2 * np.pi * prior.loc_variance))
    return stats.bound + log_dirichlet + log_normal


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    theta, xp = params.theta, namespace(params.theta.loc)
    precision = xp.exp(-2 * theta.log_scale)
    centred = stats.first - stats.count * theta.loc
    squared = stats.second - 2 * theta.loc * stats.first + stats.count * theta.loc**2
    count, loc = stats.count, precision * centred
    if prior.loc_mean is not None:
        count = count + prior.weights_concentration - 1
        loc = loc - (theta.loc - prior.loc_mean) / prior.loc_variance
    weights = xp.exp(theta.weights_logits - special(theta.loc).logsumexp(theta.weights_logits))
    return Params(Theta(count - weights * count.sum(), loc, precision * squared - stats.count))


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    xp = namespace(stats.count)
    if prior.loc_mean is None:
        loc, weights = stats.first / stats.count, stats.count
    else:
        precision = xp.exp(-2 * params.theta.log_scale)
        shrunk = stats.count * precision + 1 / prior.loc_variance
        loc = (precision * stats.first + prior.loc_mean / prior.loc_variance) / shrunk
        weights = stats.count + prior.weights_concentration - 1
    squared = stats.second - 2 * loc * stats.first + stats.count * loc**2
    return Params(Theta(xp.log(weights), loc, 0.5 * xp.log(squared / stats.count)), Phi())


def local_optimum(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    return params._replace(phi=Phi(_log_resp(Params(params.theta, Phi()), _log_joint(params.theta, data.x))))


def local_gradient(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    log_joint = _log_joint(params.theta, data.x)
    log_resp = _log_resp(params, log_joint)
    resp, gap = np.exp(log_resp), log_joint - log_resp
    return Params(phi=Phi(resp * (gap - (resp * gap).sum(1, keepdims=True))))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    return None
