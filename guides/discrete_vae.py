"""Amortised categories: q(code[n]) is a softmax for each variable, independent of the others, of an encoder of x[n]."""

from typing import Any, NamedTuple

import numpy as np

from latentzoo.models.discrete_vae import Data, Prior, Spec, Theta, draw_code
from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import num_features, start_noise
from latentzoo.models.language.networks import Layer, run, start
from latentzoo.models.language.ppl import Handle

LOSS = "enumerated"
LOCAL = ()


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    encoder: the layers of the network from the features to the logits of each state of each variable.
    """

    encoder: dict[str, Layer]


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw the code of each row from q."""
    code: Any = run(ppl, spec.encoder(data.x.shape[-1], spec.code_size), phi.encoder, data.x)
    with ppl.rows("rows", data):
        draw_code(ppl, code.reshape((*code.shape[:-1], spec.num_latents, spec.num_states)), spec)


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at random networks."""
    size = num_features(data, spec)
    decoder = start(spec.decoder(spec.code_size, size), rng)
    encoder = start(spec.encoder(size, spec.code_size), rng)
    return Params(Theta(decoder, start_noise(data, prior, spec)), Phi(encoder))
