"""CAVI for the super-epicentres: hand-derived bound, gradient and updates. Equation numbers are this file's own.

Symbols: m_k, v_k = loc_mean, exp(2 loc_log_scale); a_k, b_k of q(rate); c, d of q(noise_variance); e_k of q(weights);
nu, rho, tau, alpha, beta, pi as in `models/earthquakes.py`; psi is digamma. Expectations under q:

    (1)  E log pi_k    = psi(e_k) - psi(sum e)           or  log pi_k
    (2)  E 1/tau_k     = c_k / d_k                       or  1/tau
    (3)  E log tau_k   = log d_k - psi(c_k)              or  log tau
    (4)  E log lambda_k = psi(a_k) - log b_k
    (5)  E lambda_k    = a_k / b_k
    (6)  E |x - mu_k|^2 = |x - m_k|^2 + 2 v_k
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.guides.earthquakes import Phi
from latentzoo.inference.arrays import namespace, special
from latentzoo.inference.conjugate import dirichlet_gradient, gamma_gradient, logits_gradient, mean_assignment
from latentzoo.inference.divergences import kl_dirichlet, kl_gamma, kl_isotropic_normal
from latentzoo.inference.kernels.mixture import mixture_sums
from latentzoo.inference.kernels.moments import Moments, features
from latentzoo.models.earthquakes import Data, Prior, Spec
from latentzoo.models.language.contract import Params

METHODS = ("cavi", "svi", "nuts")
PROOF = "expectation"

Array = Any


class Stats(NamedTuple):
    """Sums over events, with r the responsibilities: those of two sets of events add up to those of their union.

    bound: sum_n sum_k r_nk (E log p(x_n, s_n, z_n = k | globals) - log r_nk), every constant kept.
    count, location, squared, strength: sums of r_nk times 1, x_n - nu, |x_n - nu|^2 and s_n. Moments are about the
    prior's loc_mean, which is where the data are and does not move with the parameters.
    scale: a bound on the sum of the absolute terms of the bound; rounding is a multiple of it.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    count: Float[Array, "components"]
    location: Float[Array, "components 2"]
    squared: Float[Array, "components"]
    strength: Float[Array, "components"]


class Expected(NamedTuple):
    """What the bound needs of q(globals), equations (1) to (5); noise has a value for each component."""

    log_weights: Float[Array, "components"]
    precision: Float[Array, "components"]
    log_noise: Float[Array, "components"]
    log_rate: Float[Array, "components"]
    rate: Float[Array, "components"]


def expected(phi: Phi, prior: Prior) -> Expected:
    """Return the expectations (1) to (5)."""
    xp, fn = namespace(phi.loc_mean), special(phi.loc_mean)
    each = xp.zeros_like(phi.loc_log_scale)
    if phi.weights_log_concentration is None:
        log_weights = xp.log(prior.weights) + each
    else:
        concentration = xp.exp(phi.weights_log_concentration)
        log_weights = fn.digamma(concentration) - fn.digamma(concentration.sum())  # (1)
    if phi.noise_log_shape is None:
        precision, log_noise = 1.0 / prior.noise_variance, xp.log(prior.noise_variance)
    else:
        precision = xp.exp(phi.noise_log_shape - phi.noise_log_rate)  # (2)
        log_noise = phi.noise_log_rate - fn.digamma(xp.exp(phi.noise_log_shape))  # (3)
    log_rate = fn.digamma(xp.exp(phi.rate_log_shape)) - phi.rate_log_rate  # (4)
    rate = xp.exp(phi.rate_log_shape - phi.rate_log_rate)  # (5)
    return Expected(log_weights, precision + each, log_noise + each, log_rate, rate)


# --- the E step -----------------------------------------------------------------------------------------------------


def moments(data: Data, centre: Float[Array, "2"]) -> Moments:
    """Return the sufficient statistics of events: 1, x, y, x^2 + y^2, s, the coordinates measured from a centre."""
    return Moments(data.location, centre, "length", more=data.strength[:, None])


def natural_parameters(point: Expected, mean: Array, variance: Array, centre: Array) -> Float[Array, "5 components"]:
    """Return W, for which W' times the features of `moments` is E log p(x, s, z = k | globals) + log s!.

    mean, variance: m_k and v_k. centre: the one of `moments`. By (6) the logit of k is

        (7)  E log pi - log 2 pi - E log tau - E[1/tau] (|x - m|^2 + 2 v) / 2 + s E log lambda - E lambda
    """
    xp = namespace(mean)
    offset = mean - centre
    squared = (offset**2).sum(-1) + 2.0 * variance
    constant = point.log_weights - np.log(2.0 * np.pi) - point.log_noise - point.precision * squared / 2.0
    slopes = point.precision[:, None] * offset
    return xp.stack([constant - point.rate, slopes[:, 0], slopes[:, 1], -point.precision / 2.0, point.log_rate])


def log_factorials(counts: Float[Array, "events"]) -> Array:
    """Return the sum of log s!, through the histogram of the counts where they are small enough to have one."""
    xp, fn = namespace(counts), special(counts)
    if xp is np and counts.max() < 2**16:
        histogram = np.bincount(counts.astype(np.intp))
        return histogram @ fn.gammaln(np.arange(histogram.size) + 1.0)
    return fn.gammaln(counts + 1.0).sum()


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the expected statistics of the events under q(component), free or at its optimum."""
    phi = params.phi
    # The coordinates are centred between the components, where the logits that compete are smallest.
    centre = phi.loc_mean.mean(0)
    xp, point, events = namespace(phi.loc_mean), expected(phi, prior), moments(data, centre)
    natural = natural_parameters(point, phi.loc_mean, xp.exp(2.0 * phi.loc_log_scale), centre)
    if phi.component_logits is None:
        # The counts are centred, too: the Poisson terms at a rate between the components are the same for all of them.
        nothing = xp.zeros_like(centre)
        common = xp.stack([-point.rate.mean(), *nothing, nothing[0], point.log_rate.mean()])
        bound, sums = mixture_sums(events, natural - common[:, None])
        bound = bound + (common @ sums).sum()
    else:
        bound, sums = _free_sums(features(events), natural, phi.component_logits)
    count, location, squared = sums[0], sums[1:3].T, sums[3]
    shift = centre - prior.loc_mean
    base_measure = log_factorials(data.strength)
    constant, curvature, slope = abs(natural[0]), abs(natural[3]), abs(natural[4])
    about_prior = squared + 2.0 * location @ shift + count * (shift @ shift)
    return Stats(
        bound=bound - base_measure,
        # The terms linear in x are smaller than those in 1 and x^2 together.
        scale=2.0 * (constant * count + curvature * (squared + about_prior)).sum() + slope @ sums[4] + base_measure,
        count=count,
        location=location + count[:, None] * shift,
        squared=about_prior,
        strength=sums[4],
    )


def _free_sums(feature: Array, natural: Array, logits: Array) -> tuple[Array, Array]:
    """Return the bound and the statistics at given, not optimal, responsibilities."""
    xp = namespace(logits)
    log_resp = special(logits).log_softmax(logits, axis=1)
    resp = xp.exp(log_resp)
    return (resp * (feature.T @ natural - log_resp)).sum(), feature @ resp


# --- the bound, its gradient, and the M step ------------------------------------------------------------------------


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return the evidence lower bound, in nats, every constant kept: (8) bound - KL(q(globals) || p(globals))."""
    phi, xp = params.phi, namespace(params.phi.loc_mean)
    variance = xp.exp(2.0 * phi.loc_log_scale)
    total = stats.bound - kl_isotropic_normal(phi.loc_mean, variance, prior.loc_mean, prior.loc_variance).sum()
    shape, rate = xp.exp(phi.rate_log_shape), xp.exp(phi.rate_log_rate)
    total = total - kl_gamma(shape, rate, prior.strength_shape, prior.strength_rate).sum()
    if phi.weights_log_concentration is not None:
        total = total - kl_dirichlet(xp.exp(phi.weights_log_concentration), prior.weights_concentration)
    if phi.noise_log_shape is not None:
        shape, rate = xp.exp(phi.noise_log_shape), xp.exp(phi.noise_log_rate)
        total = total - kl_gamma(shape, rate, prior.noise_shape, prior.noise_rate).sum()
    return total


def squared_distance(stats: Stats, mean: Array, variance: Array, prior: Prior) -> Float[Array, "components"]:
    """Return (9) D_k = sum_n r_nk (|x_n - m_k|^2 + 2 v_k), from moments about nu."""
    offset = mean - prior.loc_mean
    inner = (offset * stats.location).sum(-1)
    return stats.squared - 2.0 * inner + stats.count * ((offset**2).sum(-1) + 2.0 * variance)


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by every global parameter of phi, from the same statistics.

    With q(component) free it is the partial derivative; at its optimum that is the total one (envelope theorem).
    """
    phi, xp = params.phi, namespace(params.phi.loc_mean)
    precision = expected(phi, prior).precision
    variance = xp.exp(2.0 * phi.loc_log_scale)
    offset = phi.loc_mean - prior.loc_mean
    loc_mean = precision[:, None] * (stats.location - stats.count[:, None] * offset) - offset / prior.loc_variance
    loc_log_scale = 2.0 - 2.0 * variance * (stats.count * precision + 1.0 / prior.loc_variance)

    shape, rate = prior.strength_shape + stats.strength, prior.strength_rate + stats.count
    rate_log_shape, rate_log_rate = gamma_gradient(shape, rate, phi.rate_log_shape, phi.rate_log_rate)

    weights_log_concentration = noise_log_shape = noise_log_rate = None
    if phi.weights_log_concentration is not None:
        weights_log_concentration = dirichlet_gradient(
            prior.weights_concentration + stats.count, phi.weights_log_concentration
        )
    if phi.noise_log_shape is not None:
        shape, rate = _noise_target(stats, phi.loc_mean, variance, prior, spec)
        noise_log_shape, noise_log_rate = gamma_gradient(shape, rate, phi.noise_log_shape, phi.noise_log_rate)
    return Params(
        phi=Phi(
            loc_mean,
            loc_log_scale,
            rate_log_shape,
            rate_log_rate,
            weights_log_concentration,
            noise_log_shape,
            noise_log_rate,
        )
    )


def _noise_target(stats: Stats, mean: Array, variance: Array, prior: Prior, spec: Spec) -> tuple[Array, Array]:
    """Return (10) c = c0 + N_k, d = d0 + D_k / 2 (two dimensions); a shared noise sums over k."""
    count, distance = stats.count, squared_distance(stats, mean, variance, prior)
    if spec.noise == "shared":
        count, distance = count.sum(), distance.sum()
    return prior.noise_shape + count, prior.noise_rate + distance / 2.0


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the parameters after one exact update of each global block in turn, each given those before it.

    (11)  1/v_k = N_k E[1/tau_k] + 1/rho
    (12)  m_k - nu = v_k E[1/tau_k] sum_n r_nk (x_n - nu)
    (13)  a_k = alpha + sum_n r_nk s_n,  b_k = beta + N_k
    (14)  e_k = e0_k + N_k
    """
    phi, xp = params.phi, namespace(params.phi.loc_mean)
    precision = expected(phi, prior).precision
    variance = 1.0 / (stats.count * precision + 1.0 / prior.loc_variance)  # (11)
    loc_mean = prior.loc_mean + (variance * precision)[:, None] * stats.location  # (12)
    weights_log_concentration = noise_log_shape = noise_log_rate = None
    if phi.weights_log_concentration is not None:
        weights_log_concentration = xp.log(prior.weights_concentration + stats.count)  # (14)
    if phi.noise_log_shape is not None:
        shape, rate = _noise_target(stats, loc_mean, variance, prior, spec)  # (10)
        noise_log_shape, noise_log_rate = xp.log(shape), xp.log(rate)
    return Params(
        phi=Phi(
            loc_mean=loc_mean,
            loc_log_scale=0.5 * xp.log(variance),
            rate_log_shape=xp.log(prior.strength_shape + stats.strength),  # (13)
            rate_log_rate=xp.log(prior.strength_rate + stats.count),
            weights_log_concentration=weights_log_concentration,
            noise_log_shape=noise_log_shape,
            noise_log_rate=noise_log_rate,
        )
    )


# --- local variables and densities ----------------------------------------------------------------------------------


def expected_logits(point: Expected, mean: Array, variance: Array, data: Data) -> Float[Array, "events components"]:
    """Return (7) for each event: E log p(x_n, s_n, z_n = k | globals) + log s_n!."""
    centre = mean.mean(0)
    return features(moments(data, centre)).T @ natural_parameters(point, mean, variance, centre)


def local_optimum(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the params with q(component) at its optimum written out: log responsibilities, (events, components)."""
    phi = params.phi
    variance = namespace(phi.loc_mean).exp(2.0 * phi.loc_log_scale)
    logits = expected_logits(expected(phi, prior), phi.loc_mean, variance, data)
    log_resp = special(logits).log_softmax(logits, axis=1)
    return Params(phi=phi._replace(component_logits=log_resp))


def local_gradient(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by the free logits of q(component)."""
    joint = local_optimum(params, data, prior, spec).phi.component_logits  # up to a constant of each event
    empty = Phi(*(None,) * len(Phi._fields))
    return Params(phi=empty._replace(component_logits=logits_gradient(joint, params.phi.component_logits)))


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return q(component) of each event as probabilities, and the most probable component."""
    resp = np.exp(local_optimum(params, data, prior, spec).phi.component_logits)
    return {"responsibilities": resp, "component": resp.argmax(1)}


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return p(component | event, globals) as probabilities, its mean over draws, and the most probable component."""
    each = ({site: values[index] for site, values in draws.items()} for index in range(len(draws["loc"])))
    return mean_assignment(log_joint(latents, data, prior) for latents in each)


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "events"]:
    """Return log p(location[n], strength[n] | globals) of each event at given globals, the component summed out."""
    fn = special(latents["loc"])
    return fn.logsumexp(log_joint(latents, data, prior), axis=1) - fn.gammaln(data.strength + 1.0)


def log_joint(latents: dict[str, Array], data: Data, prior: Prior) -> Float[Array, "events components"]:
    """Return log p(location[n], strength[n], component[n] = k | globals) + log strength[n]! at given globals."""
    xp = namespace(latents["loc"])
    each = xp.zeros_like(latents["rate"])
    noise = latents.get("noise_variance", prior.noise_variance)
    point = Expected(
        log_weights=xp.log(latents.get("weights", prior.weights)),
        precision=1.0 / noise + each,
        log_noise=xp.log(noise) + each,
        log_rate=xp.log(latents["rate"]),
        rate=latents["rate"],
    )
    return expected_logits(point, latents["loc"], each, data)
