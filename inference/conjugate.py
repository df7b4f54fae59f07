"""What conjugate models share: gradients of a bound as a function of one block of q, tables of probabilities at points,
and rows given draws of globals.

A bound as a function of a block is known by its maximum, the target, which is where the update would go.
"""

from collections.abc import Iterable
from typing import Any

from latentzoo.inference.arrays import namespace, special
from latentzoo.models.language.tables import FLOOR, IMPOSSIBLE

Array = Any


def gamma_gradient(target_shape: Array, target_rate: Array, log_shape: Array, log_rate: Array) -> tuple[Array, Array]:
    """Return the gradient by log a and log b of the bound in q = Gamma(a, b), with (A, B) the target:

    (A - a) (psi(a) - log b) - (B - b) a / b + log Gamma(a) - a log b
    """
    xp, fn = namespace(log_shape), special(log_shape)
    a, b = xp.exp(log_shape), xp.exp(log_rate)
    by_shape = (target_shape - a) * fn.trigamma(a) - target_rate / b + 1.0
    by_rate = -target_shape / b + target_rate * a / b**2
    return a * by_shape, b * by_rate


def dirichlet_gradient(target: Array, log_concentration: Array) -> Array:
    """Return the gradient by log a of the bound in q = Dirichlet(a), or in one for each row, with t the target:

    sum (t - a) (psi(a) - psi(sum a)) + sum log Gamma(a) - log Gamma(sum a)
    """
    xp, fn = namespace(log_concentration), special(log_concentration)
    concentration = xp.exp(log_concentration)
    gap = target - concentration
    common = fn.trigamma(concentration.sum(-1, keepdims=True)) * gap.sum(-1, keepdims=True)
    return concentration * (fn.trigamma(concentration) * gap - common)


def log_dirichlet(log_probs: Array, concentration: Array) -> Array:
    """Return the log density of distributions, along the last axis, under their Dirichlet priors, summed."""
    gammaln = special(log_probs).gammaln
    normaliser = gammaln(concentration.sum(-1)).sum() - gammaln(concentration).sum()
    return ((concentration - 1.0) * log_probs).sum() + normaliser


def softmax_gradient(count: Array, logits: Array) -> Array:
    """Return the gradient of sum count log softmax(logits) by the logits: count - softmax * sum count."""
    probs = namespace(logits).exp(special(logits).log_softmax(logits, axis=-1))
    return count - probs * count.sum(-1, keepdims=True)


def log_shares(count: Array, fallback: Array) -> Array:
    """Return the logarithm of each count's share of its row, where sum count log p is highest.

    In rows without counts it is `fallback`. Zero is written as FLOOR: logits stay finite, and a probability of 1e-300
    is none. Counts that come of such floors are none, either.
    """
    xp = namespace(count)
    total = count.sum(-1, keepdims=True)
    some = total > IMPOSSIBLE
    return xp.where(some, xp.log(xp.maximum(count / xp.where(some, total, 1.0), FLOOR)), fallback)


def logits_gradient(log_joint: Array, logits: Array) -> Array:
    """Return the gradient by free logits of sum_k q_k (log_joint_k - log q_k), for each row: q (g - sum_k q_k g_k).

    g = log_joint - log q; it is zero where q is the softmax of log_joint.
    """
    log_q = special(logits).log_softmax(logits, axis=1)
    q, gap = namespace(logits).exp(log_q), log_joint - log_q
    return q * (gap - (q * gap).sum(1, keepdims=True))


def mean_assignment(log_joints: Iterable[Array]) -> dict[str, Array]:
    """Return p(component | row) as probabilities, the mean over draws of globals, and the most probable component.

    log_joints: at each draw log p(row, component = k | globals), (rows, components), up to a constant of each row.
    """
    total, number = 0.0, 0
    for joint in log_joints:
        total, number = total + namespace(joint).exp(special(joint).log_softmax(joint, axis=1)), number + 1
    resp: Array = total / number
    return {"responsibilities": resp, "component": resp.argmax(1)}
