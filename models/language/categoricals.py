"""The one-hot categoricals, discrete and relaxed, that Pyro has and NumPyro lacks, as NumPyro's distributions.

They have the names and the constructors of Pyro's. This file imports NumPyro: `ppl` does so when it is first asked for.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

from latentzoo.models.language.errors import UserError


def _normalised(name: str, probs: Any, logits: Any) -> Any:
    if (probs is None) == (logits is None):
        raise UserError(f"{name} takes probs or logits: give one of them")
    if logits is None:
        probs = jnp.asarray(probs)
        logits = jnp.log(jnp.maximum(probs, np.finfo(probs.dtype).tiny))
    return jax.nn.log_softmax(logits)


class OneHotCategorical(Distribution):
    """`OneHotCategorical(probs=None, logits=None)`: categories as vectors of length k with a single one.

    It cannot be enumerated: NumPyro 0.22 takes the states of every site for 0, 1, ...; a Categorical and
    `ppl.nn.one_hot` can.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    support = constraints.simplex

    def __init__(self, probs: Any = None, logits: Any = None, *, validate_args: bool | None = None) -> None:
        self.logits = _normalised(type(self).__name__, probs, logits)
        shape = self.logits.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def probs(self) -> Any:
        """The probabilities of the categories, which sum to 1."""
        return jnp.exp(self.logits)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Return draws, of the dtype of the logits."""
        index = jax.random.categorical(key, self.logits, shape=sample_shape + self.batch_shape)
        return jax.nn.one_hot(index, self.event_shape[0], dtype=self.logits.dtype)

    @validate_sample  # type: ignore[untyped-decorator]
    def log_prob(self, value: Any) -> Any:
        """Return the log probability of the category."""
        return jnp.where(value > 0, value * self.logits, 0.0).sum(-1)


class RelaxedOneHotCategorical(Distribution):
    """`RelaxedOneHotCategorical(temperature, probs=None, logits=None)`: the Concrete distribution on the simplex.

    temperature: positive, a scalar or (*batch,); probs, which need not sum to 1, or logits: (*batch, k). A draw is
    softmax((logits + Gumbel noise) / temperature): differentiable, and near a corner at low temperatures (Maddison,
    Mnih & Teh, 2017). Densities at a draw of one's own use the logarithm of the draw: they are finite where the draw
    itself is rounded to 0. At other values, entries below the smallest normal number count as that number.
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real_vector}  # noqa: RUF012
    support = constraints.simplex
    reparametrized_params = ["temperature", "logits"]  # noqa: RUF012

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, *, validate_args: bool | None = None
    ) -> None:
        self.temperature, self.logits = temperature, _normalised(type(self).__name__, probs, logits)
        batch_shape = jnp.broadcast_shapes(jnp.shape(temperature), self.logits.shape[:-1])
        super().__init__(batch_shape, self.logits.shape[-1:], validate_args=validate_args)

    @property
    def probs(self) -> Any:
        """The probabilities of the categories, which sum to 1."""
        return jnp.exp(self.logits)

    def sample_with_intermediates(self, key: Any, sample_shape: tuple[int, ...] = ()) -> tuple[Any, list[Any]]:
        """Return draws, and the logarithms of the relaxed ones."""
        noise = jax.random.gumbel(key, sample_shape + self.batch_shape + self.event_shape, self.logits.dtype)
        scores = self.logits + noise
        # Compiled, XLA fuses the division into the softmax, whose maximum is then off by rounding: NaN at 1e12.
        scores = scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        log_value = jax.nn.log_softmax(scores / jnp.expand_dims(self.temperature, -1))
        return self._of(log_value), [log_value]

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Return draws, differentiable in temperature and logits."""
        return self.sample_with_intermediates(key, sample_shape)[0]

    @validate_sample  # type: ignore[untyped-decorator]
    def log_prob(self, value: Any, intermediates: list[Any] | None = None) -> Any:
        """Return the log density, Maddison et al. (2017), equation 10."""
        if intermediates:
            (log_value,) = intermediates
        else:
            log_value = jnp.log(jnp.maximum(value, np.finfo(self.logits.dtype).tiny))
        size = self.event_shape[0]
        score = jax.nn.log_softmax(self.logits - jnp.expand_dims(self.temperature, -1) * log_value)
        return math.lgamma(size) + (size - 1) * jnp.log(self.temperature) + (score - log_value).sum(-1)

    def _of(self, log_value: Any) -> Any:
        return jnp.exp(log_value)


class RelaxedOneHotCategoricalStraightThrough(RelaxedOneHotCategorical):
    """The same arguments: its draws are one-hot, exactly, with the gradient of the relaxed draws they are rounded from.

    Its density is that of the relaxed draw, too, which NumPyro knows at the site that drew it only: it is for guides.
    Mask the site in the model, and let a `factor` have the mass; what is then climbed is an objective, and no bound.
    """

    def _of(self, log_value: Any) -> Any:
        soft = jnp.exp(log_value)
        hard = jax.nn.one_hot(log_value.argmax(-1), self.event_shape[0], dtype=soft.dtype)
        return hard + (soft - jax.lax.stop_gradient(soft))  # in this order no entry is off 0 or 1 by rounding


ONE_HOT = {
    each.__name__: each
    for each in (OneHotCategorical, RelaxedOneHotCategorical, RelaxedOneHotCategoricalStraightThrough)
}
