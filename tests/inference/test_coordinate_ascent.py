"""The loop of EM and CAVI: how it ends, and that it notices an update that is wrong."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.accumulate import in_chunks
from latentzoo.inference.closed_form import earthquakes as true
from latentzoo.inference.coordinate_ascent import BoundFell, steps
from latentzoo.inference.run import Run, drive
from latentzoo.models.language.contract import leaves


class Start:
    """A problem that CAVI solves in some tens of steps."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.zoo = lz.get("earthquakes", num_components=3, noise="shared")
        centres = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0]])[np.arange(60) % 3]
        self.data = self.zoo.Data(centres + rng.normal(size=(60, 2)), rng.poisson(8.0, 60).astype(float))
        self.prior = self.zoo.prior(self.data)
        self.params = self.zoo.init(self.data, self.prior)

    def ascend(
        self, closed_form: Any = true, e_step: Any = true.e_step, params: Any = None, tol: float = 1e-10, **limits: Any
    ) -> Run:
        start = self.params if params is None else params
        climb = steps(closed_form, e_step, self.data, self.prior, self.zoo.spec, start, tol=tol)
        return drive(climb, **{"num_steps": 2000, **limits})


@pytest.fixture(scope="module")
def start() -> Start:
    return Start()


def worsening(step: int, amount: float) -> Any:
    """A closed form that is the true one, but for the M step of one step."""
    calls = iter(range(1, 100_000))

    def m_step(stats: Any, params: Any, prior: Any, spec: Any) -> lz.Params:
        phi = true.m_step(stats, params, prior, spec).phi
        return lz.Params(phi=phi._replace(loc_mean=phi.loc_mean + amount * (next(calls) == step)))

    return SimpleNamespace(e_step=true.e_step, elbo=true.elbo, m_step=m_step)


def test_it_converges(start: Start) -> None:
    run = start.ascend()
    assert run.converged
    assert "rose by less than 1e-10" in run.reason
    assert 10 < len(run.trace.elbo) == len(run.trace.seconds) < 2000
    assert np.diff(run.trace.elbo[:-1]).min() > 1e-10 * abs(run.trace.elbo[-1])  # it stopped no step too late
    assert np.diff(run.trace.elbo)[-1] <= 1e-10 * abs(run.trace.elbo[-1])
    assert (np.diff(run.trace.seconds) >= 0).all()
    assert run.history == ()
    stats = true.e_step(run.params, start.data, start.prior, start.zoo.spec)
    assert float(true.elbo(stats, run.params, start.prior, start.zoo.spec)) == run.trace.elbo[-1]


def test_a_tolerance_of_zero_ends_too(start: Start) -> None:
    """Rounding ends the run: without it the bound would rise and fall by its last digits for ever."""
    run = start.ascend(tol=0.0, num_steps=100_000)
    assert run.converged
    assert run.trace.elbo[-1] >= start.ascend().trace.elbo[-1]


def test_a_wrong_update_is_an_error(start: Start) -> None:
    with pytest.raises(BoundFell, match=r"step 6 lowered the bound by [0-9.]+"):
        start.ascend(worsening(step=5, amount=2.0))


def test_a_slightly_wrong_update_is_an_error(start: Start) -> None:
    """Once at rest, when the bound is flat, an error of 1e-4 costs 1e-6 of a bound of 500: it is seen."""
    rest = start.ascend(tol=0.0, num_steps=100_000)
    with pytest.raises(BoundFell, match="step 2 "):
        start.ascend(worsening(step=1, amount=1e-4), params=rest.params, num_steps=5, tol=0.0)


def test_num_steps_stops_it_unconverged(start: Start) -> None:
    run = start.ascend(num_steps=4)
    assert not run.converged
    assert run.reason == "num_steps = 4 came first"
    assert len(run.trace.elbo) == 4
    np.testing.assert_array_equal(run.trace.elbo, start.ascend().trace.elbo[:4])
    one = start.ascend(num_steps=1)  # the bound of the start itself
    assert one.params is start.params
    assert len(one.trace.elbo) == 1


def test_max_seconds_stops_it_unconverged(start: Start) -> None:
    run = start.ascend(max_seconds=1e-9)
    assert not run.converged
    assert run.reason == "max_seconds = 1e-09 came first"
    assert len(run.trace.elbo) == 1


def test_a_bound_that_is_no_number_stops_it(start: Start) -> None:
    def m_step(stats: Any, params: Any, prior: Any, spec: Any) -> lz.Params:
        return lz.Params(phi=params.phi._replace(rate_log_rate=np.full(3, np.nan)))

    broken = SimpleNamespace(e_step=true.e_step, elbo=true.elbo, m_step=m_step)
    run = start.ascend(broken)
    assert not run.converged
    assert run.reason == "the bound is nan at step 2"


def test_history_has_every_step(start: Start) -> None:
    run = start.ascend(keep_history=True, num_steps=6)
    assert len(run.history) == 6
    assert run.history[0] is start.params
    assert run.history[-1] is run.params
    for params, bound in zip(run.history, run.trace.elbo, strict=True):
        stats = true.e_step(params, start.data, start.prior, start.zoo.spec)
        assert float(true.elbo(stats, params, start.prior, start.zoo.spec)) == bound


def test_every_step_is_reported(start: Start) -> None:
    told: list[tuple[int, float]] = []
    run = start.ascend(num_steps=5, report=lambda record: told.append(record.columns[-1][:2]))
    assert told == list(enumerate(run.trace.elbo, 1))


def test_the_start_is_left_as_it_was(start: Start) -> None:
    before = {name: leaf.copy() for name, leaf in leaves(start.params).items()}
    start.ascend()
    for name, leaf in leaves(start.params).items():
        np.testing.assert_array_equal(leaf, before[name])


# --- through `fit` ----------------------------------------------------------------------------------------------------


def test_fit_says_when_it_has_not_converged(start: Start) -> None:
    with pytest.warns(lz.Note, match="cavi has not converged: num_steps = 3 came first"):
        fit = lz.fit(start.zoo, start.data, num_steps=3, progress=False)
    assert not fit.converged
    assert fit.num_steps == 3


def test_fit_keeps_the_best_restart(start: Start) -> None:
    fit = lz.fit(start.zoo, start.data, num_restarts=6, seed=3, progress=False)
    assert len(fit.restarts) == 6
    assert fit.elbo == max(restart.elbo for restart in fit.restarts)
    assert len({restart.elbo for restart in fit.restarts}) > 1  # they started elsewhere
    one = lz.fit(start.zoo, start.data, seed=3, progress=False)
    assert fit.restarts[0].elbo == one.elbo


def test_fit_starts_where_it_is_told(start: Start) -> None:
    best = lz.fit(start.zoo, start.data, tol=1e-13, num_steps=5000, progress=False)
    again = lz.fit(start.zoo, start.data, init=best.params, progress=False)
    assert again.num_steps == 2
    assert again.elbo_trace[0] == best.elbo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cavy"}, "did you mean 'cavi'"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": 2.5}, "num_steps is 2.5: it must be a whole number"),
        ({"num_restarts": 0}, "num_restarts is 0"),
        ({"tol": -1.0}, "tol is -1.0"),
        ({"tol": np.nan}, "tol is nan"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"chunk_rows": 0}, "chunk_rows is 0"),
        ({"chunk_rows": 2.5}, "chunk_rows is 2.5"),
        ({"executor": "numbo"}, "did you mean 'numba'"),
        ({"num_steps": "ten"}, "num_steps is 'ten'"),
        ({"init": 3}, "params is a int"),
        ({"prior": 3}, "prior is a int"),
    ],
)
def test_fit_refuses_what_it_cannot_use(start: Start, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lz.UserError, match=message) as raised:
        lz.fit(start.zoo, start.data, progress=False, **options)
    assert "\n" not in str(raised.value)


def test_an_init_of_another_model_is_refused(start: Start) -> None:
    """Of another size, or of another Spec: with fields that have no place, or without some that it needs."""
    specs = (
        {"num_components": 5, "noise": "shared"},
        {"weights": "dirichlet", "noise": "shared"},
        {},
        {"noise": "per_component"},
    )
    for spec in specs:
        other = lz.get("earthquakes", **spec).init(start.data)
        with pytest.raises(lz.UserError, match=r"params\.phi\."):
            lz.fit(start.zoo, start.data, init=other, progress=False)
    plain = lz.get("earthquakes")
    with pytest.raises(lz.UserError, match=r"params\.phi\.weights_log_concentration"):
        lz.fit(plain, start.data, init=lz.get("earthquakes", weights="dirichlet").init(start.data), progress=False)


def test_chunks_of_one_row(start: Start) -> None:
    whole = start.ascend(num_steps=10)
    run = start.ascend(e_step=in_chunks(true.e_step, 1), num_steps=10)
    np.testing.assert_allclose(run.trace.elbo, whole.trace.elbo, rtol=1e-12)
