"""The deterministic autoencoder: what a probabilistic model is to be compared with, of the same networks.

It has the encoder's means as codes, no noise and no divergence: minus log p(x | f(g(x))) is minimised with the gradient
of `backward.py`: of few rows by L-BFGS, of many by Adam (Kingma & Ba, 2015) on minibatches. Its codes have no
distribution: samples come from the best Gaussian on them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from latentzoo.inference.backward import backward, forward
from latentzoo.inference.codes import mean, seen
from latentzoo.models.language import contract
from latentzoo.models.language.deep import DeepSpec, Likelihood
from latentzoo.models.language.networks import Chain, Layers, start

NUM_STEPS = 500  # of L-BFGS
MOST_NUMBERS = 20_000  # that L-BFGS visits at each step; data of more are seen in minibatches
BATCH_ROWS, NUM_BATCHES, RATE = 128, 2000, 2e-2  # of Adam, whose rate falls to 0 along a cosine
FEWEST_BATCHES, WORK = 200, 2 * 10**8  # numbers that the batches have together: some seconds
CHUNK_ROWS, MOST_ROWS = 4096, 20_000  # that are visited at once, and whose codes and losses are averaged

Loss = Callable[[Float[np.ndarray, "numbers"], Float[np.ndarray, "rows features"]], tuple[float, np.ndarray]]


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
    rng = np.random.default_rng(seed)
    encoder, decoder = spec.encoder(x.shape[1], spec.num_latents), spec.decoder(spec.num_latents, x.shape[1])
    begin = {"encoder": start(encoder, rng), "decoder": start(decoder, rng)}

    def loss(numbers: Float[np.ndarray, "numbers"], x: Float[np.ndarray, "rows features"]) -> tuple[float, np.ndarray]:
        layers = contract.map_leaves(lambda _, leaf: leaf.astype(x.dtype), contract.from_flat(numbers, begin))
        z, tape = forward(encoder, layers["encoder"], x)
        output, made = forward(decoder, layers["decoder"], z)
        of_x = seen(spec.likelihood, x, output, 1.0)
        by_decoder, by_z = backward(decoder, layers["decoder"], made, of_x.by_output)
        by_encoder, _ = backward(encoder, layers["encoder"], tape, by_z)
        gradient = contract.flat({"encoder": by_encoder, "decoder": by_decoder})
        return -float(of_x.log_prob.mean()), -gradient / len(x)

    if x.size <= MOST_NUMBERS:
        x = np.asarray(x[:], dtype=np.float64)
        options = {"maxiter": num_steps}
        found = minimize(loss, contract.flat(begin), args=(x,), jac=True, method="L-BFGS-B", options=options).x
    else:
        found = _adam(loss, contract.flat(begin), x, rng)
    layers = contract.from_flat(found, begin)
    parts = [x[first : first + CHUNK_ROWS] for first in range(0, min(len(x), MOST_ROWS), CHUNK_ROWS)]
    error = sum(loss(found, part)[0] * len(part) for part in parts) / sum(map(len, parts))
    codes = np.concatenate([forward(encoder, layers["encoder"], part)[0] for part in parts])
    covariance = np.atleast_2d(np.cov(codes.T, bias=True)) + 1e-9 * np.eye(spec.num_latents)
    pair = (encoder, layers["encoder"]), (decoder, layers["decoder"])
    return Autoencoder(*pair, spec.likelihood, error, codes.mean(0), np.linalg.cholesky(covariance))


def _adam(
    loss: Loss, numbers: Float[np.ndarray, "numbers"], x: Float[np.ndarray, "rows features"], rng: np.random.Generator
) -> Float[np.ndarray, "numbers"]:
    """Return where Adam on minibatches, each drawn at random, ends."""
    size = min(BATCH_ROWS, len(x))
    num_batches = int(np.clip(WORK // (size * x.shape[1]), FEWEST_BATCHES, NUM_BATCHES))
    first, second = np.zeros_like(numbers), np.zeros_like(numbers)  # moments
    for step in range(1, num_batches + 1):
        _, gradient = loss(numbers, x[rng.integers(len(x), size=size)].astype(np.float32))
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        rate = 0.5 * RATE * (1.0 + np.cos(np.pi * step / num_batches))
        numbers = numbers - rate * (first / (1.0 - 0.9**step)) / (np.sqrt(second / (1.0 - 0.999**step)) + 1e-8)
    return numbers
