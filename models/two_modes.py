"""Two modes: a density with two humps, to which one Gaussian is fitted; nothing is observed.

    x ~ weights[0] Normal(loc[0], scale[0]^2 I) + weights[1] Normal(loc[1], scale[1]^2 I)

The target is exp(log_evidence) times this density p: it need not be normalised, and log_evidence is the logarithm of
its integral. The ELBO of a Gaussian q is log_evidence - KL(q || p), the exclusive divergence, which is lowest on one
mode or, where they are near, across both. The inclusive divergence KL(p || q) is lowest at the moments of p. Minka
(2005), Divergence measures and message passing, tells of both and of what lies between.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import positive, simplex
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Handle

MAX_PLATE_NESTING = 0
ROWS: tuple[str, ...] = ()
MOST_DIMS = 1000
MODE = 3.0  # by default the modes are at -3 and 3


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    num_dims: how many coordinates the latent point has.
    """

    num_dims: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_dims <= MOST_DIMS:
            raise UserError(f"num_dims is {self.num_dims}: it must be from 1 to {MOST_DIMS:,}")


class Data(NamedTuple):
    """Nothing is observed."""


class Prior(NamedTuple):
    """The target.

    weights: how much of it each mode has.
    loc: where they are.
    scale: how wide they are: a standard deviation, the same in all directions.
    log_evidence: the logarithm of the integral of the target, in nats; 0 where it is a density.
    """

    weights: Annotated[Float[Any, "2"], simplex]
    loc: Float[Any, "2 num_dims"]
    scale: Annotated[Float[Any, "2"], positive]
    log_evidence: Float[Any, ""]


class Theta(NamedTuple):
    """No point parameters."""


def model(ppl: Handle, data: Data, prior: Prior, theta: None, spec: Spec) -> Data:
    """Tell how the point comes about."""
    dist, xp = ppl.dist, ppl.xp
    scale = prior.scale[..., None] + xp.zeros_like(prior.loc)
    modes = dist.Normal(prior.loc, scale).to_event(1)
    ppl.sample("x", dist.MixtureSameFamily(dist.Categorical(prior.weights), modes))
    ppl.factor("evidence", prior.log_evidence)
    return Data()


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"x": ("coordinates",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return two equal modes of unit width at -3 and 3 along the first axis."""
    loc = np.zeros((2, spec.num_dims))
    loc[:, 0] = -MODE, MODE
    return Prior(np.full(2, 0.5), loc, np.ones(2), np.array(0.0))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: there is no plate, and no site that bears a label."""
    return None


class Moments(NamedTuple):
    """The mean and the covariance of the target."""

    mean: Float[np.ndarray, "num_dims"]
    covariance: Float[np.ndarray, "num_dims num_dims"]


def moments(prior: Prior) -> Moments:
    """Return the moments of the target: E x = sum_k w_k m_k, and the covariance within and between the modes."""
    weights, loc, scale = (np.asarray(field, dtype=np.float64) for field in prior[:3])
    mean = weights @ loc
    centred = loc - mean
    within = (weights @ scale**2) * np.eye(len(mean))
    return Moments(mean, within + (weights * centred.T) @ centred)
