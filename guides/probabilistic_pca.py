"""The exact posterior of the latent coordinates: q(latent[n]) = p(latent[n] | x[n]), a multivariate normal."""

from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import Params, optional
from latentzoo.models.language.ppl import Handle
from latentzoo.models.probabilistic_pca import LEAST_NOISE, Data, Prior, Spec, Theta, check_maximum

LOSS = "sampled"
LOCAL = ("latent_mean", "latent_raw_scale")


class Phi(NamedTuple):
    """Variational parameters of each row; by default none: q(latent[n]) is the posterior at theta.

    latent_mean: the mean of q(latent[n]); None: that of the posterior.
    latent_raw_scale: a real matrix whose lower triangle, the diagonal through exp, is the Cholesky factor of the
        covariance of q(latent[n]); None: that of the posterior.
    """

    latent_mean: Annotated[Float[Any, "rows num_latents"], optional] = None
    latent_raw_scale: Annotated[Float[Any, "rows num_latents num_latents"], optional] = None


def guide(ppl: Handle, data: Data, prior: Prior, theta: Theta, phi: Phi, spec: Spec) -> None:
    """Draw the latent coordinates from q.

    Where q is the posterior, log p(x, latent) - log q(latent) is the log likelihood at every draw: its estimate, and
    that of its gradient, has no variance.
    """
    mean, precision = posterior(ppl, data, theta)
    shape = {"precision_matrix": precision}
    if phi.latent_mean is not None:
        mean = phi.latent_mean
    if phi.latent_raw_scale is not None:
        shape = {"scale_tril": ppl.nn.cholesky(phi.latent_raw_scale)}
    with ppl.rows("rows", data):
        ppl.sample("latent", ppl.dist.MultivariateNormal(mean, **shape))


def posterior(ppl: Handle, data: Data, theta: Theta) -> tuple[Any, Any]:
    """Return the mean and the precision of p(latent[n] | the observed cells of x[n]).

    (rows, num_latents) and (rows, num_latents, num_latents). Where nothing is observed it is the prior of every row.
    """
    xp, weight = ppl.xp, theta.weight
    identity = xp.eye(weight.shape[-1], dtype=weight.dtype)
    if data.x is None:
        return xp.zeros_like(weight[..., 0, :]), identity
    centred = data.x - theta.loc
    observed, nothing = ~xp.isnan(centred), xp.zeros_like(centred)
    centred = xp.where(observed, centred, nothing)
    scaled = xp.exp(-2 * theta.noise_log_scale) * weight
    # Each row has the sum of w w' / sigma^2 over the features that it observes.
    outer = scaled[..., :, None] * weight[..., None, :]
    precision = identity + xp.einsum("nf,fij->nij", xp.where(observed, nothing + 1, nothing), outer)
    return xp.linalg.solve(precision, (centred @ scaled)[..., None])[..., 0], precision


def init(data: Data, prior: Prior, spec: Spec, rng: np.random.Generator, point: bool) -> Params:
    """Start at the mean of each column, half of its variance along random directions; the noise as half of the least.

    With nothing observed: an example with max(5, num_latents + 3) features.

    Raises
    ------
    UserError: the data cannot be fitted: their likelihood has no maximum, a column is empty, ...
    """
    if data.x is None:
        size = max(5, spec.num_latents + 3)
        weight, loc = rng.normal(size=(size, spec.num_latents)), rng.normal(size=size)
        return Params(Theta(weight, loc, np.log(np.array(0.5))), Phi())
    found = check_maximum(data, spec)
    variance = found.variance
    weight = rng.normal(size=(len(variance), spec.num_latents)) * np.sqrt(variance / (2.0 * spec.num_latents))[:, None]
    # From more noise than there is along some direction, EM would lose that direction.
    least = variance[variance > LEAST_NOISE * variance.sum()].min()
    return Params(Theta(weight, found.mean, np.array(0.5 * np.log(least / 2.0))), Phi())
