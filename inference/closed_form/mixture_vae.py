"""The ELBO of an autoencoder with a mixture for its prior, and its gradient, by hand: the component summed out.

Symbols: g the encoder, f the decoder, q_n = Normal(m_n, diag s_n^2) of the code g(x_n), e_n standard normal noise; h_n
what the encoder makes beside it, logits of components, where the assignment is amortised. Equations (1) to (7) of
`codes.py`, the networks of `backward.py`; those here are this file's own. j counts coordinates, k components.

    (1)  w_n = m_n + s_n e_n
    (2)  log p(w_n | k) = - sum_j (u_nkj^2 / 2 + log sigma_kj + log 2 pi / 2),  u_nkj = (w_nj - mu_kj) / sigma_kj
    (3)  r_nk = pi_k p(w_n | k) / sum_l pi_l p(w_n | l)      "exact"
         r_n = softmax h_n                                   "amortised"
    (4)  v_n = log p(x_n | f(w_n)) - A_n - G_n               its expectation over e_n is the ELBO of the row
    (5)  A_n = KL(r_n || pi) = sum_k r_nk log r_nk / pi_k
    (6)  G_n = log q_n(w_n) - sum_k r_nk log p(w_n | k)      log q_n against the geometric mean prod_k p(w_n | k)^r_nk
    (7)  A_n + G_n = log q_n(w_n) - log p(w_n)               "exact", with p(w) = sum_k pi_k p(w | k)

E G_n alone may be negative: the geometric mean is no density, but below the sum of K of them, so that E G_n >= -log K.
By (7) it is KL(q_n || p) - E KL(r_n || pi), "exact"; with amortised assignments, which do not depend on w_n, it is
sum_k r_nk KL(q_n || p(. | k)), never negative.

The way back. In both assignments v_n moves with log pi_k and log p(w_n | k) as if r_n were held, in the exact one
because r_n is at its optimum (by (7), the slopes of log p(w) are r_n):

    (8)  dv/d log p(w_n | k) = r_nk;  by the logits of pi: r_nk - pi_k
    (9)  d log p(w_n | k) by mu_kj: u_nkj / sigma_kj;  by log sigma_kj: u_nkj^2 - 1;  by w_nj: - u_nkj / sigma_kj
    (10) dv/dw_n = f'(w_n)' d log p(x_n | f) / df - sum_k r_nk u_nk / sigma_k
    (11) dv/dh_nk = r_nk (t_nk - sum_l r_nl t_nl),  t_nk = log pi_k + log p(w_n | k) - log r_nk
    (12) dv/dg by (2) and (3) of `codes.py`, then the way back through the encoder

The same bound with less noise, as the divergence of a Gaussian from a Gaussian is in closed form:

    (13) ELBO of the row = E log p(x_n | f(w_n)) - A_n - sum_k r_nk KL(q_n || p(. | k))         "amortised"
    (14) ELBO of the row = E [log p(x_n | f(w_n)) + log p(w_n) - log h_n(w_n)] - KL(q_n || h_n)     "exact"
    (15) h_n = Normal(sum_k c_nk mu_k, diag sum_k c_nk (sigma_k^2 + (mu_k - sum_l c_nl mu_l)^2))
    (16) c_nk proportional to E pi_k p(w_n | k) = pi_k Normal(m_n; mu_k, diag sigma_k^2 + s_n^2)

(14) holds for any h_n; this one has the mean and the variances of the mixture where q_n lies. With one component it is
that component, and with all of q_n in one of several that are far apart, too: the divergence then has no noise.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp

from latentzoo.guides.mixture_vae import Phi
from latentzoo.inference.accumulate import by_rows
from latentzoo.inference.backward import backward, forward
from latentzoo.inference.clustered_start import clustered_start
from latentzoo.inference.clusters import scores
from latentzoo.inference.codes import LOG_2PI, Gaussian, log_likelihood, mean, noise_gradient, noise_scale, seen
from latentzoo.inference.divergences import kl_diagonal_normal
from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size
from latentzoo.models.mixture_vae import Data, Prior, Spec, Theta

METHODS = ("svi",)
PROOF = "common noise"
start = clustered_start  # from data: the random start of the guide is for simulation

Array = Any


def noise(data: Data, spec: Spec, rng: np.random.Generator) -> dict[str, Float[np.ndarray, "rows num_latents"]]:
    """Return standard normal noise for one draw of the guide; the component has none."""
    return {"latent": rng.normal(size=(len(data.x), spec.num_latents))}


# --- the mixture ------------------------------------------------------------------------------------------------------


class Components(NamedTuple):
    """The components at the latent coordinates of each row.

    log_weights: log pi. standardised: u of (2). log_latent: log p(w | k) (2). log_resp: log r (3).
    """

    log_weights: Float[Array, "components"]
    standardised: Float[Array, "*batch components d"]
    log_latent: Float[Array, "*batch components"]
    log_resp: Float[Array, "*batch components"]

    @classmethod
    def at(
        cls, w: Float[Array, "*batch d"], theta: Theta, logits: Float[Array, "*batch components"] | None
    ) -> "Components":
        """Return the components at w: assigned exactly, or as logits say."""
        log_weights = log_softmax(theta.weights_logits)
        standardised = (w[..., None, :] - theta.loc) / np.exp(theta.log_scale)
        log_latent = -(0.5 * standardised**2 + theta.log_scale + 0.5 * LOG_2PI).sum(-1)  # (2)
        log_resp = log_softmax(log_weights + log_latent if logits is None else logits, axis=-1)  # (3)
        return cls(log_weights, standardised, log_latent, log_resp)

    @property
    def resp(self) -> Float[Array, "*batch components"]:
        """r, the probabilities of the components under q."""
        return np.exp(self.log_resp)

    @property
    def divergence(self) -> Float[Array, "*batch"]:
        """(5), of r from the weights."""
        return (self.resp * (self.log_resp - self.log_weights)).sum(-1)

    @property
    def geometric(self) -> Float[Array, "*batch"]:
        """The logarithm of the geometric mean of the components' densities, unnormalised."""
        return (self.resp * self.log_latent).sum(-1)

    @property
    def marginal(self) -> Float[Array, "*batch"]:
        """log p(w), the components summed out."""
        return logsumexp(self.log_weights + self.log_latent, axis=-1)

    def by_w(self, theta: Theta) -> Float[Array, "*batch d"]:
        """Return the last term of (10)."""
        return -np.einsum("...k,...kj->...j", self.resp, self.standardised / np.exp(theta.log_scale))

    def by_theta(self, theta: Theta) -> tuple[Array, Array, Array]:
        """Return the derivatives by weights_logits, loc and log_scale, summed over the rows: (8), (9)."""
        r, u = self.resp, self.standardised
        by_loc = np.einsum("nk,nkj->kj", r, u) / np.exp(theta.log_scale)
        by_log_scale = np.einsum("nk,nkj->kj", r, u**2 - 1.0)
        return r.sum(0) - len(r) * np.exp(self.log_weights), by_loc, by_log_scale

    def by_logits(self) -> Float[Array, "*batch components"]:
        """Return (11)."""
        t = self.log_weights + self.log_latent - self.log_resp
        return self.resp * (t - (self.resp * t).sum(-1, keepdims=True))


# --- one draw ---------------------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """The parts of the ELBO of each row at one draw: `reconstruction - assignment - coordinates` is (4).

    reconstruction: log p(x | f(w)). assignment: A (5). coordinates: G (6).
    """

    reconstruction: Float[Array, "rows"]
    assignment: Float[Array, "rows"]
    coordinates: Float[Array, "rows"]


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return the bound of one draw, the sum of (4) over the rows, and its gradient."""
    theta, phi, eps = params.theta, params.phi, noise["latent"]
    encoder, decoder = chains(theta, spec)
    code, seen_by = forward(encoder, phi.encoder, data.x)
    q, logits = split(code, spec)
    w = q.push(eps)  # (1)
    mixture = Components.at(w, theta, logits)
    output, made_by = forward(decoder, theta.decoder, w)
    of_x = seen(spec.likelihood, data.x, output, noise_scale(prior, theta))
    value = of_x.log_prob - mixture.divergence + mixture.geometric - q.log_prob_at(eps)  # (4)

    by_decoder, by_w = backward(decoder, theta.decoder, made_by, of_x.by_output)
    by_code = q.by_code(eps, by_w + mixture.by_w(theta))  # (10), (12)
    if logits is not None:
        by_code = np.concatenate([by_code, mixture.by_logits()], -1)
    by_encoder, _ = backward(encoder, phi.encoder, seen_by, by_code)
    by_weights, by_loc, by_log_scale = mixture.by_theta(theta)
    by_theta = Theta(by_decoder, by_weights, by_loc, by_log_scale, noise_gradient(theta, of_x))
    return float(value.sum()), Params(by_theta, Phi(by_encoder))


def chains(theta: Theta, spec: Spec) -> tuple[Any, Any]:
    """Return the encoder and the decoder."""
    size = theta.decoder["out"].bias.shape[-1]
    return spec.encoder(size, spec.num_codes), spec.decoder(spec.num_latents, size)


def split(
    code: Float[Array, "*batch numbers"], spec: Spec
) -> tuple[Gaussian, Float[Array, "*batch components"] | None]:
    """Return the Gaussian that the encoder's numbers stand for, and the logits of components, where it makes them."""
    size = code_size(spec.num_latents)
    return Gaussian.of(code[..., :size], spec.num_latents), code[..., size:] if spec.assignment == "amortised" else None


# --- what is known of each row ----------------------------------------------------------------------------------------


def encoded(params: Params, data: Data, spec: Spec) -> tuple[Gaussian, Float[Array, "rows components"] | None]:
    """Return q(latent) of each row, and the logits of q(component) where the encoder makes them."""
    encoder, _ = chains(params.theta, spec)
    return split(forward(encoder, params.phi.encoder, data.x)[0], spec)


def assigned(params: Params, data: Data, spec: Spec) -> Int[Array, "rows"]:
    """Return the most probable component of each row, at the mean of q(latent)."""
    q, logits = encoded(params, data, spec)
    return Components.at(q.loc, params.theta, logits).log_resp.argmax(-1)


def decoded(params: Params, w: Float[Array, "*batch num_latents"], spec: Spec) -> Float[Array, "*batch features"]:
    """Return the decoder's output, logits or means, at latent coordinates."""
    _, decoder = chains(params.theta, spec)
    return forward(decoder, params.theta.decoder, w)[0]


def observed(params: Params, data: Data, prior: Prior, w: Array, spec: Spec) -> Float[Array, "*batch"]:
    """Return log p(x_n | w_n) of each row."""
    return log_likelihood(spec.likelihood, data.x, decoded(params, w, spec), noise_scale(prior, params.theta))


def terms(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Terms:
    """Return the parts of (4) of each row at this draw."""
    (q, logits), eps = encoded(params, data, spec), noise["latent"]
    w = q.push(eps)
    mixture = Components.at(w, params.theta, logits)
    reconstruction = observed(params, data, prior, w, spec)
    return Terms(reconstruction, mixture.divergence, q.log_prob_at(eps) - mixture.geometric)


def log_weights(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return log p(x, w) - log q(w) of each row at this draw: the logarithm of its importance weight.

    The component is summed out of p, and q(component) is not used. So the expectation is the ELBO where the assignment
    is exact; where it is amortised it is above it, by E KL(q(component) || p(component | w)).
    """
    (q, _), eps = encoded(params, data, spec), noise["latent"]
    w = q.push(eps)
    marginal = Components.at(w, params.theta, None).marginal
    return observed(params, data, prior, w, spec) + marginal - q.log_prob_at(eps)


def bounds(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (13) or (14) of each row, what is not in closed form at this draw."""
    theta, (q, logits) = params.theta, encoded(params, data, spec)
    w = q.push(noise["latent"])
    mixture = Components.at(w, theta, logits)
    reconstruction = observed(params, data, prior, w, spec)
    if logits is None:
        near = matched(q, theta)
        kl = kl_diagonal_normal(q.loc, q.scale, near.loc, near.scale)
        return reconstruction + mixture.marginal - near.log_prob(w) - kl  # (14)
    kl = kl_diagonal_normal(q.loc[:, None], q.scale[:, None], theta.loc, np.exp(theta.log_scale))
    return reconstruction - mixture.divergence - (mixture.resp * kl).sum(-1)  # (13)


def matched(q: Gaussian, theta: Theta) -> Gaussian:
    """Return h (15), the Gaussian with the moments of the mixture where q lies."""
    wide = theta._replace(log_scale=0.5 * np.log(np.exp(2.0 * theta.log_scale) + q.scale[:, None] ** 2))
    c = Components.at(q.loc, wide, None).resp[..., None]  # (16)
    loc = (c * theta.loc).sum(-2)
    variance = (c * (np.exp(2.0 * theta.log_scale) + (theta.loc - loc[:, None]) ** 2)).sum(-2)
    return Gaussian(loc, np.sqrt(variance))


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return of each row its components, the mean and sd of its latent coordinates, and its reconstruction at the mean.

    responsibilities: (rows, components), q(component) at the mean of q(latent). component: the most probable one.
    latent, latent_sd: (rows, num_latents). x: (rows, features), probabilities or means.
    """
    q, logits = encoded(params, data, spec)
    resp = Components.at(q.loc, params.theta, logits).resp
    output = decoded(params, q.loc, spec)
    x = mean(spec.likelihood, output)
    return {"responsibilities": resp, "component": resp.argmax(-1), "latent": q.loc, "latent_sd": q.scale, "x": x}


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return how the most probable components agree with the classes, where rows have labels."""
    return {} if data.label is None else scores(by_rows(lambda part: assigned(params, part, spec), data), data.label)
