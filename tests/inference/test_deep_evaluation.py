"""What `evaluate` says of deep models: L_K however the rows are split, in which precision, and how far to trust it."""

from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import deep

SPECS: dict[str, dict[str, Any]] = {
    "vae": {"posterior": "full"},
    "two_latent_vae": {},
    "mixture_vae": {"assignment": "amortised"},
    "semisupervised_vae": {"num_classes": 3},
    "discrete_vae": {},
}


def made(name: str, num_rows: int = 12, size: int = 9, dtype: Any = np.float64) -> tuple[Any, Any, Any, Any]:
    """A model at random parameters whose encoder is no prior, and some rows."""
    zoo, rng = lz.get(name, hidden=(5,), **SPECS[name]), np.random.default_rng(0)
    x = (rng.random((num_rows, size)) < 0.4).astype(dtype)
    data = zoo.Data(x=x, label=rng.integers(-1, 3, num_rows)) if name == "semisupervised_vae" else zoo.Data(x=x)
    prior = zoo.prior(data)
    params = zoo.init(data, prior, 0)
    return zoo, data, prior, lz.Params(*(_moved(tree, rng) for tree in params))


def _moved(tree: Any, rng: np.random.Generator) -> Any:
    from latentzoo.models.language.contract import map_leaves

    return map_leaves(lambda _, leaf: leaf + 0.3 * rng.normal(size=np.shape(leaf)), tree)


@pytest.mark.parametrize("name", SPECS)
def test_the_blocks_of_draws_and_rows_are_no_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, data, prior, params = made(name)
    whole = deep.evidence(zoo, data, params, prior=prior, num_particles=40, seed=3)
    bound = deep.bound(zoo, data, prior, params, seed=3)
    for block in (1, 200, 2000):  # one draw of one row; some draws of one row; some rows
        monkeypatch.setattr(deep, "BLOCK_NUMBERS", block)
        parts = deep.evidence(zoo, data, params, prior=prior, num_particles=40, seed=3)
        np.testing.assert_allclose(parts.rows, whole.rows, rtol=1e-12)
        np.testing.assert_allclose(parts.ess, whole.ess, rtol=1e-9)
        assert parts.error == pytest.approx(whole.error, rel=1e-9, abs=1e-12)
        assert deep.bound(zoo, data, prior, params, seed=3) == pytest.approx(bound, rel=1e-11)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "discrete_vae"])
def test_draws_side_by_side_are_draws_one_by_one(name: str) -> None:
    zoo, data, prior, params = made(name)
    noise = [zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(seed)) for seed in range(4)]
    together = {key: np.stack([each[key] for each in noise]) for key in noise[0]}
    for function in (zoo.closed_form.log_weights, zoo.closed_form.bounds):
        alone = [function(params, data, prior, each, zoo.spec) for each in noise]
        np.testing.assert_allclose(function(params, data, prior, together, zoo.spec), alone, rtol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_single_precision_is_far_within_the_standard_error(name: str) -> None:
    zoo, data, prior, params = made(name, num_rows=30, size=784)
    double = deep.evidence(zoo, data, params, prior=prior, num_particles=200)
    single = deep.evidence(zoo, data._replace(x=data.x.astype(np.float32)), params, prior=prior, num_particles=200)
    assert single.rows.dtype == np.float64
    # 784 terms of a nat or so, each rounded to 1e-7 of itself.
    np.testing.assert_allclose(single.rows, double.rows, rtol=0, atol=1e-2)
    if name != "discrete_vae":
        assert abs(single.log_evidence - double.log_evidence) < 0.05 * double.error
        assert single.error == pytest.approx(double.error, rel=1e-2)
        assert not np.array_equal(single.rows, double.rows)  # it was computed in single precision


def test_the_numbers_say_how_many_rows_and_draws_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, data, prior, params = made("vae", num_rows=50)
    monkeypatch.setattr(deep, "FEWEST_ROWS", 5)
    monkeypatch.setattr(deep, "MOST_ROWS", 20)
    found = deep.evaluate(zoo, data, prior, params, None, seed=0)
    assert found["num_rows"] == 20.0
    assert found["num_rows_left_out"] == 30.0
    assert found["num_particles"] == 1000.0
    assert found["log_density_per_row"] == pytest.approx(found["log_density"] / 20.0)
    assert found["elbo"] < found["log_density"] + 3.0 * found["elbo_error"]
    assert 1.0 <= found["ess_per_row"] <= 1000.0
    assert 0.0 <= found["bad_khat"] <= 1.0
    assert found == deep.evaluate(zoo, data, prior, params, None, seed=0)
    assert found != deep.evaluate(zoo, data, prior, params, None, seed=1)
    monkeypatch.setattr(deep, "WORK", 8 * 1000 * 9)  # of rows of nine numbers
    assert deep.evaluate(zoo, data, prior, params, None, seed=0)["num_rows"] == 8.0
    every = deep.evaluate(zoo, data, prior, params, 30, seed=0)
    assert "num_rows_left_out" not in every
    assert every["log_density"] == deep.evidence(zoo, data, params, prior=prior, num_particles=30).log_evidence
    assert "bad_khat" not in deep.evaluate(zoo, data, prior, params, 10, seed=0)


def test_where_nothing_is_drawn_the_numbers_are_exact() -> None:
    zoo, data, prior, params = made("discrete_vae")
    found = deep.evaluate(zoo, data, prior, params, None, seed=0)
    assert found["log_density_error"] == found["elbo_error"] == 0.0
    assert found["log_density"] == pytest.approx(
        zoo.closed_form.log_predictive(params, data, prior, zoo.spec).sum(), rel=1e-13
    )
    assert "num_particles" not in found


def test_baselines_stand_beside_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=80)
    x = (rng.random((80, 6)) < np.where(label == 1, 0.9, 0.1)[:, None]).astype(float)
    zoo = lz.get("semisupervised_vae", hidden=(4,))
    few, test = zoo.Data(x=x[:60], label=np.where(np.arange(60) < 20, label[:60], -1)), zoo.Data(x[60:], label[60:])
    params = zoo.init(few, zoo.prior(few), 0)
    found = zoo.closed_form.baselines(params, few, test, None, zoo.spec)
    assert set(found) == {"labelled_only_accuracy", "classification_rbm_accuracy", "pseudo_labels_accuracy"}
    assert min(found.values()) > 0.9
    none = zoo.Data(x[60:], np.full(20, -1))
    assert zoo.closed_form.baselines(params, few, none, None, zoo.spec) == {}
    assert zoo.closed_form.baselines(params, none, test, None, zoo.spec) == {}
