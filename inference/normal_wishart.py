"""The conjugate family of a Gaussian's centre and precision: Normal-Wishart, Normal-Gamma, and centres that share one.

    precision ~ shape a and rate B, (1) of `inference/precision.py`
    loc[k]    ~ Normal(m_k, (beta_k precision[k])^-1)

Every function takes the form of the precision; where components share it, sums over them go into its shape and rate.
Bishop (2006), 2.3.6 and 10.2, with nu = 2 a and W^-1 = 2 B. Equation numbers go on from `inference/precision.py`.
"""

from typing import Any, NamedTuple

import numpy as np

from latentzoo.inference.arrays import multivariate, namespace, special
from latentzoo.inference.precision import Form

Array = Any
NOTHING = 1e-300  # rows: what is divided by is never less


class Block(NamedTuple):
    """A member of the family: strength beta_k, loc m_k, shape a, rate B; a prior has one of each."""

    strength: Array
    loc: Array
    shape: Array
    rate: Array


def spread(factor: Array, like: Array) -> Array:
    """Return a factor of each component with the axes of a precision behind it."""
    factor = namespace(like).asarray(factor)
    return factor.reshape(*factor.shape, *(1,) * (like.ndim - factor.ndim))


def multi(function: Any, shape: Array, order: tuple[int, int]) -> Array:
    """Return the sum of a function, such as psi, at a, a - 1/2, ..., a - (n - 1)/2, for all distributions."""
    n, number = order
    return number * multivariate(function, shape, n)


def expected_precision(form: Form, block: Block) -> Array:
    """Return (2) E Lambda."""
    return spread(block.shape, block.rate) * form.inverse(block.rate)


def expected_log_det(form: Form, block: Block) -> Array:
    """Return (3) E log |Lambda|."""
    order = form.order(block.loc.shape[-1])
    return multi(special(block.rate).digamma, block.shape, order) - form.log_det(block.rate)


def log_normaliser(form: Form, block: Block) -> Array:
    """Return the logarithm of the integral that (1) is divided by: log Gamma_n(a) - a log |B|."""
    n, number = form.order(block.loc.shape[-1])
    constant = number * n * (n - 1) / 4.0 * np.log(np.pi)
    gammas = multi(special(block.rate).gammaln, block.shape, (n, number))
    return constant + gammas - block.shape * form.log_det(block.rate)


# --- bounds ---------------------------------------------------------------------------------------------------------


def log_density(form: Form, prior: Block, loc: Array, precision: Array) -> Array:
    """Return (5) the log density of centres and their precisions under the prior, summed over components."""
    size, log_det = loc.shape[-1], form.log_det(precision)
    exponent = prior.shape - (form.order(size)[0] + 1) / 2.0
    precisions = exponent * log_det - form.inner(prior.rate, precision) - log_normaliser(form, prior)
    squared = prior.strength * form.inner(form.each(precision), form.outer(loc - prior.loc))
    centres = size * np.log(prior.strength / (2.0 * np.pi)) + form.copies(size) * log_det - squared
    return precisions.sum() + centres.sum() / 2.0


def expected_log_ratio(form: Form, block: Block, prior: Block) -> Array:
    """Return E_q log p - log q = -KL(q || p), summed over components:

    (6)  sum log Z(a, B) - log Z(a0, B0) + (a0 - a) E log |Lambda| - tr((B0 - B) E Lambda)
         + sum_k D/2 (log(beta0 / beta_k) + 1 - beta0 / beta_k) - beta0 / 2 (m_k - m0)' E[Lambda_k] (m_k - m0)
    """
    size, precision = block.loc.shape[-1], expected_precision(form, block)
    precisions = (
        log_normaliser(form, block)
        - log_normaliser(form, prior)
        + (prior.shape - block.shape) * expected_log_det(form, block)
        - form.inner(prior.rate - block.rate, precision)
    )
    ratio = prior.strength / block.strength
    squared = prior.strength * form.inner(form.each(precision), form.outer(block.loc - prior.loc))
    centres = size * (namespace(ratio).log(ratio) + 1.0 - ratio) - squared
    return precisions.sum() + centres.sum() / 2.0


# --- updates --------------------------------------------------------------------------------------------------------


def posterior(form: Form, count: Array, first: Array, second: Array, prior: Block | None) -> Block:
    """Return what rows and prior ask for, from sums over rows of 1, x and what x' Lambda x is linear in:

    (7)  beta_k = beta0 + N_k,   m_k = (beta0 m0 + sum x) / beta_k
    (8)  a_k = a0 + N_k / 2      (a number that serves all coordinates: D N_k / 2)
    (9)  B_k = B0 + (beta0 m0 m0' + sum x x' - beta_k m_k m_k') / 2

    Without a prior the terms with index 0 are nothing: m_k is the mean of the rows, and B_k / a_k their covariance.
    """
    xp, shape, rate = namespace(first), 0.0, 0.0
    shape = form.copies(first.shape[-1]) * form.pooled(count) / 2.0
    if prior is not None:
        shape, rate = shape + prior.shape, prior.rate
        second = second + prior.strength * form.outer(prior.loc)
        count, first = count + prior.strength, first + prior.strength * prior.loc
    loc = first / xp.maximum(count, NOTHING)[:, None]
    scatter = second - spread(count, second) * form.outer(loc)
    return Block(count, loc, shape, rate + form.pooled(scatter) / 2.0)


def about(form: Form, goal: Block, loc: Array) -> Array:
    """Return B* + sum beta* (m* - loc)(m* - loc)' / 2: what a precision is weighed against with its centres at loc."""
    gap = form.outer(goal.loc - loc)
    return goal.rate + form.pooled(spread(goal.strength, gap) * gap) / 2.0


def power(form: Form, goal: Block, prior: Block | None) -> Array:
    """Return the power of |Lambda| in the joint density whose mode is sought: a* where there is no prior."""
    if prior is None:
        return goal.shape
    num, size = goal.loc.shape
    centres = form.pooled(np.ones(num)) * form.copies(size) / 2.0
    return goal.shape - (form.order(size)[0] + 1) / 2.0 + centres


def gradient(form: Form, block: Block, goal: Block) -> Block:
    """Return the gradient by beta, m, a and B of the bound, of which `goal` is the maximum, with P = B^-1:

    (10)  (a* - a) psi_n(a) - a* log |B| + log Gamma_n(a) - a tr((B* - B) P)
          + sum_k D/2 (1 - beta*/beta - log beta) - a/2 beta* (m* - m)' P (m* - m)
    """
    fn, size = special(block.loc), block.loc.shape[-1]
    order, inverse, wide = form.order(size), form.inverse(block.rate), about(form, goal, block.loc)
    precision = form.each(expected_precision(form, block))
    by_shape = (goal.shape - block.shape) * multi(fn.trigamma, block.shape, order) - form.inner(wide, inverse)
    by_rate = spread(block.shape, wide) * form.sandwich(inverse, wide) - spread(goal.shape, wide) * inverse
    return Block(
        strength=size * (goal.strength / block.strength - 1.0) / (2.0 * block.strength),
        loc=form.apply(precision, goal.strength[:, None] * (goal.loc - block.loc)),
        shape=by_shape + order[0] * order[1],
        rate=by_rate,
    )
