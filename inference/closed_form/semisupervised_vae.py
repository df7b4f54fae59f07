"""The bound of a semi-supervised autoencoder and its gradient, by hand: each row is run once with every class.

Symbols: k a class, y_n the label of a row that has one, pi the class probabilities; c the classifier, g the encoder, f
the decoder; e_n standard normal noise, the same for every class; q_nk = Normal(m_nk, s_nk^2) of the code g(x_n, k).
Equations (1) to (7) of `codes.py`, the networks of `backward.py`; those here are this file's own.

    (1)  r_nk  = softmax c(x_n), q of the label; or where the row has one, 1 at k = y_n and 0 elsewhere
    (2)  z_nk  = m_nk + s_nk e_n
    (3)  w_nk  = log p(x_n given f(z_nk, k)) + log pi_k + log p(z_nk) - log q_nk(z_nk)
    (4)  bound = sum_k r_nk (w_nk - log r_nk)       of a row with a label w_{n, y_n} alone: L(x, y); of others U(x)
    (5)  J     = sum_n bound + alpha sum_{n labelled} log softmax c(x_n)_{y_n}          only the first sum is a bound
    (6)  E w_nk = E log p(x_n given f(z_nk, k)) + log pi_k - KL(q_nk || Normal(0, I))               the same, less noise

The way back, with h_nk = w_nk - log r_nk:

    (7)  dJ/dc_nk = r_nk (h_nk - sum_j r_nj h_nj), which is 0 where the row has a label
    (8)           + alpha (1{k = y_n} - softmax c(x_n)_k) where it has one
    (9)  dJ/dz_nk = r_nk (f'(z_nk)' d log p(x given f) / df - z_nk)
    (10) dJ/dg_nk by (2) and (3) of `codes.py`, with r_nk for the weight of log q

sum_k dr_nk = 0, so that the derivative of log r_nk adds nothing to (7).

The importance weight of a row needs no draw of the label: E exp w_nk = p(x_n, k) for each class, so that

    (11) W_n = sum_k exp w_nk, or exp w_{n, y_n},    E W_n = p(x_n), or p(x_n, y_n) where the row has a label

and log of a mean of K such weights is a bound L_K. L_1 = E log W_n is no less than (4), by Jensen's inequality, and
equal to it where r_nk is proportional to exp w_nk.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_softmax, logsumexp

from latentzoo.guides.semisupervised_vae import Phi
from latentzoo.inference import label_baselines
from latentzoo.inference.accumulate import by_rows
from latentzoo.inference.backward import Tape, backward, forward
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
from latentzoo.models.language.ppl import RULED_OUT
from latentzoo.models.semisupervised_vae import Data, Prior, Spec, Theta

METHODS = ("svi",)
PROOF = "common noise"
BASELINE_ROWS = 5000  # that simpler models are fitted to at most
BASELINE_STEPS = 200

Array = Any


def noise(data: Data, spec: Spec, rng: np.random.Generator) -> dict[str, Float[np.ndarray, "rows num_latents"]]:
    """Return standard normal noise for one draw of the guide: the same for every class of a row."""
    return {"latent": rng.normal(size=(len(data.x), spec.num_latents))}


class Chains(NamedTuple):
    """The three networks."""

    classifier: Chain
    encoder: Chain
    decoder: Chain


def chains(theta: Theta, spec: Spec) -> Chains:
    """Return the networks for as many features as the decoder has."""
    size, classes = theta.decoder["out"].bias.shape[-1], spec.num_classes
    encoder = spec.encoder(size + classes, code_size(spec.num_latents))
    return Chains(spec.encoder(size, classes), encoder, spec.decoder(spec.num_latents + classes, size))


# --- forward ----------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """What the way forward makes of each class and row, with the tapes of the encoder and the decoder."""

    q: Gaussian
    z: Float[Array, "classes rows num_latents"]
    output: Float[Array, "classes rows features"]
    seen_by: Tape
    made_by: Tape


def way(params: Params, data: Data, eps: Array, spec: Spec) -> Way:
    """Run the encoder and the decoder with every class (2)."""
    theta, phi, (_, encoder, decoder) = params.theta, params.phi, chains(params.theta, spec)
    classes = np.eye(spec.num_classes, dtype=data.x.dtype)[:, None, :]
    code, seen_by = forward(encoder, phi.encoder, beside(data.x, classes))
    q = Gaussian.of(code, spec.num_latents)
    z = q.push(eps)
    output, made_by = forward(decoder, theta.decoder, beside(z, classes))
    return Way(q, z, output, seen_by, made_by)


def beside(left: Float[Array, "*batch a"], right: Float[Array, "*batch b"]) -> Float[Array, "*batch a+b"]:
    """Return vectors side by side, each repeated along the batch dimensions that only the other one has."""
    batch = np.broadcast_shapes(left.shape[:-1], right.shape[:-1])
    return np.concatenate([np.broadcast_to(each, (*batch, each.shape[-1])) for each in (left, right)], -1)


def log_weights_by_class(found: Way, log_prob: Array, prior: Prior, eps: Array) -> Float[Array, "classes rows"]:
    """Return (3)."""
    log_joint = log_prob + np.log(prior.class_probs)[:, None] + standard_log_prob(found.z)
    return log_joint - found.q.log_prob_at(eps)


class Labels(NamedTuple):
    """What is known of the labels, classes first.

    is_label: whether a class is the label of the row. has_one: whether the row has one. log_softmax: of the classifier.
    """

    is_label: Bool[Array, "classes rows"]
    has_one: Bool[Array, "rows"]
    log_softmax: Float[Array, "classes rows"]

    @classmethod
    def of(cls, logits: Float[Array, "rows classes"], label: Array) -> "Labels":
        """Return what a classifier and the labels tell."""
        is_label = label == np.arange(logits.shape[-1])[:, None]
        return cls(is_label, label >= 0, log_softmax(logits, axis=-1).T)

    @property
    def log_q(self) -> Float[Array, "classes rows"]:
        """The logarithm of (1), finite where it is of 0."""
        return np.where(self.has_one, np.where(self.is_label, 0.0, RULED_OUT), self.log_softmax)

    @property
    def log_right(self) -> Float[Array, "rows"]:
        """The classifier's log probability of the label; 0 where there is none."""
        return np.where(self.is_label, self.log_softmax, 0.0).sum(0)


# --- the bound of one draw, and back ----------------------------------------------------------------------------------


def value_and_gradient(
    params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec
) -> tuple[float, Params]:
    """Return (5) at one draw, and its gradient."""
    theta, phi, eps, alpha = params.theta, params.phi, noise["latent"], prior.classification_weight
    classifier, encoder, decoder = chains(theta, spec)
    logits, read_by = forward(classifier, phi.classifier, data.x)
    labels, found = Labels.of(logits, data.label), way(params, data, eps, spec)
    of_x = seen(spec.likelihood, data.x, found.output, noise_scale(prior, theta))
    log_r = labels.log_q
    r, h = np.exp(log_r), log_weights_by_class(found, of_x.log_prob, prior, eps) - log_r
    bound = (r * h).sum(0)  # (4)
    value = bound.sum() + alpha * labels.log_right.sum()

    by_output = r[..., None] * of_x.by_output
    by_decoder, by_input = backward(decoder, theta.decoder, found.made_by, by_output)
    by_z = by_input[..., : spec.num_latents] - r[..., None] * found.z  # (9)
    by_encoder, _ = backward(encoder, phi.encoder, found.seen_by, found.q.by_code(eps, by_z, r))  # (10)
    by_right = np.where(labels.has_one, labels.is_label - np.exp(labels.log_softmax), 0.0)
    by_logits = r * (h - bound) + alpha * by_right  # (7), (8)
    by_classifier, _ = backward(classifier, phi.classifier, read_by, by_logits.T)
    by_theta = Theta(by_decoder, noise_gradient(theta, of_x, r))
    return float(value), Params(by_theta, Phi(by_classifier, by_encoder))


# --- what is known of each row ----------------------------------------------------------------------------------------


def classified(params: Params, data: Data, spec: Spec) -> Labels:
    """Return what the classifier and the labels tell of each row."""
    classifier = chains(params.theta, spec).classifier
    return Labels.of(forward(classifier, params.phi.classifier, data.x)[0], data.label)


def log_weights(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (11) of each row, its logarithm: an importance weight in which the label is summed out.

    Rows with a label count as seen with it, so that the bound is on log p(x, y), else on log p(x); alpha has no part.
    """
    eps = noise["latent"][..., None, :, :]  # the same for every class
    found = way(params, data, eps, spec)
    log_prob = log_likelihood(spec.likelihood, data.x, found.output, noise_scale(prior, params.theta))
    w = log_weights_by_class(found, log_prob, prior, eps)
    is_label = data.label == np.arange(spec.num_classes)[:, None]
    return logsumexp(np.where(is_label | (data.label < 0), w, -np.inf), axis=-2)


def bounds(params: Params, data: Data, prior: Prior, noise: dict[str, Array], spec: Spec) -> Float[Array, "rows"]:
    """Return (4) of each row with (6) for w, the reconstruction at this draw; alpha has no part."""
    found, log_r = way(params, data, noise["latent"][..., None, :, :], spec), classified(params, data, spec).log_q
    log_prob = log_likelihood(spec.likelihood, data.x, found.output, noise_scale(prior, params.theta))
    w = log_prob + np.log(prior.class_probs)[:, None] - found.q.kl()
    return (np.exp(log_r) * (w - log_r)).sum(-2)


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return what the networks make of the features of each row; a label that it has is not looked at.

    label_probs: (rows, classes), q(label). label: the most probable class. latent: (rows, num_latents), the mean of
    q(latent) given that class. x: (rows, features), the reconstruction at both, probabilities or means.
    """
    _, encoder, decoder = chains(params.theta, spec)
    probs = np.exp(classified(params, data, spec).log_softmax).T
    label = probs.argmax(-1)
    one_hot = np.eye(spec.num_classes)[label]
    latent = forward(encoder, params.phi.encoder, beside(data.x, one_hot))[0][..., : spec.num_latents]
    output = forward(decoder, params.theta.decoder, beside(latent, one_hot))[0]
    x = mean(spec.likelihood, output)
    return {"label_probs": probs, "label": label, "latent": latent, "x": x}


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return the part of the rows with a label whose most probable class it is; nothing where no row has one."""
    known = np.asarray(data.label) >= 0
    if not known.any():
        return {}
    most_probable = by_rows(lambda part: classified(params, part, spec).log_softmax.argmax(0), data)
    right = (most_probable == data.label)[known]
    return {"num_labelled": float(known.sum()), "accuracy": float(right.mean())}


def baselines(params: Params, fitted: Data, data: Data, validation: Data | None, spec: Spec) -> dict[str, float]:
    """Return the accuracy of simpler models of the label, which are fitted to the same rows, at most 5,000 of them.

    Of more, those with a label come first. Nothing where no row that is fitted, or none of the data, has a label.
    """
    known = np.asarray(fitted.label) >= 0
    if not known.any() or not (np.asarray(data.label) >= 0).any():
        return {}
    first = np.argsort(~known, kind="stable")[:BASELINE_ROWS]
    x, label = fitted.x[first], fitted.label[first]
    network = label_baselines.labelled_only(x, label, spec.num_classes, hidden=spec.hidden, num_steps=BASELINE_STEPS)
    rbm = label_baselines.classification_rbm(x, label, spec.num_classes, num_steps=BASELINE_STEPS)
    pseudo = label_baselines.pseudo_labels(x, label, spec.num_classes)
    models: dict[str, label_baselines.Classifier] = {
        "labelled_only": network,
        "classification_rbm": rbm,
        "pseudo_labels": pseudo,
    }
    found = label_baselines.accuracies({name: (each, data.x[:]) for name, each in models.items()}, data.label)
    return {f"{name}_accuracy": value for name, value in found.items()}
