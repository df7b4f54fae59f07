"""Our divergences against the registries of torch and Pyro, quadrature and theory, in NumPy, JAX and torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyro.distributions import (
    Categorical,
    Dirichlet,
    Gamma,
    InverseGamma,
    MultivariateNormal,
    Normal,
    Wishart,
)
from scipy import integrate, stats
from torch.distributions import kl_divergence

from latentzoo.inference.divergences import (
    kl_categorical,
    kl_diagonal_normal,
    kl_dirichlet,
    kl_gamma,
    kl_isotropic_normal,
    kl_normal,
    kl_wishart,
    renyi_normal,
)
from latentzoo.models.language.errors import UserError

Arrays = tuple[np.ndarray, ...]


def tril(x: np.ndarray) -> np.ndarray:
    """Cholesky factors of 2 x 2 matrices, from three positive numbers each."""
    factor = np.zeros((*x.shape[:-1], 2, 2), x.dtype)
    factor[..., 0, 0], factor[..., 1, 1], factor[..., 1, 0] = x[..., 0], x[..., 1], np.log(x[..., 2])
    return factor


class Case(NamedTuple):
    """Ours, the library's distribution of the same numbers, and these numbers from six positive ones."""

    ours: Callable[..., Any]
    library: Callable[..., Any]
    build: Callable[[np.ndarray], Arrays]


CASES = {
    "gamma": Case(kl_gamma, Gamma, lambda x: (x[..., 0], x[..., 1])),
    "dirichlet": Case(kl_dirichlet, Dirichlet, lambda x: (x,)),
    "categorical": Case(kl_categorical, Categorical, lambda x: (x / x.sum(-1, keepdims=True),)),
    "isotropic normal": Case(
        kl_isotropic_normal,
        lambda mean, variance: Normal(mean, variance.sqrt()[..., None]).to_event(1),
        lambda x: (np.log(x[..., :3]), x[..., 3]),
    ),
    "diagonal normal": Case(
        kl_diagonal_normal,
        lambda mean, scale: Normal(mean, scale).to_event(1),
        lambda x: (np.log(x[..., :3]), x[..., 3:]),
    ),
    "normal": Case(
        kl_normal,
        lambda mean, factor: MultivariateNormal(mean, scale_tril=factor),
        lambda x: (np.log(x[..., :2]), tril(x[..., 2:5])),
    ),
    "wishart": Case(
        kl_wishart,
        lambda df, factor: Wishart(df, scale_tril=factor),
        lambda x: (2.0 + x[..., 0], tril(x[..., 1:4])),
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def numbers(seed: int) -> np.ndarray:
    """What a batch of (50, 3) distributions is built from; terms of their divergences stay below 1e4."""
    return np.random.default_rng(seed).uniform(0.3, 8.0, (50, 3, 6))


def drawn(case: Case, seed: int) -> tuple[Arrays, Arrays]:
    return case.build(numbers(seed)), case.build(numbers(seed + 100))


def factor(seed: int, size: int) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(size, size))
    return np.linalg.cholesky(raw @ raw.T + 0.5 * np.eye(size))


@every_case
def test_kl_is_the_library_s(case: Case) -> None:
    """One by one: torch 2.13 adds up a term of Wishart's over the batch, and makes its KL a function of parameters."""
    q, p = drawn(case, 0)
    found = case.ours(*q, *p)
    assert found.shape == (50, 3)
    for row in range(20):
        pair = (case.library(*(torch.tensor(each[row, 0]) for each in fields)) for fields in (q, p))
        assert found[row, 0] == pytest.approx(kl_divergence(*pair).detach().item(), rel=1e-10, abs=1e-11)


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
def test_one_of_a_batch_is_one(case: Case) -> None:
    """Fields of p may be shared by the batch, as priors are."""
    q, p = drawn(case, 2)
    one = [each[4, 1] for each in p]
    whole = case.ours(*q, *one)
    assert whole[7, 2] == pytest.approx(case.ours(*(each[7, 2] for each in q), *one), rel=1e-13)


@every_case
def test_jax_and_torch_agree(case: Case) -> None:
    q, p = drawn(case, 4)
    expected = case.ours(*q, *p)
    with jax.enable_x64(True):
        found = case.ours(*map(jnp.asarray, (*q, *p)))
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
    in_torch = case.ours(*(torch.from_numpy(each.copy()) for each in (*q, *p)))
    assert torch.is_tensor(in_torch)
    np.testing.assert_allclose(in_torch.numpy(), expected, rtol=1e-11, atol=1e-12)


@every_case
def test_precision_is_that_of_the_arrays(case: Case) -> None:
    q, p = drawn(case, 6)
    narrow = [each.astype(np.float32) for each in (*q, *p)]
    found = case.ours(*narrow)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, case.ours(*(each.astype(float) for each in narrow)), rtol=1e-4, atol=1e-4)


six = st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6)


@every_case
@given(six, six)
def test_kl_is_never_negative_and_zero_for_equals(case: Case, first: list[float], second: list[float]) -> None:
    q, p = case.build(np.array(first)), case.build(np.array(second))
    # Terms up to 1e4 cancel where the two are close.
    assert case.ours(*q, *p) >= -1e-11
    assert abs(case.ours(*q, *q)) <= 1e-11


@every_case
def test_kl_is_positive_for_neighbours(case: Case) -> None:
    """A change of any one number by a thousandth shows."""
    x = numbers(8)
    q = case.build(x)
    changed = 0
    for column in np.eye(6):
        near = case.build(x * (1.0 + 1e-3 * column))
        if any((one != other).any() for one, other in zip(q, near, strict=True)):
            changed += 1
            assert (case.ours(*q, *near) > 1e-13).all()
    assert changed >= 2


@every_case
def test_gradients_are_zero_at_equality_and_finite(case: Case) -> None:
    """Also where eigenvalues and ratios are all equal."""
    q, p = ([each[0, 0] for each in one] for one in drawn(case, 9))
    every = tuple(range(2 * len(q)))

    def slack(*fields: Any) -> Any:
        """The divergence where probabilities are kept summing to 1."""
        if case is CASES["categorical"]:
            fields = tuple(each / each.sum() for each in fields)
        return case.ours(*fields)

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(slack, every))
        for found in gradient(*map(jnp.asarray, (*q, *q))):
            np.testing.assert_allclose(found, 0.0, atol=1e-10)
        assert all(np.isfinite(found).all() and np.any(found != 0.0) for found in gradient(*map(jnp.asarray, (*q, *p))))


# --- normals ----------------------------------------------------------------------------------------------------------


def test_the_normals_are_one_family() -> None:
    """In five dimensions: full with a diagonal factor is diagonal, and diagonal with equal scales is isotropic."""
    rng = np.random.default_rng(10)
    (q_mean, p_mean), (q, p) = rng.normal(size=(2, 5)), rng.uniform(0.3, 3.0, (2, 5))
    diagonal = kl_diagonal_normal(q_mean, q, p_mean, p)
    assert kl_normal(q_mean, np.diag(q), p_mean, np.diag(p)) == pytest.approx(diagonal, rel=1e-13)
    same = [np.full(5, each[0]) for each in (q, p)]
    isotropic = kl_isotropic_normal(q_mean, q[0] ** 2, p_mean, p[0] ** 2)
    assert kl_diagonal_normal(q_mean, same[0], p_mean, same[1]) == pytest.approx(isotropic, rel=1e-13)


@pytest.mark.parametrize("divergence", [kl_normal, lambda *each: renyi_normal(*each, 0.4)], ids=["kl", "renyi"])
def test_an_affine_map_changes_nothing(divergence: Callable[..., Any]) -> None:
    rng = np.random.default_rng(11)
    map_, shift = rng.normal(size=(4, 4)), rng.normal(size=4)
    means, factors = rng.normal(size=(2, 4)), [factor(seed, 4) for seed in (12, 13)]
    moved = [np.linalg.cholesky(map_ @ each @ each.T @ map_.T) for each in factors]
    before = divergence(means[0], factors[0], means[1], factors[1])
    after = divergence(map_ @ means[0] + shift, moved[0], map_ @ means[1] + shift, moved[1])
    assert after == pytest.approx(before, rel=1e-10)


@pytest.mark.parametrize("case", [CASES["normal"], CASES["wishart"]], ids=["normal", "wishart"])
def test_what_stands_above_the_diagonal_is_not_read(case: Case) -> None:
    q, p = ([each[0, 0] for each in one] for one in drawn(case, 20))
    full = [[*fields[:1], fields[1] + np.triu(np.ones((2, 2)), 1)] for fields in (q, p)]
    assert case.ours(*full[0], *full[1]) == case.ours(*q, *p)


def test_kl_of_ill_conditioned_normals() -> None:
    """Covariances of condition number 1e24, whose inverse would keep no digit: a map of normals that are standard."""
    rng = np.random.default_rng(14)
    map_ = (np.tril(rng.normal(size=(3, 3)), -1) + np.eye(3)) * np.array([1e-6, 1.0, 1e6])
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = kl_divergence(Normal(shift, 2.0), Normal(torch.zeros(3).double(), 1.0)).sum().item()
    assert kl_normal(map_ @ shift.numpy(), 2.0 * map_, np.zeros(3), map_) == pytest.approx(expected, rel=1e-10)


# --- Renyi ------------------------------------------------------------------------------------------------------------


def one(mean: float, scale: float) -> Arrays:
    return np.array([mean]), np.array([[scale]])


@pytest.mark.parametrize("order", [0.1, 0.5, 0.9, 0.999, 1.0, 1.3, 2.0])
def test_renyi_is_what_quadrature_finds(order: float) -> None:
    q, p = stats.norm(0.3, 1.1), stats.norm(-0.8, 1.4)

    def integrand(x: float) -> float:
        if order == 1.0:
            return q.pdf(x) * (q.logpdf(x) - p.logpdf(x))
        return np.exp(order * q.logpdf(x) + (1.0 - order) * p.logpdf(x))

    integral = integrate.quad(integrand, -25.0, 25.0, points=[-1.0, 1.0], epsabs=0.0, epsrel=1e-13, limit=500)[0]
    expected = integral if order == 1.0 else np.log(integral) / (order - 1.0)
    assert renyi_normal(*one(0.3, 1.1), *one(-0.8, 1.4), order) == pytest.approx(expected, rel=1e-10)


def test_renyi_of_independent_coordinates_is_the_sum() -> None:
    means, scales = np.array([[0.3, -1.0, 2.0], [0.1, 0.4, 1.0]]), np.array([[0.9, 1.1, 1.0], [1.2, 0.8, 1.1]])
    for order in (0.3, 1.5):
        columns = zip(means[0], scales[0], means[1], scales[1], strict=True)
        parts = [renyi_normal(*one(m, s), *one(n, t), order) for m, s, n, t in columns]
        whole = renyi_normal(means[0], np.diag(scales[0]), means[1], np.diag(scales[1]), order)
        assert whole == pytest.approx(np.sum(parts), rel=1e-12)


def test_renyi_goes_to_kl() -> None:
    """From both sides, and to second order when they are averaged; no digits are lost to 1 / (order - 1)."""
    q, p = (np.ones(3), factor(16, 3)), (np.zeros(3), factor(17, 3))
    kl = kl_normal(*q, *p)
    for gap in (1e-6, 1e-9, 1e-15):
        below, above = (renyi_normal(*q, *p, 1.0 + sign * gap) for sign in (-1.0, 1.0))
        assert below <= above
        assert (below + above) / 2.0 == pytest.approx(kl, rel=1e-10)
    assert renyi_normal(*q, *p, 1.0) == kl


def test_renyi_rises_with_its_order_and_is_skew_symmetric() -> None:
    """Van Erven & Harremoes (2014), theorem 3 and proposition 2."""
    q, p = (np.ones(3), factor(18, 3)), (np.zeros(3), factor(19, 3))
    orders = np.linspace(0.05, 0.95, 10)
    found = np.array([renyi_normal(*q, *p, order) for order in orders])
    assert (np.diff(found) > 0.0).all()
    other = np.array([renyi_normal(*p, *q, 1.0 - order) for order in orders])
    np.testing.assert_allclose((1.0 - orders) * found, orders * other, rtol=1e-11)


def test_renyi_is_infinite_where_the_integral_is() -> None:
    """order s_p^2 + (1 - order) s_q^2 vanishes at order 4/3 for scales 2 and 1; batches may have both kinds."""
    q, p = (np.zeros((2, 1)), np.array([[[2.0]], [[0.5]]])), one(0.0, 1.0)
    assert np.isfinite(renyi_normal(*q, *p, 1.333)).all()
    for order in (1.334, 4.0):
        found = renyi_normal(*q, *p, order)
        assert found[0] == np.inf
        assert np.isfinite(found[1])
    # As the integral diverges, so do those over longer and longer intervals.
    ratio = [integrate.quad(lambda x: np.exp(0.1 * x**2 / 2), -top, top)[0] for top in (5.0, 10.0)]
    assert ratio[1] > 10.0 * ratio[0]


def test_renyi_in_the_libraries() -> None:
    """Eigenvalues that are all the same, and a batch of which one divergence is infinite."""
    fields = np.ones((2, 2)), np.stack([2.0 * np.eye(2), 0.5 * np.eye(2)]), np.zeros(2), np.eye(2)
    expected = renyi_normal(*fields, 2.0)
    assert np.isfinite(expected).tolist() == [False, True]
    np.testing.assert_allclose(renyi_normal(*map(torch.from_numpy, fields), 2.0).numpy(), expected, rtol=1e-13)

    def ours(*each: Any) -> tuple[Any, Any]:
        value = renyi_normal(*each, 2.0)
        return value.sum(), value

    with jax.enable_x64(True):
        gradient, value = jax.jit(jax.grad(ours, (0, 1, 2, 3), has_aux=True))(*map(jnp.asarray, fields))
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        assert all(np.isfinite(each).all() for each in gradient)


@pytest.mark.parametrize("order", [0.0, -1.0, np.nan])
def test_renyi_refuses_orders_that_are_not_positive(order: float) -> None:
    with pytest.raises(UserError, match=r"order is .*: it must be a positive number"):
        renyi_normal(*one(0.0, 1.0), *one(0.0, 2.0), order)


# --- discrete, and theory ---------------------------------------------------------------------------------------------


def test_categories_without_mass() -> None:
    q, p = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.75, 0.0])
    with np.errstate(all="raise"):
        assert kl_categorical(q, p) == pytest.approx(stats.entropy(q, p), rel=1e-14)
        assert kl_categorical(q, np.array([1.0, 0.0, 0.0])) == np.inf
        assert kl_categorical(np.array([1.0, 0.0, 0.0]), q) == pytest.approx(np.log(2.0), rel=1e-14)
    gradients = jax.grad(kl_categorical, (0, 1))(jnp.asarray(q), jnp.asarray(p))
    assert all(np.isfinite(each).all() for each in gradients)


positive = hnp.arrays(float, (5, 3, 4), elements=st.floats(1e-3, 1.0))


@given(positive, hnp.arrays(float, 5, elements=st.floats(1e-3, 1.0)))
def test_kl_is_jointly_convex(x: np.ndarray, weights: np.ndarray) -> None:
    """KL(sum w q || sum w p) <= sum w KL(q || p), for mixtures of distributions."""
    q, p = (each / each.sum(-1, keepdims=True) for each in (x[:, 0], x[:, 1]))
    weights = weights / weights.sum()
    assert kl_categorical(weights @ q, weights @ p) <= weights @ kl_categorical(q, p) + 1e-14


@given(positive)
def test_chain_rule(x: np.ndarray) -> None:
    """KL of a joint is KL of its marginal, and the mean under q of KL of its conditionals."""
    q, p = (each / each.sum() for each in (x[:, 0], x[:, 1]))
    marginals = q.sum(1), p.sum(1)
    conditionals = (each / each.sum(1, keepdims=True) for each in (q, p))
    parts = kl_categorical(*marginals) + marginals[0] @ kl_categorical(*conditionals)
    assert kl_categorical(q.ravel(), p.ravel()) == pytest.approx(parts, rel=1e-11, abs=1e-14)


CONVEX: dict[str, Callable[[Any], Any]] = {
    "-log": lambda x: -np.log(x),
    "x log x": lambda x: x * np.log(x),
    "square": np.square,
    "exp": np.exp,
    "1 / x": lambda x: 1.0 / x,
    "hinge": lambda x: np.maximum(x - 1.0, 0.0),
}


def jensen(convex: Callable[[Any], Any], weights: np.ndarray, points: np.ndarray) -> float:
    """The gap E f(x) - f(E x)."""
    return float(weights @ convex(points) - convex(weights @ points))


@pytest.mark.parametrize("convex", CONVEX.values(), ids=CONVEX)
@given(positive)
def test_jensen_s_inequality_and_kl_as_its_instance(convex: Callable[[Any], Any], x: np.ndarray) -> None:
    q, p = (each / each.sum() for each in (x[0, 0], x[0, 1]))
    points = p / q
    scale = np.abs(convex(points)).max()
    assert jensen(convex, q, points) >= -1e-13 * (1.0 + scale)
    assert jensen(convex, q, np.full(4, points[0])) == pytest.approx(0.0, abs=1e-13 * (1.0 + scale))
    if convex is CONVEX["-log"]:
        assert kl_categorical(q, p) == pytest.approx(jensen(convex, q, points), rel=1e-11, abs=1e-13)
    if convex is CONVEX["x log x"]:
        assert kl_categorical(p, q) == pytest.approx(jensen(convex, q, points), rel=1e-11, abs=1e-13)


def test_kl_is_not_convex_in_the_parameters() -> None:
    """Convexity is of mixtures of distributions: KL(N(m, 1) || N(0, s^2)) is not convex in the scale s."""
    scales = np.array([[2.0], [4.0], [6.0]])
    ends = kl_diagonal_normal(np.zeros((3, 1)), np.ones((3, 1)), np.zeros(1), scales)
    assert ends[1] > (ends[0] + ends[2]) / 2.0 + 1e-3
