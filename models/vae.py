"""A variational autoencoder: what is seen comes from a few latent coordinates, through a neural network.

    latent[n] ~ Normal(0, I)                            z_n, num_latents coordinates
    x[n]      ~ Bernoulli(logits = decoder(latent[n]))  x_n, one value for each feature
             or Normal(decoder(latent[n]), noise_scale^2 I)

The decoder is a point parameter; the guide amortises the posterior of the latent coordinates by an encoder (Kingma &
Welling, 2014). With a linear decoder and Gaussian noise it is probabilistic PCA.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from jaxtyping import Float

from latentzoo.models.language.contract import optional, positive
from latentzoo.models.language.deep import (
    DeepSpec,
    OwnNetworks,
    Posterior,
    decoded,
    default_noise,
    noise_scale,
    observed,
    standard_normal,
)
from latentzoo.models.language.networks import Layer, Layers
from latentzoo.models.language.ppl import Handle
from latentzoo.models.readers import features

MAX_PLATE_NESTING = 1
ROWS = ("rows",)


@dataclass(frozen=True)
class Spec(DeepSpec):
    """What changes the program, beside what `DeepSpec` says.

    posterior: q(latent) of a row: a Gaussian with a diagonal covariance, or a full one.
    network: "mlp", or "convolutional" for square images, whose sizes are its own.
    networks: your own, `OwnNetworks`, for your own workflow: they have no derivation by hand.
    """

    posterior: Posterior = "diagonal"
    network: Literal["mlp", "convolutional"] = "mlp"
    networks: OwnNetworks | None = None


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

    decoder: the layers of the network from the latent coordinates to the features.
    noise_log_scale: the logarithm of the standard deviation of Gaussian noise; None where it is not learnt.
    """

    decoder: dict[str, Layer]
    noise_log_scale: Annotated[Float[Any, ""], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about."""
    with ppl.rows("rows", data):
        latent = ppl.sample("latent", standard_normal(ppl, spec.num_latents, prior.noise_scale))
        output = decode(ppl, theta.decoder, latent, spec)
        seen = observed(ppl, spec.likelihood, output, noise_scale(ppl, prior, theta))
        return Data(ppl.sample("x", seen, obs=data.x), data.label, data.columns)


def decode(ppl: Handle, decoder: Layers, latent: Any, spec: Spec) -> Any:
    """Return the output of the decoder at latent coordinates: logits, or means."""
    if spec.networks is not None:
        return spec.networks.decoder(latent)
    return decoded(ppl, spec, decoder, latent)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"latent": ("latents",), "x": ("features",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return a noise of half the spread of the data, or of a half where there are none."""
    return Prior(default_noise(None if data is None else data.x))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: the latent coordinates may be rotated, of which a permutation is a special case."""
    return None
