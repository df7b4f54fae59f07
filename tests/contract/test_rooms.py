"""Every model stands in every room under one name, and keeps the contract."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import latentzoo as lz
from latentzoo import options
from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError

ROOT = Path(__file__).parents[2]
EXACT_VERBS = {
    "e_step": ["params", "data", "prior", "spec"],
    "m_step": ["stats", "params", "prior", "spec"],
    "elbo": ["stats", "params", "prior", "spec"],
    "elbo_gradient": ["stats", "params", "prior", "spec"],
    "predict": ["params", "data", "prior", "spec"],
    "predict_at": ["draws", "params", "data", "prior", "spec"],
    "log_likelihood": ["latents", "params", "data", "prior", "spec"],
}
DEEP_VERBS = {
    "noise": ["data", "spec", "rng"],
    "value_and_gradient": ["params", "data", "prior", "noise", "spec"],
    "log_weights": ["params", "data", "prior", "noise", "spec"],
    "bounds": ["params", "data", "prior", "noise", "spec"],
    "predict": ["params", "data", "prior", "spec"],
}


def files(folder: str, prefix: str = "") -> set[str]:
    found = (ROOT / folder).glob(f"{prefix}*.py")
    return {file.stem.removeprefix(prefix) for file in found if not file.stem.startswith("_")}


def test_every_model_has_a_file_in_every_room():
    models = files("models")
    assert models == set(lz.names())
    assert files("guides") == models
    assert files("inference/closed_form") == models
    assert files("tests/models", "test_") >= models


@pytest.fixture(params=lz.names())
def zoo(request):
    return lz.get(request.param)


def test_a_spec_is_frozen_hashable_and_documented(zoo):
    assert hash(zoo.spec) == hash(dataclasses.replace(zoo.spec))
    with pytest.raises(dataclasses.FrozenInstanceError):
        zoo.spec.num_components = 5
    fields = [field.name for field in dataclasses.fields(zoo.spec)]
    told = options.descriptions(type(zoo.spec), fields)  # what the classes say that it extends, too
    assert [name for name in fields if not told.get(name)] == []


def test_programs_take_the_arguments_of_the_contract(zoo):
    model, guide = zoo.model_room.model, zoo.guide_room.guide
    assert list(inspect.signature(model).parameters) == ["ppl", "data", "prior", "theta", "spec"]
    assert list(inspect.signature(guide).parameters) == ["ppl", "data", "prior", "theta", "phi", "spec"]
    assert all(function.__doc__ and zoo.model_room.__doc__ for function in (model, guide))


def test_verbs_take_the_arguments_of_the_contract(zoo):
    updates = {"em", "map", "cavi"} & set(zoo.methods)
    for verb, arguments in (EXACT_VERBS if zoo.is_exact else DEEP_VERBS).items():
        if verb == "m_step" and not updates:
            continue
        assert list(inspect.signature(getattr(zoo.closed_form, verb)).parameters) == arguments, verb
    assert zoo.closed_form.METHODS
    assert zoo.closed_form.PROOF in ("expectation", "common noise")
    assert zoo.guide_room.LOSS in ("enumerated", "sampled")
    assert set(zoo.guide_room.LOCAL) <= set(zoo.Phi._fields)


def test_dimensions_are_those_of_sites(zoo):
    every = [dataclasses.replace(zoo, spec=spec) for spec in contract.variants(zoo.spec)]
    assert set(zoo.model_room.dims(zoo.spec)) <= {site for variant in every for site in variant.plates()}
    plate = zoo.exchangeable(zoo.prior())
    assert plate is None or any(plate in dims for dims in zoo.dims().values())
    data, truth = zoo.simulate(num_rows=4)
    for site, dims in zoo.dims().items():
        value = truth[site] if site in truth else getattr(data, site)
        assert np.ndim(value) == len(dims), site


def test_trees_hold_nothing_but_arrays_and_say_what_they_hold(zoo):
    for tree in (zoo.Data, zoo.Prior, zoo.Theta, zoo.Phi):
        hints = get_type_hints(tree)
        assert set(hints) == set(tree._fields)
        assert not {int, str, float} & set(hints.values())
        assert all(field in tree.__doc__ for field in tree._fields), tree


def test_no_program_branches_on_its_library(zoo):
    for room in (zoo.model_room, zoo.guide_room):
        source = inspect.getsource(room)
        assert "ppl.name" not in source
        assert not {"torch", "jax", "pyro", "numpyro"} & set(vars(room))


def test_stats_carry_the_bound_and_its_scale(zoo):
    data, _ = zoo.simulate(seed=1, num_rows=15)
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    if not zoo.is_exact:
        _check_one_draw(zoo, params, data, prior)
        return
    stats = zoo.closed_form.e_step(params, data, prior, zoo.spec)
    assert {"bound", "scale"} <= set(stats._fields)
    assert abs(stats.bound) <= stats.scale
    gradient = zoo.closed_form.elbo_gradient(stats, params, prior, zoo.spec)
    assert set(contract.leaves(gradient)) == set(contract.leaves(params))


def _check_one_draw(zoo, params, data, prior):
    """A deep model has a bound for each draw: of every row, and with a derivative by every parameter."""
    noise = zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(0))
    value, gradient = zoo.closed_form.value_and_gradient(params, data, prior, noise, zoo.spec)
    assert np.isfinite(value)
    assert {name: leaf.shape for name, leaf in contract.leaves(gradient).items()} == {
        name: leaf.shape for name, leaf in contract.leaves(params).items()
    }
    for rows in (zoo.closed_form.log_weights, zoo.closed_form.bounds):
        assert rows(params, data, prior, noise, zoo.spec).shape == (15,)


def test_simulation_is_the_model_and_reproducible(zoo):
    data, truth = zoo.simulate(seed=4, num_rows=12)
    again, again_truth = zoo.simulate(seed=4, num_rows=12)
    other, other_truth = zoo.simulate(seed=5, num_rows=12)
    if not zoo.has_rows:  # the latent variables are all that is drawn
        data, again, other = truth, again_truth, other_truth
    flat = contract.leaves(data)
    assert all((flat[name] == leaf).all() for name, leaf in contract.leaves(again).items())
    assert any((flat[name] != leaf).any() for name, leaf in contract.leaves(other).items())
    assert contract.num_rows(data) == 12 or not zoo.has_rows
    assert truth
    assert not set(truth) & set(zoo.Data._fields)


def test_what_is_written_is_read_back(zoo, tmp_path):
    if not zoo.has_rows:
        with pytest.raises(UserError, match="observes nothing"):
            zoo.read(tmp_path / "data.csv")
        return
    if zoo.reads_many_files:
        return  # a text is read as counts, whose rows are no longer in its order: the model's own tests compare those
    data, _ = zoo.simulate(seed=2, num_rows=9)
    path = tmp_path / "data.csv"
    zoo.write(data, path)
    back = zoo.read(path)
    for name, leaf in contract.leaves(data).items():
        assert (contract.leaves(back)[name] == leaf).all()


def test_parameters_come_back_from_either_store(zoo):
    data, _ = zoo.simulate(seed=3, num_rows=9)
    params = zoo.init(data, zoo.prior(data))
    flat = contract.leaves(params)
    back = contract.leaves(zoo.params(flat))
    assert set(back) == set(flat)
    assert all((back[name] == leaf).all() for name, leaf in flat.items())


def test_the_plate_diagram_comes_from_the_model(zoo):
    pytest.importorskip("graphviz")
    source = zoo.graph().source
    # A model that is told its rows as counts has no site for them in its diagram, but its parameters.
    observed = [site for site in zoo.plates() if site in zoo.Data._fields]
    assert all(site in source for site in observed or list(zoo.plates())[:2])


def test_the_graph_of_the_loss_comes_from_the_programs(zoo):
    source = zoo.loss_graph().source
    data, _ = zoo.simulate(num_rows=20)
    params = zoo.init(data)
    groups = {".".join(path.split(".")[:2]) for path in contract.leaves(params)}
    assert all(f'label="{group}"' in source for group in groups)
    # Every term leads to the loss, and what is drawn by the guide is pushed noise or summed out.
    terms = [line.split('"')[1] for line in source.splitlines() if '" [label="' in line and "log " in line]
    assert terms
    assert all(f'"{term}" -> "loss"' in source for term in terms)
    if not zoo.is_exact:
        drawn = {*zoo.closed_form.noise(data, zoo.spec, np.random.default_rng(0))}
        assert all(f'"noise/{site}" -> "site/{site}"' in source for site in drawn)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: lz.get("eathquakes"), "did you mean 'earthquakes'"),
        (lambda: lz.get("earthquakes", num_component=3), "did you mean 'num_components'"),
        (lambda: lz.get("earthquakes", num_components=0), "num_components is 0"),
        (lambda: lz.get("earthquakes", num_components=2.5), "num_components is 2.5"),
        (lambda: lz.get("earthquakes", noise="knwon"), "did you mean 'known'"),
        (lambda: lz.get("earthquakes").prior(noise=4.0), "did you mean 'noise_rate'"),
        (lambda: lz.get("earthquakes").prior(noise_variance=-4.0), "prior.noise_variance is -4"),
        (lambda: lz.get("earthquakes").prior(noise_variance=[1.0, 2.0]), "prior.noise_variance has shape (2,)"),
        (lambda: lz.get("earthquakes").prior(weights=[0.5, 0.5, 0.5]), "prior.weights[0] is 0.5"),
        (lambda: lz.get("earthquakes").prior(noise_shape=1.0), "prior.noise_shape has no place"),
        (lambda: lz.get("earthquakes").params({"loc": 1.0}), "no parameter of earthquakes"),
        (lambda: lz.get("earthquakes").simulate(num_rows=0), "num_rows"),
        (lambda: lz.get("earthquakes").simulate(library="pyor"), "did you mean 'pyro'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(mistake, words):
    with pytest.raises(UserError) as error:
        mistake()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_data_of_the_wrong_shape_name_the_field_and_the_row():
    zoo = lz.get("earthquakes")
    location = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    for data, words in [
        (zoo.Data(location, [1, 2]), "data.strength has shape (2,)"),
        (zoo.Data(location, [1, -2, 3]), "data.strength[1] is -2"),
        (zoo.Data(location, [1, 2.5, 3]), "data.strength[1] is 2.5"),
        (zoo.Data([[0.0, float("nan")], [1, 2], [3, 4]], [1, 2, 3]), "data.location[0, 1] is nan"),
        (zoo.Data([0.0, 1.0], [1, 2]), "data.location has shape (2,)"),
        (zoo.Data([], []), "data.location has shape (0,)"),
        (zoo.Data(location, ["a", "b", "c"]), "data.strength is not an array of numbers"),
        (zoo.Data(location, None), "data.strength is missing"),
        (location, "data is a list"),
    ]:
        with pytest.raises(UserError) as error:
            lz.fit(zoo, data)
        assert words in str(error.value)


def test_the_face_is_lazy():
    assert "latentzoo" in sys.modules
    assert {"fit", "get", "load", "names", "verify"} <= set(dir(lz))
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        lz.fti  # noqa: B018


def test_parameters_read_back_do_not_change_with_the_store(zoo):
    import pyro

    data, _ = zoo.simulate(seed=3, num_rows=9)
    params = zoo.init(data, zoo.prior(data))
    zoo.guide.pyro(data, zoo.prior(data), params)
    read = contract.leaves(zoo.params(pyro.get_param_store()))
    before = {name: leaf.copy() for name, leaf in read.items()}
    for leaf in pyro.get_param_store().values():
        leaf.data.add_(1.0)  # as an optimiser does, in place
    assert all((read[name] == leaf).all() for name, leaf in before.items())
