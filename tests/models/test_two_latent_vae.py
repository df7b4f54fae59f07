"""The VAE with two latents in use: both libraries, hard data, mistakes, files, and a fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.closed_form import two_latent_vae as closed_form
from latentzoo.inference.loss_graph import dependencies
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.errors import Note, UserError


def entry(**spec: Any) -> Any:
    return lz.get("two_latent_vae", **{"hidden": (5,), **spec})


# --- both libraries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {"likelihood": "bernoulli", "hidden": (), "num_first": 3, "num_latents": 1},
        {"likelihood": "learned_gaussian", "hidden": (4, 3), "num_first": 1, "num_latents": 3},
    ],
    ids=lambda spec: spec["likelihood"],
)
def test_hand_is_automatic_with_latents_of_unequal_sizes(spec: dict[str, Any]) -> None:
    report = lz.verify("two_latent_vae", num_points=1, progress=False, **spec)
    assert report.ok, str(report)
    assert {row.library for row in report.rows} == {"pyro", "numpyro"}
    assert all(row.error <= 1e-12 * max(abs(row.automatic), 1.0) for row in report.rows if row.quantity == "elbo")


# --- hard data ------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
HARD: dict[str, tuple[str, np.ndarray]] = {
    "one row": ("gaussian", RNG.normal(size=(1, 3))),
    "one feature": ("learned_gaussian", RNG.normal(size=(8, 1))),
    "duplicate rows": ("gaussian", np.repeat(RNG.normal(size=(2, 3)), 5, 0)),
    "a constant table": ("gaussian", np.full((6, 3), 4.0)),
    "an offset of 1e9": ("gaussian", RNG.normal(size=(8, 3)) + 1e9),
    "a spread of 1e-9": ("learned_gaussian", 1e-9 * RNG.normal(size=(8, 3))),
    "all zeros and ones": ("bernoulli", np.repeat([[0.0], [1.0]], 3, 1)),
    "grey values": ("bernoulli", RNG.uniform(size=(8, 3))),
    "whole numbers": ("gaussian", np.arange(12).reshape(4, 3)),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_data_keep_every_number_finite(case: str) -> None:
    likelihood, x = HARD[case]
    zoo = entry(likelihood=likelihood)
    data = zoo.check(zoo.Data(x))
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    noise = closed_form.noise(data, zoo.spec, np.random.default_rng(0))
    value, gradient = closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in leaves(gradient).values())
    found = closed_form.predict(params, data, prior, zoo.spec)
    assert found["x"].shape == x.shape
    assert found["first"].shape == found["second_sd"].shape == (len(x), 2)
    assert all(np.isfinite(array).all() for array in found.values())


def test_sizes_are_those_of_the_spec() -> None:
    zoo = entry(num_first=3, num_latents=1)
    data, truth = zoo.simulate(seed=1, num_rows=7)
    assert {name: value.shape for name, value in truth.items()} == {"first": (7, 3), "second": (7, 1)}
    assert set(np.unique(data.x)) <= {0.0, 1.0}
    params = zoo.init(data)
    assert params.theta.decoder["hidden0"].weight.shape == (4, 5)
    assert params.phi.first_encoder["out"].bias.shape == (6,)
    assert params.phi.second_encoder["out"].bias.shape == (2,)
    assert lz.get("two_latent_vae", num_first=3, num_latents=1).init(data).theta.noise_log_scale is None


def test_a_start_needs_no_data() -> None:
    zoo = entry(likelihood="learned_gaussian")
    params = zoo.guide_room.init(zoo.Data(), zoo.prior(), zoo.spec, np.random.default_rng(0), point=True)
    assert params.theta.decoder["out"].bias.shape == (zoo.spec.example_features,)
    assert params.theta.noise_log_scale == np.log(0.5)


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"num_first": 0}, "num_first is 0: it must be from 1 to 1,000"),
        ({"num_first": 1001}, "num_first is 1001: it must be from 1 to 1,000"),
        ({"num_first": 1.5}, "num_first is 1.5: it must be a whole number"),
        ({"num_latents": 0}, "num_latents is 0: it must be from 1 to 1,000"),
        ({"hidden": (0,)}, "hidden has a layer of 0"),
        ({"num_second": 2}, "no option 'num_second'"),
        ({"posterior": "full"}, "no option 'posterior'"),
        ({"likelihood": "gauss"}, "did you mean 'gaussian'?"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        lz.get("two_latent_vae", **spec)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[0.0, 1.5]], r"data.x\[0, 1\] is 1.5: a Bernoulli value is from 0 to 1"),
        ([[0.0, 1.0], [-0.1, 1.0]], r"data.x\[1, 0\] is -0.1: a Bernoulli value is from 0 to 1"),
        ([[0.0, np.nan]], r"data.x\[0, 1\] is nan: it must be finite"),
        ([0.0, 1.0], r"data.x has shape \(2,\): give an array of shape \(rows, features\)"),
        (np.zeros((0, 3)), "data.x is empty"),
        (None, "data.x is missing"),
    ],
    ids=["above", "below", "NaN", "a vector", "no rows", "nothing"],
)
def test_wrong_data_are_named(x: Any, words: str) -> None:
    zoo = entry()
    with pytest.raises(UserError, match=words):
        zoo.check(zoo.Data(x))


def test_layers_of_other_sizes_are_named() -> None:
    zoo = entry(num_first=1, num_latents=2)
    data, _ = zoo.simulate(num_rows=4)
    params = zoo.init(data)
    swapped = zoo.Phi(params.phi.second_encoder, params.phi.first_encoder)
    with pytest.raises(UserError, match=r"params.phi.first_encoder.out.weight has shape \(5, 4\): give \(5, 2\)"):
        zoo.guide_room.check_params(params._replace(phi=swapped), zoo.spec)
    with pytest.raises(UserError, match=r"params.theta.decoder.hidden0.weight has shape \(3, 5\): give \(4, 5\)"):
        zoo.guide_room.check_params(params, entry(num_first=2, num_latents=2).spec)
    without = params._replace(theta=zoo.Theta({"hidden0": params.theta.decoder["hidden0"]}))
    with pytest.raises(UserError, match=r"params.theta.decoder lacks the layer 'out'"):
        zoo.guide_room.check_params(without, zoo.spec)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    zoo = entry(likelihood="gaussian")
    path = tmp_path / "rows.csv"
    path.write_text("name,b,a\nu,1.5,2\nv,3,NA\nw,-1,0.25\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.csv.*line 3"):
        zoo.read(path, columns=("a", "b"))
    with pytest.warns(Note, match="line 3"):
        data = zoo.read(path, columns=("a", "b"), on_bad="skip")
    np.testing.assert_array_equal(data.x, [[2.0, 1.5], [0.25, -1.0]])
    zoo.write(data, tmp_path / "again.csv")
    again = zoo.read(tmp_path / "again.csv", like=data)
    np.testing.assert_array_equal(again.x, data.x)
    assert zoo.model_room.options_like(data) == {"columns": ("a", "b")}


# --- a fit ----------------------------------------------------------------------------------------------------------


def test_training_raises_the_bound_and_a_fit_keeps_it(tmp_path: Path) -> None:
    zoo = entry(likelihood="learned_gaussian")
    data, _ = zoo.simulate(seed=3, num_rows=60)
    prior = zoo.prior(data)
    before, _ = lz.deep.bound(zoo, data, prior, zoo.init(data, prior))
    with pytest.warns(Note, match="not converged"):
        fit = lz.fit(zoo, data, num_steps=60, learning_rate=0.03, library="pyro", progress=False)
    assert fit.elbo > before + 20.0
    fit.save(tmp_path / "fit")
    again = lz.load(tmp_path / "fit")
    for name, leaf in leaves(fit.params).items():
        np.testing.assert_array_equal(leaves(again.params)[name], leaf)
    for name, array in fit.predict(data).items():
        np.testing.assert_array_equal(again.predict(data)[name], array)


# --- the graph of the loss ------------------------------------------------------------------------------------------


def test_the_graph_of_the_loss_is_that_of_the_programs() -> None:
    """Each latent comes from x by an encoder of its own, and only the density of x has both."""
    found = dependencies(entry(likelihood="learned_gaussian", num_first=1, num_latents=3))
    for site in ("first", "second"):
        assert found.guide[site] == {f"site/{site}", "data/x", f"params/phi.{site}_encoder"}
        assert found.model[site] == {f"site/{site}"}
    noise, decoder = "params/theta.noise_log_scale", "params/theta.decoder"
    assert found.model["x"] == {"data/x", "site/first", "site/second", decoder, noise}
    assert not found.discrete
    source = entry().loss_graph().source
    assert all(term in source for term in ("log p(x)", "log p(first)", "- log q(first)", "- log q(second)"))
