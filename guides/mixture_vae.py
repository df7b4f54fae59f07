"""Amortised Gaussians, with a component beside them: q(latent[n]) q(component[n] | latent[n]), by an encoder of x[n].

The component is at its optimum given the latent coordinates, p(component | latent), which is a function of theta; or
the encoder makes its probabilities of the features, whatever the coordinates are.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size, gaussian, num_features, start_code, start_noise
from latentzoo.models.language.networks import Layer, check_layers, run, start
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.language.starts import spread_rows
from latentzoo.models.mixture_vae import Data, Prior, Spec, Theta

LOSS = "enumerated"
LOCAL = ()
CANDIDATES = 100  # for each centre of the start


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    encoder: the layers of the network from the features to the mean of q(latent) and its log scales; "amortised":
        then to the logits of q(component).
    """

    encoder: dict[str, Layer]


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw the latent coordinates of each row from q, then its component given them."""
    code: Any = run(ppl, spec.encoder(data.x.shape[-1], spec.num_codes), phi.encoder, data.x)
    size = code_size(spec.num_latents)
    with ppl.rows("rows", data):
        latent = ppl.sample("latent", gaussian(ppl, code[..., :size], spec.num_latents))
        logits = code[..., size:] if spec.assignment == "amortised" else component_logits(ppl, latent, theta)
        ppl.sample("component", ppl.dist.Categorical(logits=logits), infer=ENUMERATE)


def component_logits(
    ppl: Handle, latent: Float[Any, "*batch num_latents"], theta: Theta
) -> Float[Any, "*batch num_components"]:
    """Return log p(component, latent) up to a constant: after softmax, the components at these coordinates."""
    standardised = (latent[..., None, :] - theta.loc) / ppl.xp.exp(theta.log_scale)
    return theta.weights_logits - (0.5 * standardised**2 + theta.log_scale).sum(-1)


def check_params(params: Params, spec: Spec) -> None:
    """Raise `UserError` where the layers are not those of this Spec."""
    size = np.shape(params.theta.decoder["out"].bias)[-1] if "out" in params.theta.decoder else 1
    check_layers(spec.decoder(spec.num_latents, size), params.theta.decoder, "params.theta.decoder")
    check_layers(spec.encoder(size, spec.num_codes), params.phi.encoder, "params.phi.encoder")


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at random networks, and at components that share out a standard normal among them."""
    size = num_features(data, spec)
    decoder = start(spec.decoder(spec.num_latents, size), rng)
    encoder = start_code(spec.encoder(size, spec.num_codes), rng, spec.num_latents)
    theta = Theta(decoder, *start_components(spec, rng), start_noise(data, prior, spec))
    return Params(theta, Phi(encoder))


def start_components(spec: Spec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return equal weights, centres far from one another around 0, and scales with which the components fill the space.

    One component is a standard normal.
    """
    shape = spec.num_components, spec.num_latents
    loc = spread_rows(rng.normal(size=(CANDIDATES * shape[0], shape[1])), shape[0], rng)
    log_scale = np.full(shape, -np.log(spec.num_components) / spec.num_latents)
    return np.zeros(spec.num_components), loc - loc.mean(0), log_scale
