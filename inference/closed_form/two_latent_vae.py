"""The ELBO of a variational autoencoder with two latents and its gradient, by hand: one way forward, two ways back.

Symbols: g, h the encoders, f the decoder; q(y_n) = Normal(m_n, diag s_n^2) of the code g(x_n), q(z_n) = Normal(k_n,
diag t_n^2) of the code h(x_n); d_n, e_n standard normal noise. Equations (1) to (7) of `codes.py`, the networks of
`backward.py`; those here are this file's own.

    (1)  y_n = m_n + s_n d_n,  z_n = k_n + t_n e_n                             standard deviations, not variances
    (2)  log q(y_n, z_n | x_n) = log q(y_n | x_n) + log q(z_n | x_n)           independent given x_n
    (3)  w_n = log p(x_n | f(y_n, z_n)) + log p(y_n) + log p(z_n) - log q(y_n, z_n | x_n)
    (4)  ELBO of the row = E w_n over the noise
                         = E log p(x_n | f(y_n, z_n)) - KL(q(y_n | x_n) || p(y)) - KL(q(z_n | x_n) || p(z))
    (5)  (dw/dy, dw/dz) = f'(y, z)' d log p(x | f) / df - (y, z)               the way back through the decoder
    (6)  dw/dg of dw/dy, dw/dh of dw/dz by (2) and (3) of `codes.py`, then the way back through each encoder
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.guides.two_latent_vae import Phi
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
from latentzoo.models.language.networks import Chain
from latentzoo.models.two_latent_vae import Data, Prior, Spec, Theta

METHODS = ("svi",)
PROOF = "common noise"

Array = Any


def noise(data: Data, spec: Spec, rng: np.random.Generator) -> dict[str, Float[np.ndarray, "rows coordinates"]]:
    """Return standard normal noise for one draw of the guide: d for the first latent, e for the second."""
    rows = len(data.x)
    return {"first": rng.normal(size=(rows, spec.num_first)), "second": rng.normal(size=(rows, spec.num_latents))}


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return the bound of one draw, the sum of (3) over the rows, and its gradient."""
    theta, phi = params
    chain = chains(theta, spec)
    first_code, seen_by_first = forward(chain.first_encoder, phi.first_encoder, data.x)
    second_code, seen_by_second = forward(chain.second_encoder, phi.second_encoder, data.x)
    first, second = Gaussian.of(first_code, spec.num_first), Gaussian.of(second_code, spec.num_latents)
    d, e = noise["first"], noise["second"]
    yz = np.concatenate([first.push(d), second.push(e)], -1)  # (1)
    output, made_by = forward(chain.decoder, theta.decoder, yz)
    of_x = seen(spec.likelihood, data.x, output, noise_scale(prior, theta))
    value = of_x.log_prob + standard_log_prob(yz) - first.log_prob_at(d) - second.log_prob_at(e)  # (3)

    by_decoder, by_yz = backward(chain.decoder, theta.decoder, made_by, of_x.by_output)
    by_y, by_z = np.split(by_yz - yz, [spec.num_first], -1)  # (5)
    by_first, _ = backward(chain.first_encoder, phi.first_encoder, seen_by_first, first.by_code(d, by_y))  # (6)
    by_second, _ = backward(chain.second_encoder, phi.second_encoder, seen_by_second, second.by_code(e, by_z))
    return float(value.sum()), Params(Theta(by_decoder, noise_gradient(theta, of_x)), Phi(by_first, by_second))


class Chains(NamedTuple):
    """The networks: from the features to each latent, and from both back to the features."""

    first_encoder: Chain
    second_encoder: Chain
    decoder: Chain


def chains(theta: Theta, spec: Spec) -> Chains:
    """Return the networks of a Spec for as many features as the decoder makes."""
    size = theta.decoder["out"].bias.shape[-1]
    return Chains(
        spec.encoder(size, code_size(spec.num_first)),
        spec.encoder(size, code_size(spec.num_latents)),
        spec.decoder(spec.num_first + spec.num_latents, size),
    )


# --- what is known of each row ----------------------------------------------------------------------------------------


def posterior(params: Params, data: Data, spec: Spec) -> Gaussian:
    """Return (2), q of both latents of each row, as one Gaussian: the coordinates of the first, then the second's.

    Its divergence from a standard normal is the sum of both in (4).
    """
    chain, phi = chains(params.theta, spec), params.phi
    first = Gaussian.of(forward(chain.first_encoder, phi.first_encoder, data.x)[0], spec.num_first)
    second = Gaussian.of(forward(chain.second_encoder, phi.second_encoder, data.x)[0], spec.num_latents)
    return Gaussian(np.concatenate([first.loc, second.loc], -1), np.concatenate([first.scale, second.scale], -1))


def decoded(params: Params, yz: Float[Array, "*batch coordinates"], spec: Spec) -> Float[Array, "*batch features"]:
    """Return the decoder's output, logits or means, at coordinates of both latents, the first one's before."""
    return forward(chains(params.theta, spec).decoder, params.theta.decoder, yz)[0]


def log_weights(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (3) of each row: the logarithm of its importance weight at this draw."""
    q, eps = posterior(params, data, spec), _stacked(noise)
    yz = q.push(eps)
    log_prob_x = log_likelihood(spec.likelihood, data.x, decoded(params, yz, spec), noise_scale(prior, params.theta))
    return log_prob_x + standard_log_prob(yz) - q.log_prob_at(eps)


def bounds(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (4) of each row, the reconstruction at this draw."""
    q = posterior(params, data, spec)
    output = decoded(params, q.push(_stacked(noise)), spec)
    return log_likelihood(spec.likelihood, data.x, output, noise_scale(prior, params.theta)) - q.kl()


def _stacked(noise: dict[str, Array]) -> Float[Array, "*batch coordinates"]:
    return np.concatenate([noise["first"], noise["second"]], -1)


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return of each row the means and sds of both latents under q, and its reconstruction at the means.

    first, first_sd: (rows, num_first). second, second_sd: (rows, num_latents). x: (rows, features), probabilities or
    means.
    """
    q = posterior(params, data, spec)
    output = decoded(params, q.loc, spec)
    first, second = np.split(q.loc, [spec.num_first], -1)
    first_sd, second_sd = np.split(q.scale, [spec.num_first], -1)
    x = mean(spec.likelihood, output)
    return {"first": first, "first_sd": first_sd, "second": second, "second_sd": second_sd, "x": x}


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return how well the nearest codes tell the class of a row, where rows have labels."""
    if data.label is None:
        return {}
    return neighbours_accuracy(by_rows(lambda part: posterior(params, part, spec).loc, data), data.label)
