"""What the notes get wrong about EM."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import log_softmax, logsumexp

import latentzoo as lz

Check = Callable[..., None]


def test_em_free_energy(check: Check) -> None:
    """By enumeration of the assignments of four rows to two components."""
    zoo = lz.get("gaussian_mixture", num_components=2, covariance_type="spherical")
    data = zoo.Data(np.array([[-1.0], [0.5], [1.0], [3.0]]))
    prior, form = zoo.without_priors(zoo.prior(data)), zoo.closed_form
    start = zoo.Theta(np.zeros(2), np.array([[0.5], [2.5]]), np.log([1.0, 2.0]))
    before = lz.Params(theta=start, phi=zoo.Phi())
    held = form.local_optimum(before, data, prior, zoo.spec)  # its q stays that of the E step
    after = form.m_step(form.e_step(before, data, prior, zoo.spec), before, prior, zoo.spec)
    log_q = log_softmax(held.phi.component_logits, axis=1)

    def enumerated(theta: Any) -> tuple[float, float]:
        """F(theta, q) by its definition, and log p_theta(x)."""
        log_weights, scale = log_softmax(theta.weights_logits), np.exp(theta.raw_scale)
        terms = log_weights + stats.norm.logpdf(data.x, theta.loc[:, 0], scale)
        every = np.array(list(itertools.product(range(2), repeat=4)))
        joint, of_q = (table[np.arange(4), every].sum(1) for table in (terms, log_q))
        return float(np.exp(of_q) @ (joint - of_q)), float(logsumexp(joint))

    rows = []
    for label, theta, margin in (("before the M step", before.theta, 0.0), ("after it", after.theta, 0.03)):
        free_energy, log_evidence = enumerated(theta)
        found = zoo.elbo(held._replace(theta=theta), data, prior)
        rows.append((f"F {label}", log_evidence, found, free_energy, margin))
    check(*rows)
