"""A variational autoencoder whose latent coordinates gather around a few centres: clusters, through a neural network.

    component[n] ~ Categorical(weights)                                     z_n
    latent[n]    ~ Normal(loc[component[n]], diag scale[component[n]]^2)    w_n, num_latents coordinates
    x[n]         ~ Bernoulli(logits = decoder(latent[n]))                   x_n, one value for each feature
                or Normal(decoder(latent[n]), noise_scale^2 I)

The decoder and the mixture are point parameters; the guide amortises the posterior of the latent coordinates by an
encoder, and the component is summed out. The family of VaDE (Jiang et al., 2017). With one component at 0 of scale 1
it is the autoencoder `vae`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from jaxtyping import Float

from latentzoo.models.language.contract import optional, positive
from latentzoo.models.language.deep import (
    DeepSpec,
    code_size,
    decoded,
    default_noise,
    noise_scale,
    observed,
)
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Layer
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.readers import features

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
MOST_COMPONENTS = 1000


@dataclass(frozen=True)
class Spec(DeepSpec):
    """What changes the program, beside what `DeepSpec` says.

    num_components: the number of components, K.
    assignment: q(component) of a row: "exact", that of the mixture at the latent coordinates that were drawn, or
        "amortised", which the encoder makes of the features.
    """

    num_components: int = 3
    assignment: Literal["exact", "amortised"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_components <= MOST_COMPONENTS:
            raise UserError(f"num_components is {self.num_components}: it must be from 1 to {MOST_COMPONENTS:,}")

    @property
    def num_codes(self) -> int:
        """How many numbers the encoder makes: those of a Gaussian, then logits of components where it makes them."""
        return code_size(self.num_latents) + (self.num_components if self.assignment == "amortised" else 0)


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
    weights_logits: of the weights of the components, up to a constant.
    loc: the centres of the components.
    log_scale: the logarithms of their standard deviations.
    noise_log_scale: the logarithm of the standard deviation of Gaussian noise; None where it is not learnt.
    """

    decoder: dict[str, Layer]
    weights_logits: Float[Any, "num_components"]
    loc: Float[Any, "num_components num_latents"]
    log_scale: Float[Any, "num_components num_latents"]
    noise_log_scale: Annotated[Float[Any, ""], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about."""
    dist = ppl.dist
    weights = ppl.deterministic("weights", ppl.nn.softmax(theta.weights_logits))
    with ppl.plate("components", spec.num_components):
        loc = ppl.deterministic("loc", theta.loc)
        scale = ppl.deterministic("scale", ppl.xp.exp(theta.log_scale))

    with ppl.rows("rows", data):
        component = ppl.sample("component", dist.Categorical(weights), infer=ENUMERATE)
        around = dist.Normal(ppl.at(loc, component, event_dim=1), ppl.at(scale, component, event_dim=1))
        latent = ppl.sample("latent", around.to_event(1))
        output = decoded(ppl, spec, theta.decoder, latent)
        seen = observed(ppl, spec.likelihood, output, noise_scale(ppl, prior, theta))
        return Data(ppl.sample("x", seen, obs=data.x), data.label, data.columns)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    latents = ("latents",)
    return {"weights": ("components",), "loc": latents, "scale": latents, "latent": latents, "x": ("features",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return a noise of half the spread of the data, or of a half where there are none."""
    return Prior(default_noise(None if data is None else data.x))


def exchangeable(prior: Prior, spec: Spec) -> str:
    """Return the plate whose labels mean nothing: the components, which no prior tells apart."""
    return "components"
