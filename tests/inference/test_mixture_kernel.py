"""The mixture kernel against SciPy, brute force, JAX's automatic gradient, and itself on other cuts of the rows."""

import tracemalloc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from latentzoo.inference.kernels import mixture
from latentzoo.inference.kernels.mixture import MixtureSums, mixture_sums
from latentzoo.models.language.contract import map_leaves, take_rows


class Rows(NamedTuple):
    location: Any
    strength: Any
    missing: Any = None


def features(rows: Rows) -> Any:
    x, y = rows.location[:, 0], rows.location[:, 1]
    xp = x.__array_namespace__()
    return xp.stack([xp.ones_like(x), x, y, x * x + y * y, rows.strength])


def problem(length: int, components: int = 3, dtype: type = np.float64) -> tuple[Rows, np.ndarray]:
    draw = np.random.default_rng([length, components])
    rows = Rows(draw.normal(size=(length, 2)).astype(dtype), draw.gamma(2.0, size=length).astype(dtype))
    natural = draw.normal(size=(5, components))
    natural[3] = -draw.gamma(2.0, size=components)
    return rows, natural


def oracle(rows: Rows, natural: np.ndarray) -> tuple[MixtureSums, MixtureSums]:
    """SciPy's sums over whole arrays, and the same sums of absolute terms, the scale of their rounding errors."""
    feature = features(map_leaves(lambda _, leaf: leaf.astype(np.float64), rows))
    with np.errstate(invalid="ignore"):
        products = natural[:, :, None] * feature[:, None, :]
    logits = np.where(natural[0][:, None] == -np.inf, -np.inf, products.sum(0))
    normaliser, weights = logsumexp(logits, axis=0), softmax(logits, axis=0)
    size = np.abs(np.where(np.isfinite(products), products, 0)).sum(0).max(0).sum()
    return (
        MixtureSums(normaliser.sum(), feature @ weights.T),
        MixtureSums(size + np.abs(normaliser).sum(), np.abs(feature) @ np.ones_like(weights).T),
    )


def assert_close(found: MixtureSums, wanted: MixtureSums, scale: MixtureSums, tolerance: float = 1e-12) -> None:
    for value, target, size in zip(found, wanted, scale, strict=True):
        assert np.all(np.abs(np.asarray(value) - target) <= tolerance * np.asarray(size))


@pytest.mark.parametrize("components", [1, 3, 16])
@pytest.mark.parametrize("extra", [-1, 0, 1, 1000])
def test_sums_are_scipys_whatever_the_last_chunk(components: int, extra: int) -> None:
    length = mixture._chunk_rows(np.zeros((5, components))) + extra
    rows, natural = problem(length, components)
    assert_close(mixture_sums(features, rows, natural), *oracle(rows, natural))


def test_one_row_by_hand() -> None:
    (x, y), strength = (0.5, -1.0), 2.0
    natural = np.arange(10.0).reshape(5, 2) / 10
    logits = [natural[:, k] @ [1, x, y, x**2 + y**2, strength] for k in range(2)]
    weights = np.exp(logits)
    found = mixture_sums(features, Rows(np.array([[x, y]]), np.array([strength])), natural)
    np.testing.assert_allclose(found.log_normaliser, np.log(weights.sum()), rtol=1e-14)
    np.testing.assert_allclose(found.statistics[1], x * weights / weights.sum(), rtol=1e-14)


def test_no_rows_sum_to_zero() -> None:
    found = mixture_sums(features, *problem(0))
    assert found.log_normaliser == 0
    np.testing.assert_array_equal(found.statistics, np.zeros((5, 3)))


def test_float32_rows_have_float64_totals() -> None:
    rows, natural = problem(50_000, 4, np.float32)
    found = mixture_sums(features, rows, natural)
    assert found.log_normaliser.dtype == found.statistics.dtype == np.float64
    assert_close(found, *oracle(rows, natural), tolerance=1e-6)
    assert abs(found.log_normaliser - oracle(rows, natural)[0].log_normaliser) > 0  # or the work was in float64


def test_components_of_weight_zero_are_left_out() -> None:
    rows, natural = problem(1000, 4)
    natural[0, [0, 2]] = -np.inf
    found = mixture_sums(features, rows, natural)
    assert_close(found, *oracle(rows, natural))
    np.testing.assert_array_equal(found.statistics[:, [0, 2]], 0)
    np.testing.assert_array_equal(found.statistics[:, [1, 3]], mixture_sums(features, rows, natural[:, [1, 3]])[1])


def test_rows_that_no_component_explains_add_nothing() -> None:
    rows, natural = problem(10)
    nothing = mixture_sums(features, rows, np.where(np.arange(5)[:, None] == 0, -np.inf, natural))
    assert nothing.log_normaliser == -np.inf
    np.testing.assert_array_equal(nothing.statistics, np.zeros((5, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [-1e6, -400.0, 400.0, 1e6])
def test_extreme_logits_stay_finite(offset: float, dtype: type) -> None:
    rows, natural = problem(300, dtype=dtype)
    shifted = natural + offset * (np.arange(5) == 0)[:, None]
    found = mixture_sums(features, rows, shifted)
    assert_close(found, *oracle(rows, shifted), tolerance=1e-9 if dtype is np.float64 else 0.2)
    assert found.statistics[0].sum() == pytest.approx(300)


def test_nan_is_not_hidden() -> None:
    rows, natural = problem(10)
    rows.location[3] = np.nan
    assert np.isnan(mixture_sums(features, rows, natural).log_normaliser)


def test_halves_add_up() -> None:
    rows, natural = problem(40_001, 5)
    halves = [mixture_sums(features, take_rows(rows, half), natural) for half in (slice(17_000), slice(17_000, None))]
    assert_close(mixture._add(*halves), mixture_sums(features, rows, natural), oracle(rows, natural)[1])


def test_the_same_bits_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, natural = problem(60_007, 16)
    rows.location[31_000] = 1e3  # this span subtracts the maximum
    natural[1:3] /= 10
    first = mixture_sums(features, rows, natural)
    assert_close(first, *oracle(rows, natural))
    for repeat in range(20):
        monkeypatch.setattr(mixture, "_cores", lambda cores=1 + repeat % 5: cores)
        again = mixture_sums(features, rows, natural)
        assert first.log_normaliser == again.log_normaliser
        np.testing.assert_array_equal(first.statistics, again.statistics)


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_cores", lambda: 2)
    rows, natural = problem(200_000, 64)
    tracemalloc.start()
    mixture_sums(features, rows, natural)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # rows x features alone would be 8 MB, rows x components 102 MB


def test_a_mistake_in_features_reaches_the_user() -> None:
    rows, natural = problem(50_000)
    with pytest.raises(ValueError, match="mismatch"):
        mixture_sums(features, rows, natural[:4])


@pytest.mark.parametrize("dead", [[], [1], [0, 1, 2]])
def test_jax_agrees_and_its_gradient_is_the_statistics(dead: list[int]) -> None:
    rows, natural = problem(2000)
    natural[0, dead] = -np.inf
    ours, (_, scale) = mixture_sums(features, rows, natural), oracle(*problem(2000))
    with jax.enable_x64(True):
        data, point = map_leaves(lambda _, leaf: jnp.asarray(leaf), rows), jnp.asarray(natural)
        theirs = MixtureSums(*map(np.asarray, jax.jit(lambda w: mixture_sums(features, data, w))(point)))
        gradient = np.asarray(jax.grad(lambda w: mixture_sums(features, data, w).log_normaliser)(point))
    if len(dead) == 3:
        assert ours.log_normaliser == theirs.log_normaliser == -np.inf
        ours, theirs = (sums._replace(log_normaliser=np.float64(0)) for sums in (ours, theirs))
    assert_close(theirs, ours, scale)
    assert_close(theirs._replace(statistics=gradient), ours, scale)


def test_plain_and_chunked_agree_in_numpy() -> None:
    rows, natural = problem(30_000, 7)
    assert_close(
        mixture._plain(np, features(rows), natural), mixture_sums(features, rows, natural), oracle(rows, natural)[1]
    )
