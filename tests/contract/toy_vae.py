"""A toy: a variational autoencoder of two layers each way, derived by hand. One module, every room."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Handle

MAX_PLATE_NESTING = 1
ROWS = ("images",)
LOSS = "sampled"
LOCAL = ()
METHODS = ("svi",)
PROOF = "common noise"


@dataclass(frozen=True)
class Spec:
    num_pixels: int = 5
    num_latents: int = 2
    num_hidden: int = 4


class Data(NamedTuple):
    x: Float[Any, "images num_pixels"] = None


class Prior(NamedTuple):
    scale: Float[Any, ""]


class Layer(NamedTuple):
    weight: Any
    bias: Any


class Theta(NamedTuple):
    decoder: dict[str, Layer]


class Phi(NamedTuple):
    encoder: dict[str, Layer]


def _layer(h: Any, layer: Layer) -> Any:
    return h @ layer.weight + layer.bias


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    dist, decoder = ppl.dist, theta.decoder
    scale = prior.scale + ppl.xp.zeros_like(decoder["hidden"].weight[:, 0])
    with ppl.rows("images", data):
        z = ppl.sample("z", dist.Normal(ppl.xp.zeros_like(scale), scale).to_event(1))
        logits = _layer(ppl.nn.tanh(_layer(z, decoder["hidden"])), decoder["out"])
        return Data(ppl.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=data.x))


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw z from the encoder."""
    code = _layer(ppl.nn.tanh(_layer(data.x, phi.encoder["hidden"])), phi.encoder["out"])
    loc, log_scale = code[..., : spec.num_latents], code[..., spec.num_latents :]
    with ppl.rows("images", data):
        ppl.sample("z", ppl.dist.Normal(loc, ppl.xp.exp(log_scale)).to_event(1))


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    return {}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    return Prior(np.array(1.3))


def init(data: Data | None, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    def layer(rows: int, columns: int) -> Layer:
        return Layer(rng.normal(size=(rows, columns)) / np.sqrt(rows), np.zeros(columns))

    decoder = {"hidden": layer(spec.num_latents, spec.num_hidden), "out": layer(spec.num_hidden, spec.num_pixels)}
    encoder = {"hidden": layer(spec.num_pixels, spec.num_hidden), "out": layer(spec.num_hidden, 2 * spec.num_latents)}
    return Params(Theta(decoder), Phi(encoder))


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, np.ndarray], spec: Spec
) -> tuple[float, Params]:
    """Return the one-draw ELBO at this noise and its gradient, by the chain rule, backwards."""
    decoder, encoder, x, eps = params.theta.decoder, params.phi.encoder, data.x, noise["z"]
    seen = np.tanh(_layer(x, encoder["hidden"]))
    code = _layer(seen, encoder["out"])
    loc, scale = code[:, : spec.num_latents], np.exp(code[:, spec.num_latents :])
    z = loc + scale * eps
    made = np.tanh(_layer(z, decoder["hidden"]))
    logits = _layer(made, decoder["out"])

    log_likelihood = (x * logits - np.logaddexp(0, logits)).sum()
    # The normalisers sqrt(2 pi) of the prior and of q cancel.
    log_prior = (-0.5 * (z / prior.scale) ** 2 - np.log(prior.scale)).sum()
    log_q = (-0.5 * eps**2 - np.log(scale)).sum()

    by_logits = x - 1 / (1 + np.exp(-logits))
    by_made = (by_logits @ decoder["out"].weight.T) * (1 - made**2)
    by_z = by_made @ decoder["hidden"].weight.T - z / prior.scale**2
    by_code = np.concatenate([by_z, by_z * scale * eps + 1], axis=1)
    by_seen = (by_code @ encoder["out"].weight.T) * (1 - seen**2)
    theta = Theta({"hidden": Layer(z.T @ by_made, by_made.sum(0)), "out": Layer(made.T @ by_logits, by_logits.sum(0))})
    phi = Phi({"hidden": Layer(x.T @ by_seen, by_seen.sum(0)), "out": Layer(seen.T @ by_code, by_code.sum(0))})
    return log_likelihood + log_prior - log_q, Params(theta, phi)


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    return None
