"""How deep models are trained: precision, the weight of the divergence, temperatures, binarisation, early stopping."""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.autoencoder import fit_autoencoder
from latentzoo.inference.automatic import Pair, backend, pushed
from latentzoo.inference.clustered_start import clustered_start
from latentzoo.inference.estimators import Relaxed
from latentzoo.inference.minibatches import Minibatches, in_precision
from latentzoo.inference.training import Training, binarised
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.ppl import LIBRARIES, handle
from latentzoo.models.language.stream import Stream

pytestmark = pytest.mark.filterwarnings("ignore::latentzoo.Note")

DEEP = {
    "vae": {},
    "two_latent_vae": {},
    "mixture_vae": {"num_components": 3},
    "semisupervised_vae": {},
    "discrete_vae": {"num_states": 3},
}


QUICK = ("vae", "mixture_vae")  # the others compile for half a minute


def example(name: str, num_rows: int = 7, **spec: Any) -> tuple[Any, Any, Any, Any]:
    zoo = lz.get(name, hidden=(5,), **DEEP[name], **spec)
    data, _ = zoo.simulate(seed=0, num_rows=num_rows)
    prior = zoo.prior(data)
    return zoo, data, prior, zoo.init(data, prior, seed=1)


def on(library: str, tree: Any) -> Any:
    return backend(library).ppl.arrays(tree)


# --- the weight of the divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", DEEP)
def test_the_bound_is_linear_in_the_weight_of_the_divergence(name: str, library: Any) -> None:
    """At 1 it is the bound by hand, at 0 the expected log likelihood, and half-way the mean of both."""
    zoo, data, prior, params = example(name)
    auto, form = backend(library), zoo.closed_form
    noise = form.noise(data, zoo.spec, np.random.default_rng(0))
    programs = [auto.tempered(program.on(library)) for program in (zoo.model, zoo.guide)]

    def bound(weight: float) -> float:
        with auto.precision():
            args = on(library, data), on(library, prior), on(library, params)
            pair = Pair(*programs, args, {"latent_weight": weight}, zoo.model_room.MAX_PLATE_NESTING)
            fixed = pushed(noise, auto.ppl)
            return auto.value_and_gradient(lambda at: auto.elbo(pair, at, fixed), leaves(params))[0]

    bounds = {weight: bound(weight) for weight in (0.0, 0.5, 1.0)}
    assert bounds[1.0] == pytest.approx(form.value_and_gradient(params, data, prior, noise, zoo.spec)[0], rel=1e-12)
    assert bounds[0.5] == pytest.approx((bounds[0.0] + bounds[1.0]) / 2.0, rel=1e-12)
    if name == "mixture_vae":
        assert bounds[0.0] == pytest.approx(form.terms(params, data, prior, noise, zoo.spec).reconstruction.sum())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_warm_up_ends(library: Any) -> None:
    """With no rate the first loss of a run is the likelihood alone, the last the bound: the trace tells both."""
    zoo, data, _, params = example("vae", num_rows=20)
    options = {"library": library, "init": params, "optimiser": "sgd", "learning_rate": 1e-300, "progress": False}
    plain = lz.fit(zoo, data, "svi", num_steps=150, **options)
    warmed = lz.fit(zoo, data, "svi", num_steps=150, warm_up=100, **options)
    assert warmed.elbo_trace[0] > warmed.elbo_trace[1] > warmed.elbo_trace[2]
    assert warmed.elbo_trace[2] == pytest.approx(plain.elbo_trace[2], rel=1e-6)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in DEEP]
)
def test_a_fit_goes_on_in_the_other_library(name: str) -> None:
    """Parameters trained in NumPyro have the same bound in Pyro, at the same noise, in either precision."""
    zoo, data, prior, params = example(name, num_rows=30)
    fit = lz.fit(zoo, data, "svi", init=params, prior=prior, num_steps=100, progress=False)
    assert all(leaf.dtype == np.float64 for leaf in leaves(fit.params).values())
    noise = zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(0))
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
        bounds = [_bound(zoo, library, data, prior, fit.params, noise, dtype) for library in LIBRARIES]
        assert bounds[0] == pytest.approx(bounds[1], rel=tolerance)
        assert bounds[0] == pytest.approx(
            zoo.closed_form.value_and_gradient(fit.params, data, prior, noise, zoo.spec)[0], rel=tolerance
        )
    on_pyro = lz.fit(zoo, data, "svi", library="pyro", init=fit, prior=prior, num_steps=1, progress=False)
    assert on_pyro.elbo == pytest.approx(fit.elbo, rel=0.05)


def _bound(zoo: Any, library: Any, data: Any, prior: Any, params: Any, noise: Any, dtype: str) -> float:
    auto = backend(library)
    with auto.precision(dtype):
        args = [on(library, in_precision(tree, dtype)) for tree in (data, prior, params)]
        pair = Pair(zoo.model.on(library), zoo.guide.on(library), tuple(args), {}, zoo.model_room.MAX_PLATE_NESTING)
        fixed = pushed(in_precision(noise, dtype), auto.ppl)
        at = leaves(in_precision(params, dtype))
        return auto.value_and_gradient(lambda at: auto.elbo(pair, at, fixed), at)[0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_both_precisions_take_the_same_first_steps(library: Any) -> None:
    zoo, data, _, params = example("vae", num_rows=30)
    options = {"library": library, "init": params, "optimiser": "sgd", "learning_rate": 1e-5, "progress": False}
    wide, narrow = (lz.fit(zoo, data, "svi", dtype=dtype, num_steps=1, **options) for dtype in ("float64", "float32"))
    for name, leaf in leaves(narrow.params).items():
        np.testing.assert_array_equal(leaf, leaf.astype(np.float32))
        np.testing.assert_allclose(leaf, leaves(wide.params)[name], atol=1e-2)


# --- temperatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_temperature_falls_by_the_same_factor_in_each_step(library: Any) -> None:
    ppl = handle(library)
    relaxed = Relaxed(2.0, final_temperature=0.5, num_steps=4)
    particles = SimpleNamespace(ppl=ppl, memory=ppl.array(np.zeros(2, dtype=np.float32)))
    found = [float(relaxed._fallen(particles)) for _ in range(6)]
    assert found == pytest.approx([2.0, 2.0**0.5, 1.0, 0.5**0.5, 0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_fit_lets_the_temperature_fall(library: Any) -> None:
    zoo, data, prior, params = example("discrete_vae", num_rows=20)

    def trained(**options: Any) -> Any:
        given = {"library": library, "prior": prior, "init": params, "num_steps": 60, "progress": False, **options}
        return lz.fit(zoo, data, "svi", estimator="relaxed", **given).elbo_trace

    held, same, falling = (
        trained(temperature=0.7),
        trained(temperature=0.7, final_temperature=0.7),
        trained(temperature=0.7, final_temperature=0.07),
    )
    np.testing.assert_allclose(same, held, rtol=1e-5)
    assert np.abs(falling / held - 1.0).max() > 1e-4


# --- what the rows become ---------------------------------------------------------------------------------------------


def test_features_are_drawn_anew_at_each_step() -> None:
    grey = np.full((4, 50, 30), np.linspace(0.0, 1.0, 30), dtype=np.float32)
    drawn = binarised(grey, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert set(np.unique(drawn)) == {0.0, 1.0}
    error = np.sqrt(grey[0, 0] * (1.0 - grey[0, 0]) / 200.0)
    assert (np.abs(drawn.mean((0, 1)) - grey[0, 0]) <= 5.0 * error).all()
    zoo = lz.get("vae")
    batches = Minibatches(zoo.Data(grey[0]), 10, seed=0, dtype="float32", prepare=Training(binarise=True).prepared)
    one, again = batches.take(0, 50), batches.take(0, 50)
    np.testing.assert_array_equal(one.x, again.x)
    assert (one.x != batches.take(50, 50).x).any()
    assert set(np.unique(one.x)) == {0.0, 1.0}


def test_rows_on_disk_are_learnt_as_those_in_memory(tmp_path: Any) -> None:
    raw = np.random.default_rng(0).integers(0, 256, size=(300, 12), dtype=np.uint8)
    raw.tofile(tmp_path / "rows")
    source = np.memmap(tmp_path / "rows", dtype=np.uint8, mode="r", shape=raw.shape)
    zoo = lz.get("vae", hidden=(4,))
    fits = [
        lz.fit(
            zoo, zoo.Data(x), "svi", num_steps=60, batch_rows=32, progress=False, checkpoint=tmp_path / f"{index}.npz"
        )
        for index, x in enumerate((Stream(source, 255.0), (raw / np.float32(255.0)).astype(np.float32)))
    ]
    for name, leaf in leaves(fits[0].params).items():
        np.testing.assert_array_equal(leaf, leaves(fits[1].params)[name])


def test_few_steps_are_handed_over_at_once_where_rows_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("latentzoo.inference.minibatches")
    zoo = lz.get("vae", hidden=(4,))
    data = zoo.Data(np.random.default_rng(0).random((100, 10)))
    options = {"num_steps": 70, "batch_rows": 40, "progress": False, "dtype": "float64"}
    whole = lz.fit(zoo, data, "svi", **options)
    monkeypatch.setattr(module, "MOST_BYTES", 8 * 10 * 40 * 3)
    few = lz.fit(zoo, data, "svi", **options)
    assert len(few.elbo_trace) == 24
    for name, leaf in leaves(whole.params).items():
        np.testing.assert_allclose(leaves(few.params)[name], leaf, rtol=1e-12, atol=1e-14)


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_run_stops_where_the_bound_of_other_rows_no_longer_rises() -> None:
    rng = np.random.default_rng(0)
    noise = (rng.random((40, 30)) < 0.5).astype(float)  # there is nothing to learn from it but the rows themselves
    zoo = lz.get("vae", hidden=(50,), num_latents=5)
    options = {"learning_rate": 0.02, "num_steps": 4000, "progress": False, "seed": 0}
    stopped = lz.fit(zoo, zoo.Data(noise[:20]), "svi", validation=zoo.Data(noise[20:]), patience=300, **options)
    assert stopped.converged
    assert "held-out data was highest" in stopped.reason
    best = int(stopped.reason.split()[-1])
    assert stopped.trace.step[-1] == best + 300
    whole = lz.fit(zoo, zoo.Data(noise[:20]), "svi", **{**options, "num_steps": stopped.num_steps})
    watched = [lz.deep.bound(zoo, zoo.Data(noise[20:]), whole.prior, fit.params)[0] for fit in (stopped, whole)]
    assert watched[0] > watched[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_rows": 8}, "batch_rows is 8: the data have 7 rows"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"patience": 0}, "patience is 0"),
        ({"dtype": "float16"}, "did you mean 'float64'|no dtype 'float16'"),
        ({"temperature": 0.5}, "temperature is 0.5: estimator='relaxed'"),
        ({"estimator": "relaxed", "temperature": 0.0}, "temperature is 0.0"),
        ({"estimator": "relaxed", "final_temperature": -1.0}, "final_temperature is -1.0"),
    ],
)
def test_what_it_cannot_use_is_refused(options: dict[str, Any], message: str) -> None:
    zoo, data, _, _ = example("vae")
    with pytest.raises(lz.UserError, match=message) as told:
        lz.fit(zoo, data, "svi", progress=False, **options)
    assert "\n" not in str(told.value)


def test_grey_values_alone_are_binarised() -> None:
    zoo, data, _, _ = example("vae", likelihood="gaussian")
    with pytest.raises(lz.UserError, match="binarise is for likelihood='bernoulli': it is 'gaussian'"):
        lz.fit(zoo, data, "svi", binarise=True, progress=False)


# --- where a mixture starts -------------------------------------------------------------------------------------------


def clusters(num_rows: int = 90) -> np.ndarray:
    rng = np.random.default_rng(0)
    probs = np.array([[0.9] * 4 + [0.1] * 8, [0.1] * 4 + [0.9] * 4 + [0.1] * 4, [0.1] * 8 + [0.9] * 4])
    return (rng.random((num_rows, 12)) < probs[np.arange(num_rows) % 3]).astype(float)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
def test_the_start_is_the_autoencoder_with_standardised_codes(hidden: tuple[int, ...]) -> None:
    zoo = lz.get("mixture_vae", hidden=hidden, num_components=3)
    data = zoo.Data(clusters())
    rng = np.random.default_rng([5])
    rng.choice(90, 90, replace=False)
    plain = fit_autoencoder(data.x, zoo.spec, seed=int(rng.integers(2**32)), num_steps=100)
    first = zoo.guide_room.init(data, zoo.prior(data), zoo.spec, np.random.default_rng(0), False)
    params = zoo.check_params(clustered_start(first, data, zoo.prior(data), zoo.spec, np.random.default_rng([5])))
    codes = plain.encode(data.x)
    q, _ = zoo.closed_form.encoded(params, data, zoo.spec)
    np.testing.assert_allclose(q.loc, (codes - codes.mean(0)) / codes.std(0), atol=1e-10)
    found = zoo.closed_form.predict(params, data, zoo.prior(data), zoo.spec)
    np.testing.assert_allclose(found["x"], plain.reconstruct(data.x), atol=1e-10)
    np.testing.assert_allclose(q.scale, np.exp(params.theta.log_scale).prod(0) ** (1.0 / 3.0) / 2.0 + 0.0 * q.scale)


def test_the_start_knows_the_clusters() -> None:
    zoo = lz.get("mixture_vae", hidden=(6,), num_components=3)
    data = zoo.Data(clusters(300))
    component = zoo.closed_form.predict(zoo.init(data, seed=0), data, zoo.prior(data), zoo.spec)["component"]
    most = sum(np.bincount(component[klass::3]).max() for klass in range(3))
    assert most > 240
    assert len({np.bincount(component[klass::3]).argmax() for klass in range(3)}) == 3


@pytest.mark.parametrize("x", [np.zeros((1, 6)), np.zeros((5, 6)), np.eye(2, 6)])
def test_too_few_rows_start_at_random(x: np.ndarray) -> None:
    zoo = lz.get("mixture_vae", hidden=(4,), num_components=3)
    data = zoo.Data(x)
    assert np.isfinite(zoo.elbo(zoo.init(data, seed=0), data, zoo.prior(data)))
