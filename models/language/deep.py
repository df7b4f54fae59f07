"""What deep models share: their options, their networks, Gaussian codes, and the distribution of what is observed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from latentzoo.models.language import networks
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Chain, Layers
from latentzoo.models.language.ppl import Handle
from latentzoo.models.language.stream import Stream, blocks, extremes, variance

Likelihood = Literal["bernoulli", "gaussian", "learned_gaussian"]
Posterior = Literal["diagonal", "full"]

CHANNELS = (8, 16)  # of the convolutions
EXAMPLE_FEATURES = {"mlp": 6, "convolutional": 36}  # where there are no data
MOST_LATENTS = 1000


@dataclass(frozen=True, eq=False)
class OwnNetworks:
    """Networks of your own in the place of ours, in the library that the programs run in.

    encoder: from features (*batch, features) to the numbers of q(latent), (*batch, code_size): the mean, then log
        scales or a matrix, as `gaussian` reads them.
    decoder: from latent coordinates (*batch, num_latents) to logits or means, (*batch, features).

    They register their parameters by the library's own hooks: `pyro.module("decoder", net)(z)` of a `torch.nn.Module`,
    `flax_module`, `eqx_module` or `numpyro.module` in NumPyro. Numbers come in the precision of data and prior.
    """

    encoder: Callable[[Any], Any]
    decoder: Callable[[Any], Any]


@dataclass(frozen=True)
class DeepSpec:
    """What changes a deep program.

    num_latents: the number of latent coordinates, d.
    hidden: the sizes of the hidden layers, of the encoder in this order and of the decoder in the other; none: linear.
    likelihood: of a feature given the decoder's output: "bernoulli", "gaussian" with the prior's noise_scale, or
        "learned_gaussian", whose noise is a point parameter.
    """

    num_latents: int = 2
    hidden: tuple[int, ...] = (64,)
    likelihood: Likelihood = "bernoulli"

    def __post_init__(self) -> None:
        if not 1 <= self.num_latents <= MOST_LATENTS:
            raise UserError(f"num_latents is {self.num_latents}: it must be from 1 to {MOST_LATENTS:,}")
        networks.check_hidden(self.hidden)

    @property
    def kind(self) -> str:
        """Which networks: "mlp", or of a Spec that has the choice what it says."""
        return str(getattr(self, "network", "mlp"))

    @property
    def example_features(self) -> int:
        """The number of features where there are no data."""
        return EXAMPLE_FEATURES[self.kind]

    def encoder(self, num_features: int, outputs: int) -> Chain:
        """Return the network from features to so many outputs."""
        if self.kind == "convolutional":
            return networks.convolution(networks.image_side(num_features, "data.x"), CHANNELS, outputs)
        return networks.mlp(num_features, self.hidden, outputs)

    def decoder(self, inputs: int, num_features: int) -> Chain:
        """Return the network from so many inputs to features."""
        if self.kind == "convolutional":
            return networks.deconvolution(inputs, CHANNELS, networks.image_side(num_features, "data.x"))
        return networks.mlp(inputs, self.hidden[::-1], num_features)


def decoded(ppl: Handle, spec: DeepSpec, decoder: Layers, inputs: Any) -> Any:
    """Return the output of the decoder: logits, or means."""
    return networks.run(ppl, spec.decoder(inputs.shape[-1], decoder["out"].bias.shape[-1]), decoder, inputs)


# --- what is observed -------------------------------------------------------------------------------------------------


def observed(ppl: Handle, likelihood: Likelihood, output: Any, noise_scale: Any) -> Any:
    """Return the distribution of the features of a row, given the output of the decoder: logits, or means."""
    if likelihood == "bernoulli":
        # Grey values are taken, and told of by `check_features`.
        return ppl.dist.Bernoulli(logits=output, validate_args=False).to_event(1)
    return ppl.dist.Normal(output, noise_scale).to_event(1)


def noise_scale(ppl: Handle, prior: Any, theta: Any) -> Any:
    """Return the standard deviation of Gaussian noise: the point parameter where it is learnt, else the prior's."""
    return prior.noise_scale if theta.noise_log_scale is None else ppl.xp.exp(theta.noise_log_scale)


def check_features(x: Float[np.ndarray, "rows features"] | Stream, likelihood: Likelihood) -> None:
    """Raise `UserError` that names the first value which the likelihood does not know."""
    low, high = extremes(x)
    if likelihood != "bernoulli" or (low >= 0.0 and high <= 1.0):
        return
    for start, block in blocks(x):
        for row, column in np.argwhere((block < 0.0) | (block > 1.0))[:1]:
            value = f"data.x[{start + row}, {column}] is {block[row, column]:g}"
            cure = "scale or binarise the data, or take likelihood='gaussian'"
            raise UserError(f"{value}: a Bernoulli value is from 0 to 1; {cure}")


# --- codes ------------------------------------------------------------------------------------------------------------


def code_size(num_latents: int, posterior: Posterior = "diagonal") -> int:
    """Return how many numbers of an encoder a Gaussian takes: its mean, and log scales or a matrix."""
    return num_latents * (2 if posterior == "diagonal" else 1 + num_latents)


def start_code(chain: Chain, rng: np.random.Generator, num_latents: int) -> Layers:
    """Return random layers of an encoder whose Gaussians start with standard deviations of one, whatever comes in."""
    layers = networks.start(chain, rng)
    layers["out"].weight[:, num_latents:] = 0.0
    return layers


def gaussian(ppl: Handle, code: Any, num_latents: int, posterior: Posterior = "diagonal") -> Any:
    """Return the Gaussian that an encoder's numbers stand for: the mean first.

    "diagonal": the logarithms of its standard deviations. "full": a matrix, row by row, whose lower triangle, the
    diagonal through exp, is the Cholesky factor of its covariance.
    """
    loc, rest = code[..., :num_latents], code[..., num_latents:]
    if posterior == "diagonal":
        return ppl.dist.Normal(loc, ppl.xp.exp(rest)).to_event(1)
    factor = ppl.nn.cholesky(rest.reshape((*rest.shape[:-1], num_latents, num_latents)))
    return ppl.dist.MultivariateNormal(loc, scale_tril=factor)


def standard_normal(ppl: Handle, num_latents: int, like: Any) -> Any:
    """Return a standard normal of so many coordinates, of the precision of a number."""
    zero = ppl.xp.zeros_like(like)
    return ppl.dist.Normal(zero, zero + 1).expand((num_latents,)).to_event(1)


def num_features(data: Any, spec: DeepSpec) -> int:
    """Return the number of features of data; of none, an example's."""
    return spec.example_features if data.x is None else int(np.shape(data.x)[1])


def default_noise(x: Any) -> Any:
    """Return half the standard deviation of the features, over all of them; 0.5 where there are none."""
    spread = 1.0 if x is None else float(np.sqrt(variance(x).mean()))
    return np.array(0.5 * (spread if spread > 0.0 else 1.0))


def start_noise(data: Any, prior: Any, spec: DeepSpec) -> Any:
    """Return where the logarithm of a noise that is learnt starts; None where none is."""
    return np.log(prior.noise_scale) if spec.likelihood == "learned_gaussian" else None
