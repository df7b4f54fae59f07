"""One Gaussian with a full covariance."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Handle
from latentzoo.models.two_modes import Data, Prior, Spec, moments

LOSS = "sampled"
LOCAL = ()  # there are no rows


class Phi(NamedTuple):
    """Variational parameters, all real-valued.

    loc: the mean of q(x).
    raw_scale: a real matrix whose lower triangle, the diagonal through exp, is the Cholesky factor of the covariance
        of q(x); what is above the diagonal counts for nothing.
    """

    loc: Float[Any, "num_dims"]
    raw_scale: Float[Any, "num_dims num_dims"]


def guide(ppl: Handle, data: Data, prior: Prior, theta: None, phi: Phi, spec: Spec) -> None:
    """Draw the point from q."""
    ppl.sample("x", ppl.dist.MultivariateNormal(phi.loc, scale_tril=ppl.nn.cholesky(phi.raw_scale)))


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at a point drawn from the Gaussian that has the moments of the target, as narrow as its modes."""
    mean, covariance = moments(prior)
    loc = mean + np.linalg.cholesky(covariance) @ rng.normal(size=spec.num_dims)
    width = np.log(np.asarray(prior.scale, dtype=np.float64)).mean()
    return Params(phi=Phi(loc, width * np.eye(spec.num_dims)))
