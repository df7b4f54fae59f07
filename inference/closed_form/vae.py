"""The ELBO of a variational autoencoder and its gradient, by hand: one way forward, one way back.

Symbols: g the encoder, f the decoder, q_n = Normal(m_n, S_n) of the code g(x_n), e_n standard normal noise. Equations
(1) to (7) of `codes.py`, the networks of `backward.py`; those here are this file's own.

    (1)  z_n = m_n + S_n^(1/2) e_n
    (2)  w_n = log p(x_n | f(z_n)) + log p(z_n) - log q_n(z_n)         its expectation over e_n is the ELBO of the row
    (3)  ELBO of the row = E log p(x_n | f(z_n)) - KL(q_n || p)        the same, with less noise
    (4)  dw/dz = f'(z)' d log p(x | f) / df - z                        the way back through the decoder
    (5)  dw/dg by (2) to (4) of `codes.py`, then the way back through the encoder
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from latentzoo.guides.vae import Phi
from latentzoo.inference.accumulate import by_rows
from latentzoo.inference.backward import backward, forward
from latentzoo.inference.clusters import neighbours_accuracy
from latentzoo.inference.codes import (
    Gaussian,
    log_likelihood,
    mean,
    noise_gradient,
    noise_scale,
    seen,
    standard_log_prob,
)
from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size
from latentzoo.models.vae import Data, Prior, Spec, Theta

METHODS = ("svi",)
PROOF = "common noise"

Array = Any


def noise(data: Data, spec: Spec, rng: np.random.Generator) -> dict[str, Float[np.ndarray, "rows num_latents"]]:
    """Return standard normal noise for one draw of the guide."""
    return {"latent": rng.normal(size=(len(data.x), spec.num_latents))}


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return the bound of one draw, the sum of (2) over the rows, and its gradient."""
    theta, phi, eps = params.theta, params.phi, noise["latent"]
    encoder, decoder = chains(theta, phi, spec)
    code, seen_by = forward(encoder, phi.encoder, data.x)
    q = Gaussian.of(code, spec.num_latents, spec.posterior)
    z = q.push(eps)
    output, made_by = forward(decoder, theta.decoder, z)
    of_x = seen(spec.likelihood, data.x, output, noise_scale(prior, theta))
    value = of_x.log_prob + standard_log_prob(z) - q.log_prob_at(eps)  # (2)

    by_decoder, by_z = backward(decoder, theta.decoder, made_by, of_x.by_output)
    by_encoder, _ = backward(encoder, phi.encoder, seen_by, q.by_code(eps, by_z - z))  # (4), (5)
    return float(value.sum()), Params(Theta(by_decoder, noise_gradient(theta, of_x)), Phi(by_encoder))


def chains(theta: Theta, phi: Phi, spec: Spec) -> tuple[Any, Any]:
    """Return the encoder and the decoder."""
    size = theta.decoder["out"].bias.shape[-1]
    return spec.encoder(size, code_size(spec.num_latents, spec.posterior)), spec.decoder(spec.num_latents, size)


# --- what is known of each row ----------------------------------------------------------------------------------------


def posterior(params: Params, data: Data, spec: Spec) -> Gaussian:
    """Return q(latent) of each row."""
    encoder, _ = chains(params.theta, params.phi, spec)
    return Gaussian.of(forward(encoder, params.phi.encoder, data.x)[0], spec.num_latents, spec.posterior)


def decoded(params: Params, z: Float[Array, "*batch num_latents"], spec: Spec) -> Float[Array, "*batch features"]:
    """Return the decoder's output, logits or means, at latent coordinates."""
    _, decoder = chains(params.theta, params.phi, spec)
    return forward(decoder, params.theta.decoder, z)[0]


def log_weights(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (2) of each row: the logarithm of its importance weight at this draw."""
    q, eps = posterior(params, data, spec), noise["latent"]
    z = q.push(eps)
    log_prob_x = log_likelihood(spec.likelihood, data.x, decoded(params, z, spec), noise_scale(prior, params.theta))
    return log_prob_x + standard_log_prob(z) - q.log_prob_at(eps)


def bounds(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (3) of each row, the reconstruction at this draw."""
    q = posterior(params, data, spec)
    output = decoded(params, q.push(noise["latent"]), spec)
    return log_likelihood(spec.likelihood, data.x, output, noise_scale(prior, params.theta)) - q.kl()


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return of each row the mean and sd of its latent coordinates under q, and its reconstruction at the mean.

    latent, latent_sd: (rows, num_latents). x: (rows, features), probabilities or means.
    """
    q = posterior(params, data, spec)
    output = decoded(params, q.loc, spec)
    sd = np.sqrt((q.scale**2).sum(-1)) if q.is_full else q.scale
    x = mean(spec.likelihood, output)
    return {"latent": q.loc, "latent_sd": sd, "x": x}


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return how well the nearest codes tell the class of a row, where rows have labels."""
    if data.label is None:
        return {}
    return neighbours_accuracy(by_rows(lambda part: posterior(params, part, spec).loc, data), data.label)
