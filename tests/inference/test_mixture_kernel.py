"""The mixture kernel by every executor: against SciPy, by hand, JAX's automatic gradient, other cuts of the rows."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from latentzoo.inference.kernels import executors, mixture_numpy, numba_loops, threads
from latentzoo.inference.kernels.executors import MANY_ROWS, using
from latentzoo.inference.kernels.mixture import mixture_sums
from latentzoo.inference.kernels.mixture_numpy import MixtureSums
from latentzoo.inference.kernels.moments import Moments, Quadratic, features
from latentzoo.models.language.errors import UserError

EXECUTORS = ("numpy", "numba", "jax")
QUADRATICS = get_args(Quadratic)


def problem(
    length: int,
    components: int = 3,
    dtype: Any = np.float64,
    quadratic: Any = "length",
    size: int = 2,
    more: int = 1,
) -> tuple[Moments, np.ndarray]:
    draw = np.random.default_rng([length, components, size])
    rest = draw.gamma(2.0, size=(length, more)).astype(dtype) if more else None
    moments = Moments(draw.normal(size=(length, size)).astype(dtype), draw.normal(size=size), quadratic, rest)
    return moments, draw.normal(size=(moments.num_features, components))


def by(executor: str, moments: Moments, natural: np.ndarray) -> MixtureSums:
    """The sums as this executor finds them."""
    if executor != "jax":
        with using(executor):
            return mixture_sums(moments, natural)
    with jax.enable_x64(True):
        more = None if moments.more is None else jnp.asarray(moments.more)
        found = mixture_sums(moments._replace(x=jnp.asarray(moments.x), more=more), natural)
        return MixtureSums(*map(np.asarray, found))


def oracle(moments: Moments, natural: np.ndarray) -> tuple[MixtureSums, MixtureSums]:
    """SciPy's sums over whole arrays, and the same sums of absolute terms, the scale of their rounding errors.

    The features are written out row by row, in double precision.
    """
    feature = np.array(list(rows(moments))).reshape(-1, moments.num_features).T
    with np.errstate(invalid="ignore"):
        products = natural[:, :, None] * feature[:, None, :]
    logits = np.where(natural[0][:, None] == -np.inf, -np.inf, products.sum(0))
    normaliser, weights = logsumexp(logits, axis=0), softmax(logits, axis=0)
    size = np.abs(np.where(np.isfinite(products), products, 0)).sum(0).max(0)
    # An error of the logits is one of the weights, too.
    return (
        MixtureSums(normaliser.sum(), feature @ weights.T),
        MixtureSums(size.sum() + np.abs(normaliser).sum(), (np.abs(feature) * (1 + size)) @ np.ones_like(weights).T),
    )


def rows(moments: Moments) -> Iterator[list[float]]:
    rest = np.empty((len(moments.x), 0)) if moments.more is None else moments.more
    for row, more in zip(np.float64(moments.x), np.float64(rest), strict=True):
        x = row - moments.centre
        quadratic = {
            "none": [],
            "squares": list(x**2),
            "length": [x @ x],
            "products": [x[i] * x[j] for i in range(len(x)) for j in range(i + 1)],
        }
        yield [1.0, *x, *quadratic[moments.quadratic], *more]


def assert_close(found: MixtureSums, wanted: MixtureSums, scale: MixtureSums, tolerance: float = 1e-14) -> None:
    for value, target, size in zip(found, wanted, scale, strict=True):
        assert np.all(np.abs(np.asarray(value) - target) <= tolerance * np.asarray(size))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("quadratic", QUADRATICS)
@given(
    length=st.integers(1, 600),
    components=st.integers(1, 9),
    size=st.integers(1, 5),
    more=st.integers(0, 2),
    dead=st.sets(st.integers(0, 8)),
    spread=st.sampled_from([1.0, 30.0]),
)
def test_sums_are_scipys(
    executor: str, quadratic: str, length: int, components: int, size: int, more: int, dead: set[int], spread: float
) -> None:
    if executor == "jax":  # which compiles every shape anew
        length, components, size, more = 300 + length % 2, 3 + components % 2, 2, 1
    moments, natural = problem(length, components, np.float64, quadratic, size, more)
    natural *= spread
    natural[0, [k for k in dead if k < components - 1]] = -np.inf
    assert_close(by(executor, moments, natural), *oracle(moments, natural))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_last_chunk_may_have_any_length(executor: str, extra: int) -> None:
    chunk = {"numpy": mixture_numpy._chunk_rows(np.zeros((5, 16))), "numba": 256, "jax": 2048}[executor]
    moments, natural = problem(2 * chunk + extra, 16)
    assert_close(by(executor, moments, natural), *oracle(moments, natural))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_row_by_hand(executor: str) -> None:
    (x, y), strength = (0.5, -1.0), 2.0
    natural = np.arange(10.0).reshape(5, 2) / 10
    weights = np.exp([natural[:, k] @ [1, x, y, x**2 + y**2, strength] for k in range(2)])
    moments = Moments(np.array([[x + 3, y - 7]]), np.array([3.0, -7.0]), "length", np.array([[strength]]))
    found = by(executor, moments, natural)
    np.testing.assert_allclose(found.log_normaliser, np.log(weights.sum()), rtol=1e-14)
    np.testing.assert_allclose(found.statistics[1], x * weights / weights.sum(), rtol=1e-14)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_rows_sum_to_zero(executor: str) -> None:
    found = by(executor, *problem(0))
    assert found.log_normaliser == 0
    np.testing.assert_array_equal(found.statistics, np.zeros((5, 3)))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_component_has_every_row(executor: str) -> None:
    moments, natural = problem(1000, 1)
    found = by(executor, moments, natural)
    assert found.statistics[0, 0] == 1000
    np.testing.assert_allclose(found.log_normaliser, natural[:, 0] @ found.statistics[:, 0], rtol=1e-12)


@pytest.mark.parametrize("components", [2, 200, 1000])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_equal_components_count_as_often_as_they_are(executor: str, components: int) -> None:
    """Each row's total is the largest there is, the number of components: no product of them overflows."""
    moments, natural = problem(600, 1)
    one, all_alike = by(executor, moments, natural), by(executor, moments, np.repeat(natural, components, axis=1))
    wanted = one.log_normaliser + 600 * np.log(components)
    np.testing.assert_allclose(all_alike.log_normaliser, wanted, rtol=1e-13)
    np.testing.assert_allclose(components * all_alike.statistics[:, :1], one.statistics, rtol=1e-11)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_float32_rows_have_float64_totals(executor: str) -> None:
    moments, natural = problem(30_000, 4, np.float32)
    natural[3] = -np.abs(natural[3])
    found, (wanted, scale) = by(executor, moments, natural), oracle(moments, natural)
    assert found.log_normaliser.dtype == found.statistics.dtype == np.float64
    assert_close(found, wanted, scale, tolerance=2e-7)
    assert abs(found.log_normaliser - wanted.log_normaliser) > 1e-12 * scale.log_normaliser  # or it was in float64
    np.testing.assert_allclose(found.statistics[0].sum(), 30_000, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_large_coordinates_lose_no_digits(executor: str, dtype: Any) -> None:
    """Whole and half numbers about 1e6 are exact in single precision, too: what is left is as if they were about 0."""
    moments, natural = problem(2000, 4, dtype, "squares")
    moments = moments._replace(x=np.round(2 * moments.x) / 2, centre=np.array([0.5, -1.0]))
    far = moments._replace(x=moments.x + dtype(1e6), centre=moments.centre + 1e6)
    for value, target in zip(by(executor, far, natural), by(executor, moments, natural), strict=True):
        np.testing.assert_array_equal(value, target)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_components_of_weight_zero_are_left_out(executor: str) -> None:
    moments, natural = problem(1000, 4)
    natural[0, [0, 2]] = -np.inf
    found = by(executor, moments, natural)
    np.testing.assert_array_equal(found.statistics[:, [0, 2]], 0)
    assert_close(found._replace(statistics=found.statistics[:, [1, 3]]), *oracle(moments, natural[:, [1, 3]]))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_rows_that_no_component_explains_add_nothing(executor: str) -> None:
    moments, natural = problem(10)
    natural[0] = -np.inf
    nothing = by(executor, moments, natural)
    assert nothing.log_normaliser == -np.inf
    np.testing.assert_array_equal(nothing.statistics, np.zeros((5, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [-1e6, -400.0, 400.0, 1e6])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_extreme_logits_stay_finite(executor: str, offset: float, dtype: Any) -> None:
    moments, natural = problem(300, dtype=dtype)
    shifted = natural + offset * (np.arange(5) == 0)[:, None]
    found = by(executor, moments, shifted)
    assert_close(found, *oracle(moments, shifted), tolerance=float(np.finfo(dtype).eps) * 4)
    assert found.statistics[0].sum() == pytest.approx(300)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_nan_is_not_hidden(executor: str) -> None:
    moments, natural = problem(10)
    moments.x[3] = np.nan
    assert np.isnan(by(executor, moments, natural).log_normaliser)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_halves_add_up(executor: str) -> None:
    moments, natural = problem(5001, 5)
    halves = [by(executor, moments.take(half), natural) for half in (slice(1700), slice(1700, None))]
    scale = oracle(moments, natural)[1]
    assert_close(mixture_numpy._add(*halves), by(executor, moments, natural), scale)


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_the_same_bits_whatever_the_threads(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, natural = problem(60_007, 16)
    moments.x[31_000] = 1e3  # where NumPy subtracts the maximum
    natural[3] = -np.abs(natural[3])
    first = by(executor, moments, natural)
    for repeat in range(20):
        monkeypatch.setattr(threads, "cores", lambda cores=1 + repeat % 5: cores)
        again = by(executor, moments, natural)
        assert first.log_normaliser == again.log_normaliser
        np.testing.assert_array_equal(first.statistics, again.statistics)


@pytest.mark.parametrize("executor", ["numpy", "numba"])
@pytest.mark.parametrize("quadratic", ["squares", "products"])
def test_memory_does_not_grow_with_the_rows(executor: str, quadratic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    moments, natural = problem(200_000, 64, np.float64, quadratic)
    natural[3:] = -np.abs(natural[3:])
    by(executor, moments.take(slice(1000)), natural)  # compiles
    tracemalloc.start()
    by(executor, moments, natural)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20  # rows x features alone would be 10 MB, rows x components 102 MB


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_layouts_and_numbers_of_every_kind(executor: str) -> None:
    moments, natural = problem(3000, 4)
    fixed = moments.x.copy()
    fixed.flags.writeable = False
    for x in (np.asfortranarray(moments.x), np.repeat(moments.x, 2, axis=0)[::2], fixed):
        found = by(executor, moments._replace(x=x), natural)
        np.testing.assert_array_equal(found.statistics, by(executor, moments, natural).statistics)
    whole = moments._replace(x=np.round(moments.x).astype(int), more=np.round(moments.more).astype(np.int32))
    assert_close(by(executor, whole, natural), *oracle(whole, natural))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_mistake_in_the_features_reaches_the_user(executor: str) -> None:
    moments, natural = problem(100)
    with pytest.raises(ValueError, match="5 features mismatch 4"):
        by(executor, moments, natural[:4])


@pytest.mark.parametrize("quadratic", QUADRATICS)
@pytest.mark.parametrize("xp", [np, jnp])
def test_features_are_those_of_the_recipe(xp: Any, quadratic: str) -> None:
    moments, _ = problem(20, quadratic=quadratic, size=3)
    with jax.enable_x64(True):
        found = np.asarray(features(moments._replace(x=xp.asarray(moments.x), more=xp.asarray(moments.more))))
    np.testing.assert_allclose(found.T, list(rows(moments)), rtol=1e-14, atol=1e-14)


# --- the executors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float64, 3.0), (np.float32, 3.0)])
def test_the_exponential_is_that_of_numpy(dtype: Any, ulps: float) -> None:
    compiled = numba_loops.compiled(numba_loops.FUSED)(_exponentials)
    y = np.concatenate([-np.geomspace(1e-20, 100.0, 4001), [-0.5, -1.5, -2.5, 0.0]]).astype(dtype)
    found = compiled(y, np.empty_like(y))
    np.testing.assert_allclose(found, np.exp2(np.float64(y)), rtol=ulps * np.finfo(dtype).eps)
    assert found[-1] == 1
    far = compiled(np.array([-1e3, -1e4, -1e30, -np.inf, np.nan], dtype=np.float64).astype(dtype), np.empty(5, dtype))
    assert np.all((far[:4] >= 0) & (far[:4] < 1e-37))
    assert np.isnan(far[4])


def _exponentials(y: Any, out: Any) -> Any:
    for i in range(len(y)):
        out[i] = numba_loops.exp2(y[i])
    return out


def test_many_rows_go_to_numba_and_few_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert executors.runs_numba(MANY_ROWS)
    assert not executors.runs_numba(MANY_ROWS - 1)
    for name, runs in (("numpy", False), ("numba", True)):
        with using(name):
            assert executors.runs_numba(1) is executors.runs_numba(10**6) is runs
    assert executors.runs_jax("jax", 1)
    assert not executors.runs_jax("numba", 10**6)
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    assert not executors.runs_numba(MANY_ROWS)
    assert not executors.runs_jax("auto", MANY_ROWS)
    executors.check("auto")
    with pytest.raises(
        UserError, match=r"executor is 'numba', which is not installed: pip install 'latentzoo\[fast\]'"
    ):
        executors.check("numba")


def test_without_a_folder_for_its_cache_numba_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba_loops.njit

    def no_folder(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba_loops, "njit", no_folder)
    assert numba_loops.compiled(numba_loops.FUSED)(lambda x: x + 1.0)(1.0) == 2.0


def test_jax_can_be_jitted_and_its_gradient_is_the_statistics() -> None:
    moments, natural = problem(5000)
    natural[0, 1] = -np.inf
    with jax.enable_x64(True):
        data = moments._replace(x=jnp.asarray(moments.x), more=jnp.asarray(moments.more))
        sums = MixtureSums(*map(np.asarray, jax.jit(lambda w: mixture_sums(data, w))(jnp.asarray(natural))))
        gradient = np.asarray(jax.grad(lambda w: mixture_sums(data, w).log_normaliser)(jnp.asarray(natural)))
    wanted, scale = oracle(moments, natural)
    assert_close(sums, wanted, scale)
    assert_close(sums._replace(statistics=gradient), wanted, scale)


ON_DEVICES = Path(__file__).parent / "mixture_on_devices.py"


@pytest.mark.parametrize("devices", [2, 8])
def test_rows_on_several_devices_have_the_same_sums(devices: int) -> None:
    """In a process of its own, because JAX counts its devices once."""
    command = [sys.executable, str(ON_DEVICES), str(devices)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(devices), "agree"]
