"""The deterministic autoencoder: what a probabilistic model is to be compared with, of the same networks.

It has the encoder's means as codes, no noise and no divergence: minus log p(x | f(g(x))) is minimised by L-BFGS, with
the gradient of `backward.py`. Its codes have no distribution: samples come from the best Gaussian on them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from latentzoo.inference.backward import backward, forward
from latentzoo.inference.codes import mean, seen
from latentzoo.models.language import contract
from latentzoo.models.language.deep import DeepSpec, Likelihood
from latentzoo.models.language.networks import Chain, Layers, start

NUM_STEPS = 500


@dataclass(frozen=True)
class Autoencoder:
    """A fitted autoencoder.

    encoder, decoder: the chains and their layers. loss: what was minimised, per row. likelihood: of a feature.
    code_mean, code_factor: of the Gaussian on the codes of the fitted rows.
    """

    encoder: tuple[Chain, Layers]
    decoder: tuple[Chain, Layers]
    likelihood: Likelihood
    loss: float
    code_mean: Float[np.ndarray, "latents"]
    code_factor: Float[np.ndarray, "latents latents"]

    def encode(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows latents"]:
        """Return the codes of rows."""
        return forward(*self.encoder, x)[0]

    def decode(self, z: Float[np.ndarray, "rows latents"]) -> Float[np.ndarray, "rows features"]:
        """Return the probabilities, or means, of features at codes."""
        output = forward(*self.decoder, z)[0]
        return mean(self.likelihood, output)

    def reconstruct(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        """Return what is left of rows on the way through their codes."""
        return self.decode(self.encode(x))

    def sample(self, num_rows: int, seed: int = 0) -> Float[np.ndarray, "rows features"]:
        """Return the features at codes drawn from the Gaussian on the codes of the fitted rows."""
        eps = np.random.default_rng(seed).normal(size=(num_rows, len(self.code_mean)))
        return self.decode(self.code_mean + eps @ self.code_factor.T)


def fit_autoencoder(
    x: Float[np.ndarray, "rows features"], spec: DeepSpec, *, seed: int = 0, num_steps: int = NUM_STEPS
) -> Autoencoder:
    """Fit an autoencoder with the networks of a deep model's Spec.

    Bernoulli features have their cross entropy, Gaussian ones half the squared error of unit noise. The same seed gives
    the same fit.
    """
    x = np.asarray(x, dtype=np.float64)
    rng = np.random.default_rng(seed)
    encoder, decoder = spec.encoder(x.shape[1], spec.num_latents), spec.decoder(spec.num_latents, x.shape[1])
    begin = {"encoder": start(encoder, rng), "decoder": start(decoder, rng)}

    def loss(numbers: Float[np.ndarray, "numbers"]) -> tuple[float, Float[np.ndarray, "numbers"]]:
        layers = contract.from_flat(numbers, begin)
        z, tape = forward(encoder, layers["encoder"], x)
        output, made = forward(decoder, layers["decoder"], z)
        of_x = seen(spec.likelihood, x, output, 1.0)
        by_decoder, by_z = backward(decoder, layers["decoder"], made, of_x.by_output)
        by_encoder, _ = backward(encoder, layers["encoder"], tape, by_z)
        return -of_x.log_prob.mean(), -contract.flat({"encoder": by_encoder, "decoder": by_decoder}) / len(x)

    found = minimize(loss, contract.flat(begin), jac=True, method="L-BFGS-B", options={"maxiter": num_steps})
    layers = contract.from_flat(found.x, begin)
    codes = forward(encoder, layers["encoder"], x)[0]
    covariance = np.atleast_2d(np.cov(codes.T)) + 1e-9 * np.eye(spec.num_latents)
    pair = (encoder, layers["encoder"]), (decoder, layers["decoder"])
    return Autoencoder(*pair, spec.likelihood, float(found.fun), codes.mean(0), np.linalg.cholesky(covariance))
