"""Where a mixture of codes starts: an autoencoder, then EM on its codes (Jiang et al., 2017, section 3.3).

The autoencoder has the networks of the model. Its codes are standardised, which the layer before them and the layer
behind take on: z' = (z - m) / s is the same function with weights and biases changed. Gaussians with diagonal
covariances are fitted to them, and q(latent) of a row starts half as wide as the components are on average.
"""

from typing import Any

import numpy as np

from latentzoo.guides import gaussian_mixture as mixture_guide
from latentzoo.guides.mixture_vae import Phi
from latentzoo.inference import coordinate_ascent
from latentzoo.inference.autoencoder import fit_autoencoder
from latentzoo.inference.closed_form import gaussian_mixture
from latentzoo.inference.run import drive
from latentzoo.models import gaussian_mixture as mixture
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Layer, Layers
from latentzoo.models.mixture_vae import Data, Prior, Spec

NUM_STEPS = 100  # of the autoencoder, and the most of EM
NUM_RESTARTS = 5  # of EM
MOST_ROWS = 5000  # drawn at random: more tell no more about where to start


def clustered_start(first: Params, data: Data, prior: Prior, spec: Spec, rng: np.random.Generator) -> Params:
    """Return the random start with its networks and its mixture replaced by those of the autoencoder and of EM.

    first: itself, too, where the rows are too few, or too much alike, to have so many clusters.
    """
    if (contract.num_rows(data) or 0) < spec.num_components:
        return first
    x = contract.draw_rows(data, MOST_ROWS, rng).x[:]
    found = fit_autoencoder(x, spec, seed=int(rng.integers(2**32)), num_steps=NUM_STEPS)
    codes = found.encode(x)
    mean, scale = codes.mean(0), codes.std(0)
    if not (scale > 0.0).all():
        return first
    mixed = _mixture((codes - mean) / scale, spec, rng)
    if mixed is None:
        return first
    log_width = mixed.raw_scale.mean(0) - np.log(2.0)
    theta = first.theta._replace(
        decoder=_shifted_inputs(found.decoder[1], mean, scale),
        weights_logits=mixed.weights_logits,
        loc=mixed.loc,
        log_scale=mixed.raw_scale,
    )
    return Params(theta, Phi(_with_outputs(first.phi.encoder, found.encoder[1], mean, scale, log_width)))


def _mixture(codes: np.ndarray, spec: Spec, rng: np.random.Generator) -> Any:
    """Return the parameters of the best of several mixtures; None where no start has enough rows that differ."""
    own = mixture.Spec(spec.num_components, "diag")
    rows = mixture.Data(codes)
    prior = mixture.default_prior(rows, own)
    best = None
    for _ in range(NUM_RESTARTS):
        try:
            start = mixture_guide.init(rows, prior, own, rng, point=True)
        except UserError:
            return None
        climb = coordinate_ascent.steps(gaussian_mixture, gaussian_mixture.e_step, rows, prior, own, start, tol=1e-5)
        run = drive(climb, num_steps=NUM_STEPS)
        if best is None or run.elbo > best.elbo:
            best = run
    return None if best is None else best.params.theta


def _shifted_inputs(decoder: Layers, mean: np.ndarray, scale: np.ndarray) -> Layers:
    """Return a decoder of standardised codes: W z + b = (s W) z' + (b + m W)."""
    name = next(iter(decoder))
    weight, bias = decoder[name]
    return {**decoder, name: Layer(scale[:, None] * weight, bias + mean @ weight)}


def _with_outputs(first: Layers, encoder: Layers, mean: np.ndarray, scale: np.ndarray, log_width: np.ndarray) -> Layers:
    """Return an encoder whose means are the standardised codes, and whose scales are these for every row."""
    size = len(mean)
    weight, bias = np.zeros_like(first["out"].weight), np.zeros_like(first["out"].bias)
    weight[:, :size], bias[:size] = encoder["out"].weight / scale, (encoder["out"].bias - mean) / scale
    bias[size : 2 * size] = log_width
    return {**encoder, "out": Layer(weight, bias)}
