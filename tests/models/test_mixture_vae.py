"""The autoencoder with a mixture for its prior, in use: mistakes, files, both libraries."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest

import latentzoo as lz
from latentzoo.guides.mixture_vae import start_components
from latentzoo.inference.automatic import Pair, backend, pushed
from latentzoo.inference.closed_form import mixture_vae as closed_form
from latentzoo.models.language.contract import leaves
from latentzoo.models.readers.table import names_of

ASSIGNMENTS = ["exact", "amortised"]
RNG = np.random.default_rng(0)
BITS = (RNG.random((12, 5)) < 0.4).astype(float)


def entry(**options: Any) -> Any:
    return lz.get("mixture_vae", **{"hidden": (5,), **options})


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_components": 0}, "num_components is 0: it must be from 1 to 1,000"),
        ({"num_components": 1001}, "num_components is 1001"),
        ({"num_components": 2.0}, "num_components is 2.0: it must be a whole number"),
        ({"num_latents": 0}, "num_latents is 0"),
        ({"hidden": (0,)}, "hidden has a layer of 0"),
        ({"assignment": "amortized"}, "'amortised'"),
        ({"likelihood": "normal"}, "likelihood"),
        ({"posterior": "full"}, "posterior"),
    ],
)
def test_mistakes_in_the_options_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(lz.UserError) as error:
        lz.get("mixture_vae", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def cell(value: float) -> np.ndarray:
    x = BITS.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (cell(1.5), "data.x[3, 1] is 1.5: a Bernoulli value is from 0 to 1"),
        (cell(-0.1), "data.x[3, 1] is -0.1"),
        (cell(np.nan), "data.x[3, 1] is nan: it must be finite"),
        (BITS[0], "data.x has shape (5,): give an array of shape (rows, features)"),
        (BITS[:0], "data.x is empty"),
    ],
)
def test_mistakes_in_the_data_are_one_line(x: np.ndarray, words: str) -> None:
    zoo = entry()
    with pytest.raises(lz.UserError) as error:
        zoo.check(zoo.Data(x))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gaussian_takes_any_finite_number() -> None:
    zoo = entry(likelihood="gaussian")
    assert zoo.check(zoo.Data(cell(-17.5))).x[3, 1] == -17.5


def test_mistakes_in_the_parameters_name_the_array() -> None:
    zoo, other = entry(), entry(assignment="amortised")
    data = zoo.Data(BITS)
    params = zoo.init(data)
    theta = params.theta
    with pytest.raises(lz.UserError, match=r"encoder\.out\.weight has shape \(5, 4\): give \(5, 7\)"):
        other.check_params(params)
    with pytest.raises(lz.UserError, match=r"theta\.loc has shape \(2, 3\).*num_components, num_latents"):
        zoo.check_params(params._replace(theta=theta._replace(loc=theta.loc.T)))
    with pytest.raises(lz.UserError, match=r"theta\.weights_logits\[1\] is inf"):
        zoo.check_params(params._replace(theta=theta._replace(weights_logits=np.array([0.0, np.inf, 0.0]))))
    with pytest.raises(lz.UserError, match="noise_scale"):
        zoo.prior(data, noise_scale=0.0)


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "learned_gaussian"])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize(("num_latents", "num_components"), [(1, 1), (1, 7), (4, 3)])
def test_a_start_is_finite_and_that_of_its_seed(
    likelihood: str, assignment: str, num_latents: int, num_components: int
) -> None:
    zoo = entry(
        num_latents=num_latents, num_components=num_components, assignment=assignment, likelihood=likelihood, hidden=()
    )
    data = zoo.Data(BITS)
    one, again, other = (leaves(zoo.check_params(zoo.init(data, seed=seed))) for seed in (3, 3, 4))
    assert all(np.isfinite(leaf).all() for leaf in one.values())
    assert all(np.array_equal(leaf, again[name]) for name, leaf in one.items())
    assert not np.array_equal(one["theta.decoder.out.weight"], other["theta.decoder.out.weight"])
    assert ("theta.noise_log_scale" in one) == (likelihood == "learned_gaussian")


def test_components_start_apart_and_one_alone_is_a_standard_normal() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, loc, log_scale = start_components(entry(num_components=5).spec, rng)
        gaps = np.linalg.norm(loc[:, None] - loc, axis=-1)[np.triu_indices(5, 1)]
        assert gaps.min() > 0.5 * np.exp(log_scale).max()
        np.testing.assert_allclose(loc.mean(0), 0.0, atol=1e-15)
        weights, loc, log_scale = start_components(entry(num_components=1).spec, rng)
        assert (weights.tolist(), loc.tolist(), log_scale.tolist()) == ([0.0], [[0.0, 0.0]], [[0.0, 0.0]])


# --- both libraries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pyro", "numpyro"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "learned_gaussian"])
def test_simulation(library: Any, likelihood: str) -> None:
    zoo = entry(num_latents=3, num_components=4, likelihood=likelihood)
    params = zoo.init(zoo.Data(BITS[:, :2]), seed=1)
    theta = params.theta._replace(loc=np.arange(4.0)[:, None] * np.ones(3) * 100.0)
    data, truth = zoo.simulate(seed=1, num_rows=60, params=params._replace(theta=theta), library=library)
    assert data.x.shape == (60, 2)
    assert set(np.unique(data.x)) <= {0.0, 1.0} or likelihood != "bernoulli"
    shapes = {"weights": (4,), "loc": (4, 3), "scale": (4, 3), "component": (60,), "latent": (60, 3)}
    assert {site: np.shape(truth[site]) for site in shapes} == shapes
    assert truth["weights"].sum() == pytest.approx(1.0)
    # A row lies where its component is.
    np.testing.assert_array_equal(np.rint(truth["latent"].mean(1) / 100.0), truth["component"])
    assert set(truth["component"]) == {0, 1, 2, 3}


def test_the_sites_say_what_their_dimensions_are() -> None:
    zoo = entry()
    assert zoo.dims() == {
        "weights": ("components",),
        "loc": ("components", "latents"),
        "scale": ("components", "latents"),
        "component": ("rows",),
        "latent": ("rows", "latents"),
        "x": ("rows", "features"),
    }
    assert zoo.exchangeable(zoo.prior()) == "components"
    data = zoo.Data(BITS)
    params = zoo.init(data)
    points = zoo.points(data, zoo.prior(data), params)
    np.testing.assert_allclose(points["scale"], np.exp(params.theta.log_scale), rtol=1e-6)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_one_component_alone_is_a_mixture_like_any_other(assignment: str) -> None:
    report = lz.verify(
        "mixture_vae", library="pyro", num_components=1, assignment=assignment, hidden=(), num_points=1, progress=False
    )
    assert report.ok, str(report)
    assert len(report.rows) > 20


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_particles_of_pyro_in_parallel(assignment: str) -> None:
    """The mean of many is the bound, to its Monte Carlo error: dimensions on the left do no harm."""
    zoo = entry(assignment=assignment)
    data = zoo.Data(BITS)
    prior, params = zoo.prior(data), zoo.init(data)
    pyro.set_rng_seed(0)
    loss = zoo.loss.pyro(num_particles=2000, vectorize_particles=True)
    found = -loss.loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params)
    rng = np.random.default_rng(0)
    draws = [
        closed_form.value_and_gradient(params, data, prior, closed_form.noise(data, zoo.spec, rng), zoo.spec)[0]
        for _ in range(2000)
    ]
    assert found == pytest.approx(np.mean(draws), abs=5.0 * np.std(draws) * np.sqrt(2.0 / 2000))


def test_a_svi_loop_of_the_user_in_pyro() -> None:
    """Two kinds of rows, as different as can be: the bound rises, and the components tell the kinds apart."""
    zoo = entry(num_latents=1, num_components=2, likelihood="gaussian")
    kinds = np.repeat([0, 1], 20)
    x = np.where(kinds[:, None] == 0, -1.0, 1.0) + 0.1 * RNG.normal(size=(40, 4))
    data = zoo.Data(x)
    prior, params = zoo.prior(data), zoo.init(data)
    svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.05}), zoo.loss.pyro())
    for _ in range(100):
        svi.step(data, prior, params)
    found = zoo.params(pyro.get_param_store())
    noise = closed_form.noise(data, zoo.spec, np.random.default_rng(0))
    before, after = (closed_form.bounds(each, data, prior, noise, zoo.spec).sum() for each in (params, found))
    assert after > before + 10.0
    predicted = closed_form.predict(found, data, prior, zoo.spec)
    assert predicted["component"].tolist() in (kinds.tolist(), (1 - kinds).tolist())
    np.testing.assert_allclose(predicted["responsibilities"].sum(1), 1.0)
    shapes = {"responsibilities": (40, 2), "component": (40,), "latent": (40, 1), "latent_sd": (40, 1), "x": (40, 4)}
    assert {name: leaf.shape for name, leaf in predicted.items()} == shapes
    assert np.abs(predicted["x"] - x).mean() < 0.3


def test_grey_values_have_the_same_number_by_hand() -> None:
    """The bound is then of no likelihood, but the three numbers stay one."""
    zoo = entry()
    data = zoo.Data(RNG.random((6, 4)))
    prior, params = zoo.prior(data), zoo.init(data)
    noise = closed_form.noise(data, zoo.spec, RNG)
    auto = backend("pyro")
    pair = Pair(zoo.model.pyro, zoo.guide.pyro, (data, prior, params), {}, 1)
    with auto.precision():
        values, _ = auto.elbos(pair, pushed)(leaves(params), [noise], np.ones(1))
    assert values[0] == pytest.approx(
        closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)[0], rel=1e-12
    )


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_keep_numbers_and_names(tmp_path: Path) -> None:
    zoo = entry()
    path = tmp_path / "rows.csv"
    path.write_text("name,a,b\nx,1,0\ny,0,0.25\n", encoding="utf-8")
    data = zoo.read(path)
    np.testing.assert_array_equal(data.x, [[1, 0], [0, 0.25]])
    assert names_of(data) == ("a", "b")
    zoo.write(data, tmp_path / "again.csv")
    again = zoo.read(tmp_path / "again.csv", like=data)
    np.testing.assert_array_equal(again.x, data.x)
    path.write_text("b,c,a\n1,0,1\n", encoding="utf-8")
    np.testing.assert_array_equal(zoo.read(path, like=data).x, [[1, 1]])
    path.write_text("a,b\n1,0\n1,\n", encoding="utf-8")
    with pytest.raises(lz.UserError, match="line 3"):
        zoo.read(path)
    with pytest.warns(lz.Note, match="1"):
        assert len(zoo.read(path, on_bad="skip").x) == 1
