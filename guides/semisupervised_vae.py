"""A classifier and an encoder: q(label[n]) is what one makes of x[n], q(latent[n]) what the other makes of both."""

from typing import Any, NamedTuple

import numpy as np

from latentzoo.models.language.contract import Params
from latentzoo.models.language.deep import code_size, gaussian, num_features, start_code, start_noise
from latentzoo.models.language.networks import Layer, check_layers, run, start
from latentzoo.models.language.ppl import ENUMERATE, RULED_OUT, Handle
from latentzoo.models.semisupervised_vae import Data, Prior, Spec, Theta, beside, check_classes

LOSS = "enumerated"
LOCAL = ()


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    classifier: the layers of the network from the features to the logits of q(label) of rows without a label.
    encoder: the layers of the network from the features and the label to the mean of q(latent) and its log scales.
    """

    classifier: dict[str, Layer]
    encoder: dict[str, Layer]


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw the label and the latent coordinates of each row from q, which knows the labels that there are.

    A factor in a guide counts as log q: that of the labels is taken off, so that it is added to what is climbed.
    """
    xp, num_features = ppl.xp, data.x.shape[-1]
    logits: Any = run(ppl, spec.encoder(num_features, spec.num_classes), phi.classifier, data.x)
    zero = xp.zeros_like(logits)
    is_label = data.label[..., None] == ppl.array(np.arange(spec.num_classes))
    certain = xp.where(is_label, zero, zero + RULED_OUT)
    log_right = xp.where(is_label, ppl.nn.log_softmax(logits), zero).sum(-1)

    with ppl.rows("rows", data):
        known = ppl.dist.Categorical(logits=xp.where(data.label[..., None] >= 0, certain, logits))
        label = ppl.sample("label", known, infer=ENUMERATE)
        chain = spec.encoder(num_features + spec.num_classes, code_size(spec.num_latents))
        code: Any = run(ppl, chain, phi.encoder, beside(ppl, data.x, ppl.nn.one_hot(label, spec.num_classes)))
        ppl.sample("latent", gaussian(ppl, code, spec.num_latents))
        ppl.factor("classification", -prior.classification_weight * log_right)


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at random networks.

    Raises
    ------
    UserError: some rows have a label, but none of them that of some class.
    """
    check_classes(data, spec)
    size, classes = num_features(data, spec), spec.num_classes
    decoder = start(spec.decoder(spec.num_latents + classes, size), rng)
    classifier = start(spec.encoder(size, classes), rng)
    encoder = start_code(spec.encoder(size + classes, code_size(spec.num_latents)), rng, spec.num_latents)
    return Params(Theta(decoder, start_noise(data, prior, spec)), Phi(classifier, encoder))


def check_params(params: Params, spec: Spec) -> None:
    """Raise `UserError` where the layers are not those of this Spec."""
    size = np.shape(params.theta.decoder["out"].bias)[-1] if "out" in params.theta.decoder else 1
    classes = spec.num_classes
    check_layers(spec.decoder(spec.num_latents + classes, size), params.theta.decoder, "params.theta.decoder")
    check_layers(spec.encoder(size, classes), params.phi.classifier, "params.phi.classifier")
    check_layers(spec.encoder(size + classes, code_size(spec.num_latents)), params.phi.encoder, "params.phi.encoder")
