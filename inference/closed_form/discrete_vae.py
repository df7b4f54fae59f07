"""The ELBO of a variational autoencoder with discrete codes and its gradient, by hand, summed over all codes.

Symbols: g the encoder, f the decoder; s = (s_1, ..., s_L) one of all S = K^L joint codes, c_s its one-hot vectors, one
behind the other, a_s = f(c_s); p_i and q_ni what the prior and q say of variable i. The networks of `backward.py`.

    (1)  q_ni = softmax g(x_n)_i,  q_n(s) = prod_i q_ni(s_i),  p(s) = prod_i p_i(s_i)
    (2)  l_ns = log p(x_n | a_s)                                   all rows against all codes, the decoder run S times
         Bernoulli: x_n . a_s - sum log(1 + exp a_s);  Normal(a_s, v): - |x_n - a_s|^2 / 2v - D log(2 pi v) / 2
    (3)  ELBO of the row = sum_s q_n(s) l_ns - sum_i KL(q_ni || p_i)
    (4)  dELBO/dg_nik = r_nik - q_nik sum_j r_nij,  r_nik = sum_{s: s_i = k} q_n(s) l_ns - q_nik log(q_nik / p_ik)
    (5)  dELBO/da_s = sum_n q_n(s) (x_n - m_s) / v                 m_s = sigmoid a_s and v = 1 for Bernoulli, else a_s
    (6)  dELBO/d log sqrt v = sum_ns q_n(s) (|x_n - a_s|^2 / v - D)
    (7)  log p(x_n) = log sum_s p(s) exp l_ns,  p(s | x_n) = p(s) exp(l_ns) / p(x_n)
    (8)  ELBO of the row + KL(q_n || p(. | x_n)) = log p(x_n)

Nothing is drawn: (3) is the bound of discrete codes itself, and (7) the evidence. A relaxed draw of a code, whose
reconstruction stands beside the KL divergence of the categories, is an objective to train with and no bound: whatever
the estimator of a fit, bounds are reported by (3).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, logsumexp

from latentzoo.guides.discrete_vae import Phi
from latentzoo.inference.accumulate import add, by_rows, chunks
from latentzoo.inference.backward import Tape, backward, forward
from latentzoo.inference.clusters import scores
from latentzoo.inference.codes import LOG_2PI, mean, noise_scale
from latentzoo.models.discrete_vae import Data, Prior, Spec, Theta
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Chain, Layers

METHODS = ("svi",)
PROOF = "common noise"
CHUNK_NUMBERS = 2**20  # of an array of rows by codes

Array = Any


def noise(data: Data, spec: Spec, rng: np.random.Generator) -> dict[str, Array]:
    """Return no noise: every code is summed over."""
    return {}


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return the bound, the sum of (3) over the rows, which takes no draw, and its gradient."""
    theta = params.theta
    codes = Codes.of(params, spec)
    sums = add(_sums(params, part.x, prior, codes, spec) for part in _parts(data, spec))
    by_decoder, _ = backward(_decoder(theta, spec), theta.decoder, codes.tape, sums.by_output)
    by_noise = None if theta.noise_log_scale is None else sums.by_log_scale
    return float(sums.bound), Params(Theta(by_decoder, by_noise), Phi(sums.by_encoder))


class Sums(NamedTuple):
    """The bound and its derivatives, summed over rows: those of two sets of rows add up.

    by_output: by the decoder's output at each code (5).
    """

    bound: Float[Array, ""]
    by_encoder: Layers
    by_output: Float[Array, "codes features"]
    by_log_scale: Float[Array, ""]


def _sums(params: Params, x: Array, prior: Prior, codes: "Codes", spec: Spec) -> Sums:
    rows = Rows.of(params, x, prior, codes, spec)
    q, q_states, size = rows.q, np.exp(rows.log_q), x.shape[1]
    fitted = q * rows.log_likelihood
    by_states = codes.by_state(fitted) - q_states * (rows.log_q - rows.log_prior)
    by_logits = by_states - q_states * by_states.sum(-1, keepdims=True)  # (4)
    by_encoder, _ = backward(_encoder(x, spec), params.phi.encoder, rows.tape, by_logits.reshape(len(x), -1))

    means, variance = codes.mean(spec), 1.0 if spec.likelihood == "bernoulli" else rows.scale**2
    by_output = (q.T @ x - q.sum(0)[:, None] * means) / variance  # (5)
    by_log_scale = (q * (rows.misfit - size)).sum()  # (6)
    return Sums(fitted.sum() - rows.kl().sum(), by_encoder, by_output, by_log_scale)


def _encoder(x: Float[Array, "rows features"], spec: Spec) -> Chain:
    return spec.encoder(x.shape[1], spec.code_size)


def _decoder(theta: Theta, spec: Spec) -> Chain:
    return spec.decoder(spec.code_size, theta.decoder["out"].bias.shape[-1])


# --- all codes, and some rows -----------------------------------------------------------------------------------------


class Codes(NamedTuple):
    """All joint codes, which are the same for all rows.

    one_hot: c_s, a vector for each variable. output: a_s. tape: of the decoder.
    """

    one_hot: Float[Array, "codes num_latents num_states"]
    output: Float[Array, "codes features"]
    tape: Tape

    @classmethod
    def of(cls, params: Params, spec: Spec) -> "Codes":
        """Run the decoder once for each code; the state of the last variable changes fastest."""
        states = np.indices((spec.num_states,) * spec.num_latents).reshape(spec.num_latents, -1).T
        one_hot, theta = np.eye(spec.num_states)[states], params.theta
        return cls(one_hot, *forward(_decoder(theta, spec), theta.decoder, one_hot.reshape(len(states), -1)))

    def by_state(self, by_code: Float[Array, "rows codes"]) -> Float[Array, "rows num_latents num_states"]:
        """Return sums over the codes in which a variable has a state."""
        return np.tensordot(by_code, self.one_hot, 1)

    def joint(self, by_state: Float[Array, "*rows num_latents num_states"]) -> Float[Array, "*rows codes"]:
        """Return for each code the sum over its variables of what their states have."""
        return np.tensordot(by_state, self.one_hot, ((-2, -1), (1, 2)))

    def mean(self, spec: Spec) -> Float[Array, "codes features"]:
        """Return the mean of the features at each code."""
        return mean(spec.likelihood, self.output)


class Rows(NamedTuple):
    """What some rows have with each code: (1) and (2).

    log_q, log_prior: of each state of each variable. q: of each code. misfit: |x_n - a_s|^2 / v, or 0 for Bernoulli.
    scale: sqrt v. tape: of the encoder.
    """

    log_q: Float[Array, "rows num_latents num_states"]
    log_prior: Float[Array, "num_latents num_states"]
    q: Float[Array, "rows codes"]
    log_likelihood: Float[Array, "rows codes"]
    misfit: Array
    scale: Array
    tape: Tape

    @classmethod
    def of(cls, params: Params, x: Float[Array, "rows features"], prior: Prior, codes: Codes, spec: Spec) -> "Rows":
        """Weigh every row against every code, without an array of rows by codes by features."""
        size, scale = codes.output.shape[1], noise_scale(prior, params.theta)
        if x.shape[1] != size:
            raise UserError(f"data.x has {x.shape[1]} features: these parameters are of {size}")
        logits, tape = forward(_encoder(x, spec), params.phi.encoder, x)
        log_q = log_softmax(logits.reshape(len(x), spec.num_latents, spec.num_states), axis=-1)
        if spec.likelihood == "bernoulli":
            misfit: Array = np.zeros(())
            log_likelihood = x @ codes.output.T - np.logaddexp(0.0, codes.output).sum(-1)
        else:
            misfit = cdist(x / scale, codes.output / scale, "sqeuclidean")  # a difference of squares would lose digits
            log_likelihood = -0.5 * misfit - size * (np.log(scale) + 0.5 * LOG_2PI)
        q = np.exp(codes.joint(log_q))
        return cls(log_q, log_softmax(np.log(prior.probs), axis=-1), q, log_likelihood, misfit, scale, tape)

    def kl(self) -> Float[Array, "rows"]:
        """Return the divergence of q from the prior, which is that of each variable, added up."""
        return (np.exp(self.log_q) * (self.log_q - self.log_prior)).sum((-2, -1))

    def bounds(self) -> Float[Array, "rows"]:
        """Return (3)."""
        return (self.q * self.log_likelihood).sum(-1) - self.kl()

    def log_joint(self, codes: Codes) -> Float[Array, "rows codes"]:
        """Return log p(x_n, s)."""
        return self.log_likelihood + codes.joint(self.log_prior)


def _parts(data: Data, spec: Spec) -> Iterator[Data]:
    """Yield the rows in chunks that go with all codes into memory."""
    return chunks(data, max(CHUNK_NUMBERS // spec.num_codes, 1))


def _by_rows(
    function: Callable[[Rows, Codes], Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows ..."]:
    """Return what a function has for the rows."""
    codes = Codes.of(params, spec)
    found = [function(Rows.of(params, part.x, prior, codes, spec), codes) for part in _parts(data, spec)]
    return np.concatenate(found)


# --- what is known of each row ----------------------------------------------------------------------------------------


def bounds(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (3) of each row, exactly: the bound of discrete codes, as every bound that is reported must be."""
    return _by_rows(lambda rows, _: rows.bounds(), params, data, prior, spec)


def log_weights(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (7), log p(x_n) of each row: with every code summed out there is nothing to draw or to weigh.

    The importance-weighted bound L_K is then the evidence at any K, and says nothing of q: `gaps` does.
    """
    return log_predictive(params, data, prior, spec)


def log_predictive(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return (7), log p(x_n) of each row."""
    return _by_rows(lambda rows, codes: logsumexp(rows.log_joint(codes), axis=1), params, data, prior, spec)


def gaps(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return KL(q_n || p(. | x_n)) of each row, what its bound falls short of its evidence (8)."""

    def gap(rows: Rows, codes: Codes) -> Array:
        return (rows.q * (codes.joint(rows.log_q) - log_softmax(rows.log_joint(codes), axis=1))).sum(1)

    return _by_rows(gap, params, data, prior, spec)


def posterior_probs(
    params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows num_latents num_states"]:
    """Return p(s_i = k | x_n), by (7), exactly, whatever the encoder says."""

    def marginal(rows: Rows, codes: Codes) -> Array:
        return codes.by_state(np.exp(log_softmax(rows.log_joint(codes), axis=1)))

    return _by_rows(marginal, params, data, prior, spec)


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return of each row its code under q and under the posterior, and its reconstruction: the mean of x over q.

    code_probs, posterior_probs: (rows, num_latents, num_states), of each variable. code: (rows, num_latents), the most
    probable state of each under q. x: (rows, features), probabilities or means.
    """

    def code_probs(rows: Rows, codes: Codes) -> Array:
        return np.exp(rows.log_q)

    def reconstruction(rows: Rows, codes: Codes) -> Array:
        return rows.q @ codes.mean(spec)

    code, x = (_by_rows(each, params, data, prior, spec) for each in (code_probs, reconstruction))
    exact = posterior_probs(params, data, prior, spec)
    return {"code_probs": code, "code": code.argmax(-1), "posterior_probs": exact, "x": x}


def encoded(params: Params, data: Data, spec: Spec) -> Int[Array, "rows num_latents"]:
    """Return the most probable state of each variable under q."""
    logits, _ = forward(_encoder(data.x, spec), params.phi.encoder, data.x)
    return logits.reshape(len(data.x), spec.num_latents, spec.num_states).argmax(-1)


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return how joint codes, and each variable of several, agree with the classes, where rows have labels."""
    if data.label is None:
        return {}
    label, code = data.label, by_rows(lambda part: encoded(params, part, spec), data)
    joint = np.ravel_multi_index(tuple(code.T), (spec.num_states,) * spec.num_latents)
    found = scores(joint, label)
    if not found or spec.num_latents == 1:
        return found
    each = {f"code{index}_nmi": scores(states, label)["nmi"] for index, states in enumerate(code.T)}
    return {**found, **each}
