"""EM, MAP and CAVI for the Gaussian mixture: hand-derived bounds, gradients and updates. Numbers are this file's own.

Symbols: pi, mu_k, Lambda_k, Sigma_k = Lambda_k^-1 of the model; d_k, m_k, beta_k, a_k, B_k of q, where q(precision) has
shape a and rate B (`inference/precision.py`); with index 0 those of the prior. D features. Expectations under q:

    (1)  E log pi_k       = psi(d_k) - psi(sum d)
    (2)  E Lambda_k       = a_k B_k^-1
    (3)  E log |Lambda_k| = psi_n(a_k) - log |B_k|
    (4)  E (x - mu_k)' Lambda_k (x - mu_k) = D / beta_k + (x - m_k)' E[Lambda_k] (x - m_k)

With point parameters these are the values themselves, and D / beta is 0. "spherical" counts log |Lambda| D times.
Bishop (2006): EM 9.2, variational 10.2 with nu = 2 a, W^-1 = 2 B.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.guides.gaussian_mixture import Phi
from latentzoo.inference.arrays import namespace, special
from latentzoo.inference.conjugate import dirichlet_gradient, logits_gradient, mean_assignment
from latentzoo.inference.divergences import kl_dirichlet
from latentzoo.inference.kernels.mixture import mixture_sums
from latentzoo.inference.kernels.moments import Moments, features
from latentzoo.inference.normal_wishart import (
    NOTHING,
    Block,
    about,
    expected_log_det,
    expected_log_ratio,
    expected_precision,
    gradient,
    log_density,
    posterior,
    power,
    spread,
)
from latentzoo.inference.precision import FORMS
from latentzoo.inference.tables import aligned
from latentzoo.models.gaussian_mixture import Data, Prior, Spec, Theta
from latentzoo.models.language import stream
from latentzoo.models.language.contract import Params
from latentzoo.models.readers.table import names_of

METHODS = ("em", "map", "cavi", "svi", "nuts")
PROOF = "expectation"
LEAST_VARIANCE = 1e-12  # of that of the data: an update of EM keeps every variance above it
COLLAPSED = 10.0  # times that: a component so narrow has collapsed

Array = Any


class Stats(NamedTuple):
    """Sums over rows, with r the responsibilities: those of two sets of rows add up to those of their union.

    bound: sum_n sum_k r_nk (E log p(x_n, z_n = k | globals) - log r_nk), every constant kept.
    scale: a bound on the sum of the absolute terms of the bound; rounding is a multiple of it.
    count, first, second: sums of r_nk times 1, x_n - c and what (x_n - c)' Lambda (x_n - c) is linear in, where c is
    the mean of the centres of the params that the sums were made with.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    count: Float[Array, "components"]
    first: Float[Array, "components features"]
    second: Float[Array, "components ..."]


class Expected(NamedTuple):
    """What the bound needs of the globals, equations (1) to (4), with a leading axis of components or of one."""

    log_weights: Float[Array, "components"]
    loc: Float[Array, "components features"]
    precision: Float[Array, "..."]
    log_det: Float[Array, "..."]
    blur: Float[Array, "components"]


def expected(params: Params, spec: Spec) -> Expected:
    """Return the expectations (1) to (4), those of point parameters being their values."""
    form, theta, phi = FORMS[spec.covariance_type], params.theta, params.phi
    if theta is not None:
        covariance = form.square(theta.raw_scale)
        log_weights = special(theta.loc).log_softmax(theta.weights_logits, axis=0)
        log_det = -form.log_det(covariance)
        return Expected(log_weights, theta.loc, form.inverse(covariance), log_det, 0.0 * log_weights)
    block, fn = block_of(phi, spec), special(phi.loc_mean)
    concentration = namespace(phi.loc_mean).exp(phi.weights_log_concentration)
    return Expected(
        log_weights=fn.digamma(concentration) - fn.digamma(concentration.sum()),  # (1)
        loc=block.loc,
        precision=expected_precision(form, block),  # (2)
        log_det=expected_log_det(form, block),  # (3)
        blur=block.loc.shape[-1] / block.strength,  # (4)
    )


def block_of(phi: Phi, spec: Spec) -> Block:
    """Return q(loc, precision)."""
    xp, form = namespace(phi.loc_mean), FORMS[spec.covariance_type]
    rate = form.square(phi.precision_raw_rate)
    return Block(xp.exp(phi.loc_log_strength), phi.loc_mean, xp.exp(phi.precision_log_shape), rate)


def prior_block(prior: Prior) -> Block | None:
    """Return p(loc, precision), None where there is no prior."""
    if prior.loc_mean is None:
        return None
    return Block(prior.loc_strength, prior.loc_mean, prior.precision_shape, prior.precision_rate)


# --- the E step -----------------------------------------------------------------------------------------------------


def moments(data: Data, centre: Float[Array, "features"], spec: Spec) -> Moments:
    """Return the sufficient statistics of the rows: 1, x - centre, and what its square under Lambda is linear in."""
    return Moments(data.x, centre, FORMS[spec.covariance_type].quadratic)


def natural_parameters(point: Expected, centre: Array, spec: Spec) -> Float[Array, "p components"]:
    """Return W, for which W' times the features of `moments` is E log p(x, z = k | globals):

    (5)  E log pi - D/2 log 2 pi + 1/2 E log |Lambda| - 1/2 E (x - mu)' Lambda (x - mu)
    """
    form, xp = FORMS[spec.covariance_type], namespace(point.loc)
    offset, size = point.loc - centre, point.loc.shape[-1]
    slopes = form.apply(form.each(point.precision), offset)
    squared = (offset * slopes).sum(-1) + point.blur
    log_det = form.copies(size) * point.log_det
    constant = point.log_weights + (log_det - squared - size * np.log(2.0 * np.pi)) / 2.0
    quadratic = form.pack(form.each(point.precision)) + 0.0 * constant
    return xp.concatenate([constant[None], slopes.T, -0.5 * quadratic])


def _centre(params: Params) -> Float[Array, "features"]:
    """Return the mean of the centres: rows are measured from there, where the logits that compete are smallest."""
    return (params.phi.loc_mean if params.theta is None else params.theta.loc).mean(0)


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the expected statistics of the rows under q(component), free or at its optimum."""
    centre, form, size = _centre(params), FORMS[spec.covariance_type], data.x.shape[1]
    point = expected(params, spec)
    natural = natural_parameters(point, centre, spec)
    rows = moments(data, centre, spec)
    if params.phi.component_logits is None:
        bound, sums = mixture_sums(rows, natural)
    else:
        log_resp = special(natural).log_softmax(params.phi.component_logits, axis=1)
        resp, feature = namespace(natural).exp(log_resp), features(rows)
        bound, sums = (resp * (feature.T @ natural - log_resp)).sum(), feature @ resp
    # The term linear in x is smaller than the mean of those in mu' Lambda mu and x' Lambda x; the entropy than log K.
    constant = abs(natural[0]) + ((point.loc - centre) * natural[1 : size + 1].T).sum(1) + np.log(spec.num_components)
    scale = constant @ sums[0] - 2.0 * (natural[size + 1 :] * sums[size + 1 :]).sum()
    return Stats(bound, scale, sums[0], sums[1 : size + 1].T, form.unpack(sums[size + 1 :], size))


# --- the bound ------------------------------------------------------------------------------------------------------


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return the evidence lower bound, in nats, every constant kept: (6) bound - KL(q(globals) || p(globals)).

    Of point parameters it is log p(x | theta) + log p(theta), and the log likelihood where the prior is left out; the
    density is that of weights, centres and precisions.
    """
    form, base = FORMS[spec.covariance_type], prior_block(prior)
    if base is None:
        return stats.bound
    alpha = prior.weights_concentration
    if params.theta is None:
        concentration = namespace(alpha).exp(params.phi.weights_log_concentration)
        ratio = expected_log_ratio(form, block_of(params.phi, spec), base)
        return stats.bound + ratio - kl_dirichlet(concentration, alpha)
    point, fn = expected(params, spec), special(params.theta.loc)
    weights = ((alpha - 1.0) * point.log_weights).sum() + fn.gammaln(alpha.sum()) - fn.gammaln(alpha).sum()
    return stats.bound + weights + log_density(form, base, point.loc, point.precision)


# --- updates and gradients ------------------------------------------------------------------------------------------


def target(stats: Stats, centre: Array, prior: Prior, spec: Spec) -> Block:
    """Return what rows and prior ask of the centres and precisions, (7) to (9) of `inference/normal_wishart.py`."""
    base = prior_block(prior)
    # The sums are about the centre, and so is what they are added to.
    base = None if base is None else base._replace(loc=base.loc - centre)
    goal = posterior(FORMS[spec.covariance_type], stats.count, stats.first, stats.second, base)
    return goal._replace(loc=goal.loc + centre)


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the parameters after one exact update of all globals together: q as `target` has it, or the mode

    (7)  pi_k = (N_k + d0_k - 1) / sum,   mu_k = m_k,   Sigma_k = B_k / (the power of |Lambda_k|)

    An empty component keeps its centre and its covariance, where there is no prior.
    """
    form, xp = FORMS[spec.covariance_type], namespace(stats.count)
    goal = target(stats, _centre(params), prior, spec)
    if params.theta is None:
        return Params(
            phi=Phi(
                weights_log_concentration=xp.log(prior.weights_concentration + stats.count),
                loc_mean=goal.loc,
                loc_log_strength=xp.log(goal.strength),
                precision_log_shape=xp.log(goal.shape),
                precision_raw_rate=form.raw(goal.rate),
            )
        )
    weights = stats.count if prior.loc_mean is None else stats.count + prior.weights_concentration - 1.0
    loc = xp.where((goal.strength <= NOTHING)[:, None], params.theta.loc, goal.loc)
    raw_scale = form.raw(_covariance(goal, stats, params, prior, spec))
    log_weights = xp.log(xp.maximum(weights, NOTHING)) - xp.log(weights.sum())
    return Params(theta=Theta(log_weights, loc, raw_scale), phi=Phi())


def _covariance(goal: Block, stats: Stats, params: Params, prior: Prior, spec: Spec) -> Array:
    """Return the covariances of (7), kept above a floor where there is no prior to do so."""
    form, xp = FORMS[spec.covariance_type], namespace(stats.count)
    by = power(form, goal, prior_block(prior))
    if prior.loc_mean is not None:
        return goal.rate / spread(by, goal.rate)
    fitted = goal.rate / spread(xp.maximum(by, NOTHING), goal.rate)
    # The likelihood is unbounded: with variances at least so large it is not, and this is its exact maximum.
    fitted, _ = form.floored(fitted, LEAST_VARIANCE * _total_variance(stats))
    fitted = fitted + spec.reg_covar * form.square(0.0 * params.theta.raw_scale)
    return xp.where(spread(by > NOTHING, fitted), fitted, form.square(params.theta.raw_scale))


def _total_variance(stats: Stats) -> Float[Array, "features"]:
    """Return the variance of each feature over all rows, or of all together where one number serves all."""
    total, xp = stats.count.sum(), namespace(stats.count)
    mean, second = stats.first.sum(0) / total, stats.second.sum(0) / total
    if second.ndim == 0:
        return (second - (mean**2).sum()) / len(mean) + 0.0 * mean
    return (xp.diagonal(second) if second.ndim == 2 else second) - mean**2


def inexact(spec: Spec) -> bool:
    """Return whether an update may lower the likelihood: what `reg_covar` adds is not of its maximum."""
    return spec.reg_covar > 0.0


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by every global parameter, from the same statistics.

    With q(component) free it is the partial derivative; at its optimum that is the total one (envelope theorem).
    """
    goal = target(stats, _centre(params), prior, spec)
    if params.theta is not None:
        return Params(theta=_gradient_at_points(goal, stats, params, prior, spec), phi=Phi())
    form, phi, block = FORMS[spec.covariance_type], params.phi, block_of(params.phi, spec)
    by, weights = gradient(form, block, goal), prior.weights_concentration + stats.count
    return Params(
        phi=Phi(
            weights_log_concentration=dirichlet_gradient(weights, phi.weights_log_concentration),
            loc_mean=by.loc,
            loc_log_strength=block.strength * by.strength,
            precision_log_shape=block.shape * by.shape,
            precision_raw_rate=form.pull_back(by.rate, phi.precision_raw_rate),
        )
    )


def _gradient_at_points(goal: Block, stats: Stats, params: Params, prior: Prior, spec: Spec) -> Theta:
    """Return the gradient by theta: (8) by Sigma it is Lambda B Lambda - (the power of |Lambda|) Lambda, B about mu."""
    form, theta, point = FORMS[spec.covariance_type], params.theta, expected(params, spec)
    wide, by = about(form, goal, theta.loc), power(form, goal, prior_block(prior))
    by_covariance = form.sandwich(point.precision, wide) - spread(by, wide) * point.precision
    weights = stats.count if prior.loc_mean is None else stats.count + prior.weights_concentration - 1.0
    return Theta(
        weights_logits=weights - namespace(weights).exp(point.log_weights) * weights.sum(),
        loc=form.apply(form.each(point.precision), goal.strength[:, None] * (goal.loc - theta.loc)),
        raw_scale=form.pull_back(by_covariance, theta.raw_scale),
    )


# --- rows -----------------------------------------------------------------------------------------------------------


def log_joint(point: Expected, data: Data, spec: Spec) -> Float[Array, "rows components"]:
    """Return (5) for each row and component."""
    centre = point.loc.mean(0)
    return features(moments(data, centre, spec)).T @ natural_parameters(point, centre, spec)


def local_optimum(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the params with q(component) at its optimum written out: log responsibilities, (rows, components)."""
    logits = log_joint(expected(params, spec), data, spec)
    return params._replace(phi=params.phi._replace(component_logits=special(logits).log_softmax(logits, axis=1)))


def local_gradient(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by the free logits of q(component)."""
    joint = log_joint(expected(params, spec), data, spec)
    return Params(phi=Phi(component_logits=logits_gradient(joint, params.phi.component_logits)))


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return q(component) of each row as probabilities, and the most probable component."""
    resp = np.exp(local_optimum(params, data, prior, spec).phi.component_logits)
    return {"responsibilities": resp, "component": resp.argmax(1)}


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return p(component | row, globals) as probabilities, its mean over draws, and the most probable component."""
    each = ({site: values[index] for site, values in draws.items()} for index in range(len(draws["loc"])))
    return mean_assignment(log_joint(_at(latents, spec), data, spec) for latents in each)


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows"]:
    """Return log p(x[n] | globals) of each row at given globals, the component summed out."""
    joint = log_joint(_at(latents, spec), data, spec)
    return special(joint).logsumexp(joint, axis=1)


def _at(latents: dict[str, Array], spec: Spec) -> Expected:
    """Return the globals of a draw as point parameters are."""
    weights, precision = latents["weights"], latents["precision"]
    log_det = FORMS[spec.covariance_type].log_det(precision)
    return Expected(namespace(weights).log(weights), latents["loc"], precision, log_det, 0.0 * weights)


def log_predictive(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return log E_q p(x[n] | globals) of each row: a mixture of Students (Bishop, 2006, 10.81), or of Gaussians."""
    if params.theta is not None:
        joint = log_joint(expected(params, spec), data, spec)
        return special(joint).logsumexp(joint, axis=1)
    block = block_of(params.phi, spec)
    offset = data.x[:, None, :] - block.loc
    students = FORMS[spec.covariance_type].log_student(block.shape, block.rate, block.strength, offset)
    log_weights = special(students).log_softmax(params.phi.weights_log_concentration, axis=0)  # E pi_k = d_k / sum d
    return special(students).logsumexp(students + log_weights, axis=1)


# --- what a user is told --------------------------------------------------------------------------------------------


def flaw(params: Params, data: Data, prior: Prior, spec: Spec) -> str:
    """Return which component has collapsed: with a variance at the floor, its likelihood is as high as one likes."""
    if params.theta is None or prior.loc_mean is not None:
        return ""
    form = FORMS[spec.covariance_type]
    ratio = form.floored(form.square(params.theta.raw_scale), LEAST_VARIANCE * stream.variance(data.x))[1]
    narrow = np.flatnonzero(np.atleast_1d(ratio) < COLLAPSED)
    if not narrow.size:
        return ""
    which = "the covariance" if spec.covariance_type == "tied" else f"component {narrow[0]}"
    return (
        f"{which} has collapsed on rows that are all alike, where the likelihood has no bound: "
        "take method='map', fewer components, reg_covar, or more restarts"
    )


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return the information criteria of point parameters: of two models of the same data the lower is the better."""
    if params.theta is None:
        return {}
    size, num = data.x.shape[1], spec.num_components
    each = {"full": num * size * (size + 1) // 2, "tied": size * (size + 1) // 2, "diag": num * size, "spherical": num}
    number = num - 1 + num * size + each[spec.covariance_type]
    return {
        "num_parameters": float(number),
        "bic": float(number * np.log(len(data.x)) - 2.0 * log_density),
        "aic": 2.0 * number - 2.0 * log_density,
    }


def describe(params: Params, data: Data | None, spec: Spec) -> str:
    """Return a line for each component, the largest first: weight, centre and standard deviations."""
    form, point = FORMS[spec.covariance_type], expected(params, spec)
    weights = special(point.log_weights).log_softmax(point.log_weights, axis=0)
    variance = form.inverse(point.precision)
    diagonal = np.diagonal(variance, axis1=-2, axis2=-1) if spec.is_matrix else variance
    columns = diagonal[:, None] if spec.covariance_type == "spherical" else diagonal
    widths = np.sqrt(np.broadcast_to(columns, point.loc.shape))
    shown = min(point.loc.shape[1], 6)
    head = ["component", "weight", *names_of(data, point.loc.shape[1])[:shown]]
    rows = [
        [str(k), f"{np.exp(weights[k]):.4f}", *(f"{point.loc[k, i]:.4g} ± {widths[k, i]:.2g}" for i in range(shown))]
        for k in np.argsort(-weights)
    ]
    return "\n".join(aligned([head], rows))
