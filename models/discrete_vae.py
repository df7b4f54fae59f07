"""A variational autoencoder with discrete codes: what is seen comes from a few categories, through a neural network.

    code0[n], code1[n], ... ~ Categorical(probs[0]), Categorical(probs[1]), ...   s_n, a state of each of L variables
    x[n] ~ Bernoulli(logits = decoder(one-hot code[n]))                           x_n, one value for each feature
        or Normal(decoder(one-hot code[n]), noise_scale^2 I)

The decoder is a point parameter; the guide amortises the posterior of the code by an encoder. Few enough codes are
summed over, exactly: the truth that the score function and relaxations (Maddison, Mnih & Teh, 2017; Jang, Gu & Poole,
2017) are measured against. With one variable it is a mixture whose K components are points of the decoder.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import optional, positive, simplex
from latentzoo.models.language.deep import DeepSpec, decoded, default_noise, noise_scale, observed
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Layer
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.readers import features

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
MOST_CODES = 4096  # joint states of all variables, over which every bound is summed


@dataclass(frozen=True)
class Spec(DeepSpec):
    """What changes the program, beside what `DeepSpec` says.

    num_latents: the number of categorical variables of a code, L.
    num_states: the number of states of each of them, K; of K^L joint codes there may be 4,096.
    """

    num_states: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_states < 2:
            raise UserError(f"num_states is {self.num_states}: it must be at least 2")
        if self.num_states**self.num_latents > MOST_CODES:
            raise UserError(
                f"num_latents is {self.num_latents} and num_states {self.num_states}: all joint codes, "
                f"num_states ** num_latents, are summed over, and may be {MOST_CODES:,} at most"
            )

    @property
    def num_codes(self) -> int:
        """The number of joint codes, S = K^L."""
        return self.num_states**self.num_latents

    @property
    def code_size(self) -> int:
        """The length of the one-hot vectors of a code, one behind the other, and of the encoder's logits: L K."""
        return self.num_latents * self.num_states


# Rows of features and their files are those of every autoencoder that knows no labels.
Data = features.Data
check_data, options_like = features.check_data, features.options_like
read, write, default_data = features.read, features.write, features.default_data


class Prior(NamedTuple):
    """Hyperparameters.

    probs: how common each state of each variable is; every row sums to one.
    noise_scale: the standard deviation of Gaussian noise that is not learnt.
    """

    probs: Annotated[Float[Any, "num_latents num_states"], simplex]
    noise_scale: Annotated[Float[Any, ""], positive]


class Theta(NamedTuple):
    """Point parameters, all real-valued.

    decoder: the layers of the network from the one-hot vectors of a code to the features.
    noise_log_scale: the logarithm of the standard deviation of Gaussian noise; None where it is not learnt.
    """

    decoder: dict[str, Layer]
    noise_log_scale: Annotated[Float[Any, ""], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about."""
    with ppl.rows("rows", data):
        states = draw_code(ppl, ppl.xp.log(prior.probs), spec)
        output = decoded(ppl, spec, theta.decoder, one_hot(ppl, states, spec, prior.probs[..., :1, 0]))
        seen = observed(ppl, spec.likelihood, output, noise_scale(ppl, prior, theta))
        return Data(ppl.sample("x", seen, obs=data.x), data.label, data.columns)


def draw_code(ppl: Handle, logits: Float[Any, "*rows num_latents num_states"], spec: Spec) -> list[Any]:
    """Return the state of each variable, as the model and the guide draw it."""
    each = [ppl.dist.Categorical(logits=logits[..., index, :]) for index in range(spec.num_latents)]
    return [ppl.sample(site(index), own, infer=ENUMERATE) for index, own in enumerate(each)]


def site(index: int) -> str:
    """Return the name of a variable of the code."""
    return f"code{index}"


def one_hot(ppl: Handle, states: list[Any], spec: Spec, like: Any) -> Float[Any, "*batch code_size"]:
    """Return the one-hot vectors of a code, one behind the other; relaxed states are such vectors already.

    States that are summed over stand along axes of their own: adding zeros gives all vectors the same ones.
    """
    vectors = [ppl.nn.one_hot(each, spec.num_states) for each in states]
    zeros = ppl.xp.zeros_like(like) * sum(vectors)
    return ppl.xp.concatenate([each + zeros for each in vectors], -1)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"x": ("features",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return states that are equally common, and a noise of half the spread of the data, or of a half without data."""
    probs = np.full((spec.num_latents, spec.num_states), 1.0 / spec.num_states)
    return Prior(probs, default_noise(None if data is None else data.x))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: the states of a variable mean nothing, but the networks, which tell them apart, have no plate."""
    return None
