"""Amortised Gaussians: q(latent[n]) is what an encoder makes of x[n]."""

from typing import Any, NamedTuple

import numpy as np

from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size, gaussian, num_features, start_code, start_noise
from latentzoo.models.language.networks import Layer, Layers, check_layers, run, start
from latentzoo.models.language.ppl import Handle
from latentzoo.models.vae import Data, Prior, Spec, Theta

LOSS = "sampled"
LOCAL = ()


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    encoder: the layers of the network from the features to the mean of q(latent) and its log scales, or its matrix.
    """

    encoder: dict[str, Layer]


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw the latent coordinates of each row from q."""
    code: Any = encode(ppl, phi.encoder, data.x, spec)
    with ppl.rows("rows", data):
        ppl.sample("latent", gaussian(ppl, code, spec.num_latents, spec.posterior))


def encode(ppl: Handle, encoder: Layers, x: Any, spec: Spec) -> Any:
    """Return the numbers of q(latent) of each row."""
    if spec.networks is not None:
        return spec.networks.encoder(x)
    return run(ppl, spec.encoder(x.shape[-1], code_size(spec.num_latents, spec.posterior)), encoder, x)


def check_params(params: Params, spec: Spec) -> None:
    """Raise `UserError` where the layers are not those of this Spec."""
    if spec.networks is not None:
        return
    size = np.shape(params.theta.decoder["out"].bias)[-1] if "out" in params.theta.decoder else 1
    check_layers(spec.decoder(spec.num_latents, size), params.theta.decoder, "params.theta.decoder")
    encoder = spec.encoder(size, code_size(spec.num_latents, spec.posterior))
    check_layers(encoder, params.phi.encoder, "params.phi.encoder")


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at random networks; your own start as they do."""
    if spec.networks is not None:
        return Params(Theta({}, start_noise(data, prior, spec)), Phi({}))
    size = num_features(data, spec)
    decoder = start(spec.decoder(spec.num_latents, size), rng)
    encoder = start_code(spec.encoder(size, code_size(spec.num_latents, spec.posterior)), rng, spec.num_latents)
    return Params(Theta(decoder, start_noise(data, prior, spec)), Phi(encoder))
