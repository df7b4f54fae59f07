"""Mean field for the super-epicentres: q(loc) q(rate) q(noise_variance) q(weights) prod_n q(component[n])."""

from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.earthquakes import Data, Prior, Spec
from latentzoo.models.language.contract import Params, optional
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.language.starts import some_rows, spread_rows

LOSS = "enumerated"
LOCAL = ("component_logits",)


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    loc_mean, loc_log_scale: q(loc[k]) = Normal(loc_mean[k], scale[k]^2 I); scale^2 is v_k.
    rate_log_shape, rate_log_rate: q(rate[k]) = Gamma(a_k, b_k).
    weights_log_concentration: q(weights) = Dirichlet(d) (weights="dirichlet").
    noise_log_shape, noise_log_rate: q(noise_variance) = InverseGamma; one (noise="shared"), or K ("per_component").
    component_logits: q(component[n]), up to a constant for each event; None: the optimum given all the others.
    """

    loc_mean: Float[Any, "num_components 2"]
    loc_log_scale: Float[Any, "num_components"]
    rate_log_shape: Float[Any, "num_components"]
    rate_log_rate: Float[Any, "num_components"]
    weights_log_concentration: Annotated[Float[Any, "num_components"], optional] = None
    noise_log_shape: Annotated[Float[Any, "..."], optional] = None
    noise_log_rate: Annotated[Float[Any, "..."], optional] = None
    component_logits: Annotated[Float[Any, "events num_components"], optional] = None


def guide(ppl: Handle, data: Data, prior: Prior, theta: None, phi: Phi, spec: Spec) -> None:
    """Draw the latent variables from q."""
    dist, xp = ppl.dist, ppl.xp

    if spec.weights == "dirichlet":
        ppl.sample("weights", dist.Dirichlet(xp.exp(phi.weights_log_concentration)))
    if spec.noise == "shared":
        ppl.sample("noise_variance", dist.InverseGamma(xp.exp(phi.noise_log_shape), xp.exp(phi.noise_log_rate)))

    with ppl.plate("components", spec.num_components):
        ppl.sample("loc", dist.Normal(phi.loc_mean, xp.exp(phi.loc_log_scale)[..., None]).to_event(1))
        ppl.sample("rate", dist.Gamma(xp.exp(phi.rate_log_shape), xp.exp(phi.rate_log_rate)))
        if spec.noise == "per_component":
            ppl.sample("noise_variance", dist.InverseGamma(xp.exp(phi.noise_log_shape), xp.exp(phi.noise_log_rate)))

    logits = phi.component_logits
    if logits is None:
        logits = optimal_component_logits(ppl, data, prior, phi)
    with ppl.rows("events", data):
        ppl.sample("component", dist.Categorical(logits=logits), infer=ENUMERATE)


def optimal_component_logits(ppl: Handle, data: Data, prior: Prior, phi: Phi) -> Any:
    """Return E_q[log p(observed[n], component[n] = k | globals)] up to constants, (events, components).

    What is not observed adds nothing: where nothing is, the same logits serve every event.
    """
    xp, digamma = ppl.xp, ppl.nn.digamma
    variance = xp.exp(2 * phi.loc_log_scale)

    if phi.weights_log_concentration is None:
        log_weights = xp.log(prior.weights)
    else:
        log_weights = digamma(xp.exp(phi.weights_log_concentration))  # up to psi(sum), the same for every k

    if phi.noise_log_shape is None:
        log_noise, precision = 0.0, 1 / prior.noise_variance
    else:
        log_noise = phi.noise_log_rate - digamma(xp.exp(phi.noise_log_shape))
        precision = xp.exp(phi.noise_log_shape - phi.noise_log_rate)

    logits = log_weights
    if data.location is not None:
        squared = ((data.location[..., None, :] - phi.loc_mean) ** 2).sum(-1) + 2 * variance
        logits = logits - log_noise - precision * squared / 2
    if data.strength is not None:
        log_rate = digamma(xp.exp(phi.rate_log_shape)) - phi.rate_log_rate
        rate = xp.exp(phi.rate_log_shape - phi.rate_log_rate)
        logits = logits + data.strength[..., None] * log_rate - rate
    return logits


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at events far from one another (k-means++ seeding), as wide as the prior of the noise, as strong as all."""
    size = spec.num_components
    centres = spread_rows(some_rows(np.asarray(data.location), rng), size, rng)
    events = np.asarray(data.strength, dtype=np.float64)
    share = 1.0 + events.shape[0] / size  # what each centre would see, were the events shared out evenly
    if spec.noise == "known":
        variance, noise_log_shape = float(prior.noise_variance), None
    else:
        variance = float(prior.noise_rate / prior.noise_shape)
        noise_log_shape = np.full(() if spec.noise == "shared" else (size,), np.log(float(prior.noise_shape)))
    return Params(
        phi=Phi(
            loc_mean=centres,
            loc_log_scale=np.full(size, 0.5 * np.log(variance / share)),
            rate_log_shape=np.full(size, np.log(float(prior.strength_shape) + share * events.mean())),
            rate_log_rate=np.full(size, np.log(float(prior.strength_rate) + share)),
            weights_log_concentration=None if spec.weights == "fixed" else np.log(prior.weights_concentration + share),
            noise_log_shape=noise_log_shape,
            noise_log_rate=None
            if noise_log_shape is None
            else np.full_like(noise_log_shape, np.log(float(prior.noise_rate))),
        )
    )
