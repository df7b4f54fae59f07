"""Amortised Gaussians, q(first[n]) q(second[n]): each is what an encoder of its own makes of x[n]."""

from typing import Any, NamedTuple

import numpy as np

from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size, gaussian, num_features, start_code, start_noise
from latentzoo.models.language.networks import Layer, check_layers, run, start
from latentzoo.models.language.ppl import Handle
from latentzoo.models.two_latent_vae import Data, Prior, Spec, Theta

LOSS = "sampled"
LOCAL = ()


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    first_encoder: the layers of the network from the features to the mean of q(first) and its log scales.
    second_encoder: those to the mean of q(second) and its log scales.
    """

    first_encoder: dict[str, Layer]
    second_encoder: dict[str, Layer]


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw both latents of each row from q, independently given x."""
    size = data.x.shape[-1]
    first_code: Any = run(ppl, spec.encoder(size, code_size(spec.num_first)), phi.first_encoder, data.x)
    second_code: Any = run(ppl, spec.encoder(size, code_size(spec.num_latents)), phi.second_encoder, data.x)
    with ppl.rows("rows", data):
        ppl.sample("first", gaussian(ppl, first_code, spec.num_first))
        ppl.sample("second", gaussian(ppl, second_code, spec.num_latents))


def check_params(params: Params, spec: Spec) -> None:
    """Raise `UserError` where the layers are not those of this Spec."""
    theta, phi = params
    size = np.shape(theta.decoder["out"].bias)[-1] if "out" in theta.decoder else 1
    check_layers(spec.decoder(spec.num_first + spec.num_latents, size), theta.decoder, "params.theta.decoder")
    check_layers(spec.encoder(size, code_size(spec.num_first)), phi.first_encoder, "params.phi.first_encoder")
    check_layers(spec.encoder(size, code_size(spec.num_latents)), phi.second_encoder, "params.phi.second_encoder")


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at random networks."""
    size = num_features(data, spec)
    decoder = start(spec.decoder(spec.num_first + spec.num_latents, size), rng)
    first_encoder = start_code(spec.encoder(size, code_size(spec.num_first)), rng, spec.num_first)
    second_encoder = start_code(spec.encoder(size, code_size(spec.num_latents)), rng, spec.num_latents)
    return Params(Theta(decoder, start_noise(data, prior, spec)), Phi(first_encoder, second_encoder))
