"""Mean field for the mixture: q(weights) prod_k q(precision[k]) q(loc[k] | precision[k]) prod_n q(component[n]).

With point parameters there is no q but that of the components, which the model sums out: EM.
"""

from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.gaussian_mixture import Data, Prior, Spec, Theta, centre, wishart_like
from latentzoo.models.language import stream
from latentzoo.models.language.contract import Params, optional
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.language.starts import some_rows, spread_rows

LOSS = "enumerated"
LOCAL = ("component_logits",)


class Phi(NamedTuple):
    """Variational parameters, all real-valued; point parameters leave all but the last out.

    weights_log_concentration: q(weights) = Dirichlet(d).
    loc_mean, loc_log_strength: q(loc[k] | precision[k]) = Normal(m_k, (beta_k precision[k])^-1).
    precision_log_shape, precision_raw_rate: of q(precision[k]), a Wishart or Gamma of shape a and rate B; the Cholesky
        factor of B, with the logarithm of its diagonal, or half the logarithm of rates. For "tied" one of each.
    component_logits: q(component[n]), up to a constant for each row; None: the optimum given all the others.
    """

    weights_log_concentration: Annotated[Float[Any, "num_components"], optional] = None
    loc_mean: Annotated[Float[Any, "num_components features"], optional] = None
    loc_log_strength: Annotated[Float[Any, "num_components"], optional] = None
    precision_log_shape: Annotated[Float[Any, "..."], optional] = None
    precision_raw_rate: Annotated[Float[Any, "..."], optional] = None
    component_logits: Annotated[Float[Any, "rows num_components"], optional] = None


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta | None, phi: Phi, spec: Spec) -> None:
    """Draw the latent variables from q."""
    dist, xp = ppl.dist, ppl.xp
    logits = phi.component_logits

    if theta is None:
        ppl.sample("weights", dist.Dirichlet(xp.exp(phi.weights_log_concentration)))
        wishart = wishart_like(ppl, xp.exp(phi.precision_log_shape), rate_of(ppl, phi, spec), spec)
        strength = xp.exp(phi.loc_log_strength).reshape(-1, *(1,) * len(wishart.event_shape))
        if spec.covariance_type == "tied":
            precision = ppl.sample("precision", wishart)
        with ppl.plate("components", spec.num_components):
            if spec.covariance_type != "tied":
                precision = ppl.sample("precision", wishart)
            ppl.sample("loc", centre(ppl, phi.loc_mean, strength, precision, spec))
        if logits is None:
            logits = optimal_component_logits(ppl, data, phi, spec)

    if logits is not None:
        with ppl.rows("rows", data):
            ppl.sample("component", dist.Categorical(logits=logits), infer=ENUMERATE)


def rate_of(ppl: Handle, phi: Phi, spec: Spec) -> Any:
    """Return the rate B of q(precision)."""
    if not spec.is_matrix:
        return ppl.xp.exp(2.0 * phi.precision_raw_rate)
    factor = ppl.nn.cholesky(phi.precision_raw_rate)
    return factor @ ppl.xp.swapaxes(factor, -1, -2)


def optimal_component_logits(ppl: Handle, data: Data, phi: Phi, spec: Spec) -> Any:
    """Return E_q[log p(x[n], component[n] = k | globals)] up to constants, (rows, components).

    What is not observed adds nothing: where nothing is, the same logits serve every row.
    """
    xp, digamma = ppl.xp, ppl.nn.digamma
    logits = digamma(xp.exp(phi.weights_log_concentration))  # up to psi(sum), the same for every k
    if data.x is None:
        return logits
    size = phi.loc_mean.shape[-1]
    shape, raw = xp.exp(phi.precision_log_shape), phi.precision_raw_rate
    offset = data.x[..., None, :] - phi.loc_mean
    if spec.is_matrix:
        halves = ppl.array(np.arange(size) / 2.0)
        log_det = digamma(shape[..., None] - halves).sum(-1) - 2.0 * xp.diagonal(raw, 0, -2, -1).sum(-1)
        scaled = xp.linalg.inv(ppl.nn.cholesky(raw)) @ offset[..., None]
        squared = shape * (scaled[..., 0] ** 2).sum(-1)
    elif spec.covariance_type == "diag":
        log_det = size * digamma(shape) - 2.0 * raw.sum(-1)
        squared = shape * (offset**2 * xp.exp(-2.0 * raw)).sum(-1)
    else:
        log_det = size * (digamma(shape) - 2.0 * raw)
        squared = shape * xp.exp(-2.0 * raw) * (offset**2).sum(-1)
    return logits + (log_det - size * xp.exp(-phi.loc_log_strength) - squared) / 2.0


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at rows far from one another (k-means++ seeding), as wide as the rows are around the nearest of them.

    Raises
    ------
    UserError: there are more components than rows; a column is constant; the prior has no mode, or no density.
    """
    _check(np.asarray(data.x), prior, spec, point)
    x = some_rows(np.asarray(data.x), rng)
    spread = np.sqrt(stream.variance(data.x))
    centres = spread_rows(x / spread, spec.num_components, rng) * spread
    nearest = np.full(len(x), np.inf)
    variance = np.zeros(x.shape[1])
    total = np.zeros_like(x)
    for each in centres:  # a column at a time: no (rows, components) array
        squared = ((x - each) / spread) ** 2
        closer = squared.sum(1) < nearest
        nearest, total = np.where(closer, squared.sum(1), nearest), np.where(closer[:, None], squared, total)
    variance = spread**2 * np.maximum(total.mean(0), 1.0 / spec.num_components**2 / 4.0)
    return _theta(centres, variance, spec) if point else _phi(centres, variance, len(data.x), prior, spec)


def _theta(centres: np.ndarray, variance: np.ndarray, spec: Spec) -> Params:
    theta = Theta(np.zeros(spec.num_components), centres, _raw(np.zeros(spec.num_components), variance, spec))
    return Params(theta=theta, phi=Phi())


def _phi(centres: np.ndarray, variance: np.ndarray, num_rows: int, prior: Prior, spec: Spec) -> Params:
    """Return the parameters of q as if each component had seen an equal share of the rows."""
    size, share = spec.num_components, num_rows / spec.num_components
    shape = np.full(size, np.log(prior.precision_shape + 0.5 * share))
    log_shape = shape[0] * np.ones(()) if spec.covariance_type == "tied" else shape
    return Params(
        phi=Phi(
            weights_log_concentration=np.log(prior.weights_concentration + share),
            loc_mean=centres,
            loc_log_strength=np.full(size, np.log(prior.loc_strength + share)),
            precision_log_shape=log_shape,
            precision_raw_rate=_raw(0.5 * shape, variance, spec),
        )
    )


def _raw(offset: np.ndarray, variance: np.ndarray, spec: Spec) -> np.ndarray:
    """Return the raw square root of a diagonal matrix of variances for each component, times exp(offset)."""
    if spec.covariance_type == "spherical":
        return offset + 0.5 * np.log(variance.mean())
    each = offset[:, None] + 0.5 * np.log(variance)
    if spec.covariance_type == "diag":
        return each
    return np.diag(each[0]) if spec.covariance_type == "tied" else each[:, None, :] * np.eye(len(variance))


def _check(x: np.ndarray, prior: Prior, spec: Spec, point: bool) -> None:
    num_rows, size = x.shape
    if spec.num_components > num_rows:
        raise UserError(f"num_components is {spec.num_components}: there are {num_rows} rows, take at most as many")
    if (constant := np.flatnonzero(np.ptp(x, axis=0) == 0.0)).size:
        column, value = constant[0], x[0, constant[0]]
        raise UserError(f"data.x: column {column} is {value:g} in every row: it has no variance, leave it out")
    if prior.precision_shape is None:
        return
    least = {"full": size - 1, "tied": size - 1, "diag": 0, "spherical": 0}[spec.covariance_type] / 2.0
    if point:
        low = float(np.min(prior.weights_concentration))
        if low < 1.0:
            raise UserError(f"prior.weights_concentration is {low:g}: 'map' has a mode from 1 on")
        tied = max(size - 1, size + 1 - spec.num_components)
        least = {"full": size, "tied": tied, "diag": 1, "spherical": max(0, 2 - size)}[spec.covariance_type] / 2.0
    if prior.precision_shape <= least:
        raise UserError(f"prior.precision_shape is {prior.precision_shape:g}: it must be above {least:g} here")
