"""A variational autoencoder with two latents: what is seen comes from both of them together, through one network.

    first[n]  ~ Normal(0, I)                                       y_n, num_first coordinates
    second[n] ~ Normal(0, I)                                       z_n, num_latents coordinates
    x[n]      ~ Bernoulli(logits = decoder(first[n], second[n]))   x_n, one value for each feature
             or Normal(decoder(first[n], second[n]), noise_scale^2 I)

p(x, y, z) = p(x | y, z) p(y) p(z): the two are independent until x is seen. The guide keeps them so, q(y | x) q(z | x),
each with an encoder of its own. Nothing but their networks tells the two apart: with the two stacked it is a VAE of
num_first + num_latents coordinates, and with a linear decoder and Gaussian noise it is probabilistic PCA.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from jaxtyping import Float

from latentzoo.models.language.contract import optional, positive
from latentzoo.models.language.deep import (
    MOST_LATENTS,
    DeepSpec,
    decoded,
    default_noise,
    noise_scale,
    observed,
    standard_normal,
)
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Layer
from latentzoo.models.language.ppl import Handle
from latentzoo.models.readers import features

MAX_PLATE_NESTING = 1
ROWS = ("rows",)


@dataclass(frozen=True)
class Spec(DeepSpec):
    """What changes the program, beside what `DeepSpec` says.

    num_latents: the number of coordinates of the second latent.
    num_first: the number of coordinates of the first.
    hidden: the sizes of the hidden layers, of each encoder in this order, of the decoder in the other; none: linear.
    """

    num_first: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_first <= MOST_LATENTS:
            raise UserError(f"num_first is {self.num_first}: it must be from 1 to {MOST_LATENTS:,}")


# Rows of features and their files are those of every autoencoder that knows no labels.
Data = features.Data
check_data, options_like = features.check_data, features.options_like
read, write, default_data = features.read, features.write, features.default_data


class Prior(NamedTuple):
    """Hyperparameters.

    noise_scale: the standard deviation of Gaussian noise that is not learnt.
    """

    noise_scale: Annotated[Float[Any, ""], positive]


class Theta(NamedTuple):
    """Point parameters, all real-valued.

    decoder: the layers of the network from both latents, the first one's coordinates before the second's, to the
        features.
    noise_log_scale: the logarithm of the standard deviation of Gaussian noise; None where it is not learnt.
    """

    decoder: dict[str, Layer]
    noise_log_scale: Annotated[Float[Any, ""], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about."""
    with ppl.rows("rows", data):
        first = ppl.sample("first", standard_normal(ppl, spec.num_first, prior.noise_scale))
        second = ppl.sample("second", standard_normal(ppl, spec.num_latents, prior.noise_scale))
        output = decoded(ppl, spec, theta.decoder, ppl.xp.concatenate([first, second], -1))
        seen = observed(ppl, spec.likelihood, output, noise_scale(ppl, prior, theta))
        return Data(ppl.sample("x", seen, obs=data.x), data.label, data.columns)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"first": ("first_latents",), "second": ("second_latents",), "x": ("features",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return a noise of half the spread of the data, or of a half where there are none."""
    return Prior(default_noise(None if data is None else data.x))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: no plate has labels without a meaning, though the coordinates of each latent may be rotated."""
    return None
