"""Fits are the same whoever runs the hot loops."""

from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.kernels import executors
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import flat

pytestmark = pytest.mark.filterwarnings("ignore::latentzoo.models.language.errors.Note")  # runs that stop early

FITS = (
    *(("gaussian_mixture", "em", {"covariance_type": each}) for each in ("full", "tied", "diag", "spherical")),
    ("gaussian_mixture", "cavi", {"covariance_type": "full"}),
    ("earthquakes", "cavi", {"weights": "dirichlet", "noise": "per_component"}),
    ("aggregate_markov", "em", {}),
    ("aggregate_markov", "cavi", {}),
)


def fit(name: str, method: str, spec: dict[str, Any], executor: str, dtype: Any = np.float64) -> Fit:
    zoo = lz.get(name, **spec)
    data = zoo.simulate(seed=3, num_rows=700)[0]
    if name == "gaussian_mixture":
        data = data._replace(x=data.x.astype(dtype))
    return lz.fit(zoo, data, method, executor=executor, num_steps=6, tol=0.0, progress=False)


@pytest.mark.parametrize(("name", "method", "spec"), FITS)
def test_fits_agree(name: str, method: str, spec: dict[str, Any]) -> None:
    ours = fit(name, method, spec, "numpy")
    for executor in ("numba", "jax"):
        theirs = fit(name, method, spec, executor)
        np.testing.assert_allclose(theirs.elbo_trace, ours.elbo_trace, rtol=1e-11)
        np.testing.assert_allclose(flat(theirs.params), flat(ours.params), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("executor", ["numpy", "numba", "jax"])
def test_single_precision_follows_double(executor: str) -> None:
    spec = {"covariance_type": "diag"}
    single, double = (fit("gaussian_mixture", "em", spec, executor, dtype) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(single.elbo_trace, double.elbo_trace, rtol=1e-5)
    assert single.data.x.dtype == np.float32
    assert np.abs(single.elbo_trace - double.elbo_trace).max() > 0  # or it was computed in double


def test_far_from_the_origin_no_digits_are_lost() -> None:
    """A shift by a power of two that moves no bits out of the data leaves the likelihood what it was."""
    zoo = lz.get("gaussian_mixture", covariance_type="full")
    data = zoo.simulate(seed=3, num_rows=700)[0]
    data = data._replace(x=np.round(data.x * 2**10) / 2**10)
    start = zoo.init(data, zoo.prior(data), seed=0)
    moved = start._replace(theta=start.theta._replace(loc=start.theta.loc + 2.0**20))
    for executor in ("numpy", "numba", "jax"):
        near, far = (
            lz.fit(zoo, rows, "em", init=init, executor=executor, num_steps=5, tol=0.0, progress=False)
            for rows, init in ((data, start), (data._replace(x=data.x + 2.0**20), moved))
        )
        # The parameters themselves are rounded at their size, by 2^20 eps; the bound is quadratic about its optimum.
        np.testing.assert_allclose(far.elbo_trace, near.elbo_trace, rtol=1e-10)


def test_the_executor_of_a_step_is_its_own() -> None:
    seen: list[bool] = []

    def e_step(*_: Any) -> None:
        seen.append(executors.runs_numba(1))

    accumulate.by("numba", e_step)(None, None, None, None)
    e_step()
    assert seen == [True, False]


def test_rows_are_put_on_the_devices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    zoo = lz.get("gaussian_mixture")
    data = zoo.simulate(seed=0, num_rows=50)[0]
    prior = zoo.prior(data)
    step, put = accumulate.on_devices(zoo.closed_form.e_step), jax.device_put
    placed: list[Any] = []
    monkeypatch.setattr(jax, "device_put", lambda leaf, *where: (placed.append(leaf), put(leaf, *where))[1])
    params = zoo.init(data, prior, seed=0)
    once, twice = (step(params, data, prior, zoo.spec) for _ in range(2))
    assert sum(leaf is not None and np.shape(leaf) == np.shape(data.x) for leaf in placed) == 1
    np.testing.assert_array_equal(flat(once), flat(twice))
    assert isinstance(once.bound, np.float64)
