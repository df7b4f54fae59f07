"""Self-normalised importance weights as objectives: the bound L_K, and reweighted wake-sleep.

With z_1 .. z_K drawn from the guide, w_k = p(x, z_k) / q(z_k) and v_k = w_k / sum_j w_j,

(1)  L_K = log (1/K) sum_k w_k                                 E L_1 <= E L_K <= log p(x)
(2)  wake, theta:  sum_k v_k d log p(x, z_k) / d theta         estimates d log p(x) / d theta
(3)  wake, phi:    sum_k v_k d log q(z_k) / d phi              estimates -d KL(p(z|x) || q) / d phi
(4)  sleep, phi:   d log q(z | x) / d phi at x, z ~ p          estimates -d E_p(x) KL(p(z|x) || q) / d phi

(2) and (3) are biased by order 1/K, unless the guide is the posterior; (4) is not. Theta and phi climb different
objectives: there is no single bound that both raise. Where all latent sites belong to rows, each row has weights of its
own, and (1) to (3) are sums over rows, which the factor of a minibatch multiplies.

Source: Bornschein & Bengio 2015, sections 2 and 3; Le et al. 2019, section 3.
"""

import math
from dataclasses import dataclass
from typing import Literal

from latentzoo.inference.automatic import Array
from latentzoo.inference.particles import Particles, Split, gradient_only, split, weights
from latentzoo.models.language.errors import UserError, choose


def importance_weighted(particles: Particles, weighed: Split, all_local: bool) -> tuple[Array, Array]:
    """Return the bound L_K (1) and the normalised weights: (particles, rows) where each row has its own.

    Raises
    ------
    UserError: all rows share a latent site and the data are a minibatch: L_K is then no sum over rows.
    """
    nn, log_k = particles.ppl.nn, math.log(particles.num_particles)
    if all_local:
        by_row = particles.ppl.xp.swapaxes(weighed.rows, 0, 1)
        bound = weighed.common() + weighed.scale * (nn.logsumexp(by_row) - log_k).sum()
        return bound, particles.ppl.xp.swapaxes(nn.softmax(by_row), 0, 1)
    if weighed.rows is not None and weighed.scale != 1:
        raise UserError("all rows share a latent variable: its importance weights need them all, leave out batch_rows")
    total = weighed.total()
    return nn.logsumexp(total) - log_k, nn.softmax(total)


def weighted(normalised: Array, terms: Split) -> Array:
    """Return the mean log density under normalised weights; where rows have their own, the sum over rows."""
    if normalised.ndim == 1:
        return (normalised * terms.total()).sum()
    rows = 0.0 if terms.rows is None else terms.scale * (normalised * terms.rows).sum()
    return terms.common() + rows


@dataclass(frozen=True)
class ReweightedWakeSleep:
    """Reweighted wake-sleep: theta by (2), phi by (3), by (4), or by the mean of both.

    Its value is L_K. No gradient reaches theta through the guide, so that phi alone fits it to the posterior.

    phi: what moves the guide. "sleep" needs a model of the zoo, which can be run with nothing observed.
    """

    phi: Literal["wake", "sleep", "both"] = "wake"
    remembers = False

    def __post_init__(self) -> None:
        choose(self.phi, ("wake", "sleep", "both"), "phi")

    def __call__(self, particles: Particles) -> Array:
        """Return L_K."""
        asleep = particles.guide_alone()
        held, stop = asleep.held(asleep.draw()), particles.ppl.stop_gradient
        bound, normalised = importance_weighted(particles, weights(held), held.all_local)
        moved = weighted(stop(normalised), split(held.model.values()))
        if self.phi != "sleep":
            moved = moved + self._share * weighted(stop(normalised), split(held.guide.values()))
        if self.phi != "wake":
            moved = moved + self._share * split(asleep.dreamt().guide.values()).total().mean()
        return stop(bound) + gradient_only(particles, moved)

    @property
    def _share(self) -> float:
        return 0.5 if self.phi == "both" else 1.0
