"""Our divergences against torch's and Pyro's, in NumPy and in JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.distributions import Dirichlet, Gamma, InverseGamma, Normal
from torch.distributions import kl_divergence

from latentzoo.inference.divergences import kl_dirichlet, kl_gamma, kl_isotropic_normal

Arrays = tuple[np.ndarray, ...]


def normal(mean: torch.Tensor, variance: torch.Tensor) -> Any:
    return Normal(mean, variance.sqrt()[..., None]).to_event(1)


# Ours, and the library's distribution of the same numbers.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "gamma": (kl_gamma, Gamma),
    "dirichlet": (kl_dirichlet, Dirichlet),
    "normal": (kl_isotropic_normal, normal),
}
every_case = pytest.mark.parametrize("case", CASES)


def draw(case: str, seed: int) -> Arrays:
    """The parameters of a batch of (50, 3) distributions; terms of their divergences stay below 1e3."""
    rng = np.random.default_rng(seed)
    positive = [rng.uniform(0.3, 8.0, (50, 3)) for _ in range(2)]
    if case == "normal":
        return rng.normal(0.0, 3.0, (50, 3, 2)), positive[0]
    return (rng.uniform(0.3, 8.0, (50, 3, 4)),) if case == "dirichlet" else tuple(positive)


@every_case
def test_kl_is_the_library_s(case: str) -> None:
    ours, make = CASES[case]
    q, p = draw(case, 0), draw(case, 1)
    found = ours(*q, *p)
    expected = kl_divergence(*(make(*map(torch.from_numpy, each)) for each in (q, p))).numpy()
    assert found.shape == (50, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_kl_of_inverse_gammas_is_that_of_gammas() -> None:
    """By an average over draws, as neither library has it in closed form: within 5 standard errors."""
    q, p = (3.0, 2.0), (4.5, 1.2)
    torch.manual_seed(0)
    of_q, of_p = (InverseGamma(*map(torch.tensor, each)) for each in (q, p))
    draws = of_q.sample((100_000,)).double()
    ratio = (of_q.log_prob(draws) - of_p.log_prob(draws)).numpy()
    found = kl_gamma(*map(np.float64, (*q, *p)))
    assert abs(ratio.mean() - found) < 5.0 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.std() / np.sqrt(len(ratio)) < 0.01 * found  # so a wrong formula would show


@every_case
def test_one_of_a_batch_is_one(case: str) -> None:
    """Fields of p may be shared by the batch, as priors are."""
    ours = CASES[case][0]
    q, p = draw(case, 2), draw(case, 3)
    one = [each[4, 1] for each in p]
    whole = ours(*q, *one)
    assert whole[7, 2] == pytest.approx(ours(*(each[7, 2] for each in q), *one), rel=1e-13)


@every_case
def test_jax_agrees(case: str) -> None:
    ours = CASES[case][0]
    q, p = draw(case, 4), draw(case, 5)
    with jax.enable_x64(True):
        found = ours(*map(jnp.asarray, (*q, *p)))
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, ours(*q, *p), rtol=1e-11, atol=1e-12)


@every_case
def test_precision_is_that_of_the_arrays(case: str) -> None:
    ours = CASES[case][0]
    narrow = [each.astype(np.float32) for each in (*draw(case, 6), *draw(case, 7))]
    found = ours(*narrow)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ours(*(each.astype(float) for each in narrow)), rtol=1e-4, atol=1e-4)


numbers = st.floats(1e-3, 1e3)


@every_case
@given(st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=4, max_size=4))
def test_kl_is_never_negative_and_zero_for_equals(case: str, first: list[float], second: list[float]) -> None:
    ours = CASES[case][0]

    def arrays(values: list[float]) -> Arrays:
        x = np.array(values)
        if case == "normal":
            return np.log(x[:3]), x[3]
        return (x,) if case == "dirichlet" else (x[0], x[1])

    q, p = arrays(first), arrays(second)
    # Terms up to 1e4 cancel where the two are close.
    assert ours(*q, *p) >= -1e-11
    assert abs(ours(*q, *q)) <= 1e-11


@every_case
def test_kl_is_positive_for_neighbours(case: str) -> None:
    """A change of any one number by a thousandth shows."""
    ours = CASES[case][0]
    q = draw(case, 8)
    for field in range(len(q)):
        near = [each * 1.001 if index == field else each for index, each in enumerate(q)]
        if case == "dirichlet":  # one entry, so that it is not only the total that moves
            near[0] = q[0] * np.array([1.001, 1.0, 1.0, 1.0])
        assert (ours(*q, *near) > 1e-13).all()
