"""Estimators as users meet them: losses of either library's SVI, options of `fit`, and one line for each mistake."""

from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import estimators
from latentzoo.inference.automatic import Pair
from latentzoo.inference.estimators import Controlled, Relaxed, Score, StraightThrough
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.ppl import LIBRARIES, handle


@pytest.fixture(scope="module")
def pca() -> Any:
    zoo = lz.get("probabilistic_pca", num_latents=2)
    data, _ = zoo.simulate(seed=0, num_rows=12)
    return zoo, data, zoo.prior(data)


# --- in the user's own loop -------------------------------------------------------------------------------------------


def test_a_loss_in_a_loop_of_pyro() -> None:
    import pyro
    import pyro.distributions as dist
    import torch

    def model() -> None:
        pyro.sample("z", dist.Normal(1.0, 2.0))

    def guide() -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("z", dist.Normal(loc, scale))

    pyro.set_rng_seed(0)
    loss = estimators.loss("pyro", "path", num_particles=4)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss)
    for _ in range(600):
        svi.step()
    # At the posterior every draw has a path of zero: the optimiser comes to rest there, whatever its learning rate.
    assert pyro.param("loc").item() == pytest.approx(1.0, abs=1e-3)
    assert pyro.param("scale").item() == pytest.approx(2.0, abs=1e-3)
    assert svi.evaluate_loss() == pytest.approx(0.0, abs=1e-3)


def test_a_loss_in_a_loop_of_numpyro() -> None:
    import jax
    import numpyro
    import numpyro.distributions as dist
    import optax

    def model() -> None:
        numpyro.sample("z", dist.Normal(1.0, 2.0))

    def guide() -> None:
        loc = numpyro.param("loc", 0.0)
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("z", dist.Normal(loc, scale))

    loss = estimators.loss("numpyro", "path", num_particles=4)
    svi = numpyro.infer.SVI(model, guide, optax.adam(0.05), loss)
    found = svi.run(jax.random.PRNGKey(0), 600, progress_bar=False)
    assert float(found.params["loc"]) == pytest.approx(1.0, abs=1e-3)
    assert float(found.params["scale"]) == pytest.approx(2.0, abs=1e-3)


def test_a_running_baseline_in_a_loop_of_numpyro() -> None:
    import jax
    import numpyro
    import numpyro.distributions as dist
    import optax

    def model() -> None:
        numpyro.sample("z", dist.Bernoulli(logits=2.0))

    def guide() -> None:
        numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", 0.0)))

    loss = estimators.loss("numpyro", "score-running", num_particles=200)
    with pytest.raises(lz.UserError, match="remembering"):
        numpyro.infer.SVI(model, guide, optax.adam(0.1), loss).run(jax.random.PRNGKey(0), 1, progress_bar=False)
    svi = numpyro.infer.SVI(model, loss.remembering(guide), optax.adam(0.1), loss)
    found = svi.run(jax.random.PRNGKey(0), 200, progress_bar=False)
    assert float(found.params["logits"]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_loss_of_an_entry(library: str, pca: Any) -> None:
    zoo = pca[0]
    loss = getattr(zoo.loss, library)(estimator="iwae", num_particles=3)
    assert loss.num_particles == 3
    with pytest.raises(lz.UserError, match=r"estimator.*'iwaee'.*'iwae'"):
        getattr(zoo.loss, library)(estimator="iwaee")


# --- both libraries, at the same noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [Controlled(0.3), "iwae", "dreg", "rws", Score("leave-one-out")])
def test_both_libraries_agree_at_the_same_noise(estimator: Any, pca: Any) -> None:
    zoo, data, prior = pca
    params = zoo.closed_form.local_optimum(zoo.init(data, prior, seed=1), data, prior, zoo.spec)
    params = params._replace(phi=params.phi._replace(latent_mean=params.phi.latent_mean + 0.3))
    noise = {"latent": np.random.default_rng(0).normal(size=(2, 3, 12, 2))}
    found = []
    for library in LIBRARIES:
        pair = Pair(zoo.model.on(library), zoo.guide.on(library), (data, prior, params), {}, 1)
        options: dict[str, Any] = {"rows": ("rows",), "num_particles": 3, "num_draws": 2, "noise": noise}
        found.append(estimators.gradients(library, estimator, pair, leaves(params), **options))
    (values, gradient), (others, other) = found
    assert values == pytest.approx(others, rel=1e-10)
    for name in leaves(params):
        assert gradient[name] == pytest.approx(other[name], rel=1e-10, abs=1e-10)


# --- relaxed categories -----------------------------------------------------------------------------------------------

LOGITS = np.array([0.5, -0.2, 0.1])
VALUES = np.array([0.3, -1.0, 0.8])


def categories(library: str, kind: str = "OneHotCategorical") -> Pair:
    """One of three categories, by its number or as a vector; the model takes either as a vector."""
    ppl = handle(library)
    family, infer = getattr(ppl.dist, kind), {"enumerate": "parallel"} if kind == "Categorical" else {}

    def model() -> None:
        z = ppl.sample("z", family(logits=ppl.array(np.zeros(3))), infer=infer)
        ppl.factor("x", 2.0 * (ppl.nn.one_hot(z, 3) * ppl.array(VALUES)).sum(-1))

    def guide() -> None:
        ppl.sample("z", family(logits=ppl.param("logits", np.zeros(3))), infer=infer)

    return Pair(model, guide, (), {}, 0)


Q = np.exp(LOGITS) / np.exp(LOGITS).sum()
KL = Q @ np.log(3 * Q)
EXACT = Q * (2 * VALUES - np.log(3 * Q) - Q @ (2 * VALUES - np.log(3 * Q)))  # the gradient of 2 E values - KL


def drawn(library: str, estimator: Any, kind: str = "OneHotCategorical") -> tuple[np.ndarray, np.ndarray]:
    values, found = estimators.gradients(
        library, estimator, categories(library, kind), {"logits": LOGITS}, num_particles=20, num_draws=50
    )
    return values, found["logits"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_straight_through_values_estimate_the_bound(library: str) -> None:
    """Their KL divergence is exact; every value is one of the three."""
    values, _ = estimators.gradients(
        library, StraightThrough(0.5), categories(library), {"logits": LOGITS}, num_particles=1, num_draws=200
    )
    costs = (values + KL) / 2.0
    assert np.abs(costs[:, None] - VALUES).min(1).max() < 1e-12
    assert abs(costs.mean() - Q @ VALUES) < 5 * costs.std() / np.sqrt(200)


def test_relaxed_gradients_are_biased_by_their_temperature() -> None:
    cold, warm = (drawn("numpyro", Relaxed(temperature))[1] for temperature in (0.3, 3.0))
    assert np.abs(cold.mean(0) - EXACT).max() < np.abs(warm.mean(0) - EXACT).max()
    assert warm.std(0).max() < cold.std(0).max()


@pytest.mark.parametrize("library", LIBRARIES)
def test_numbers_of_categories_are_relaxed_to_the_same_vectors(library: str) -> None:
    """One program serves enumeration and relaxation: `ppl.nn.one_hot` leaves a relaxed value as it is."""
    values, gradient = drawn(library, Relaxed(0.5), "Categorical")
    others, other = drawn(library, Relaxed(0.5), "OneHotCategorical")
    assert values == pytest.approx(others, rel=1e-12)
    assert gradient == pytest.approx(other, rel=1e-10, abs=1e-12)
    exact, by_enumeration = drawn(library, "enumerated", "Categorical")
    assert exact == pytest.approx(2 * Q @ VALUES - KL, rel=1e-10)
    assert by_enumeration[0] == pytest.approx(EXACT, abs=1e-10)


def test_one_hot_categoricals_of_numpyro_have_the_densities_of_pyro() -> None:
    import torch

    corners = np.eye(3)
    ours = handle("numpyro").dist.OneHotCategorical(logits=LOGITS.astype(np.float32))
    theirs = handle("pyro").dist.OneHotCategorical(logits=torch.from_numpy(LOGITS))
    assert np.asarray(ours.log_prob(corners)) == pytest.approx(theirs.log_prob(torch.eye(3)).numpy(), rel=1e-6)


# --- fit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_fit_goes_on_to_the_bit_with_what_an_estimator_remembers(library: Any, pca: Any) -> None:
    zoo, data, _ = pca
    options: dict[str, Any] = {
        "method": "svi",
        "library": library,
        "estimator": "score-running",
        "progress": False,
        "schedule": "constant",
        "num_particles": 2,
    }

    def unconverged(**more: Any) -> Any:
        with pytest.warns(lz.Note, match="not converged"):
            return lz.fit(zoo, data, **options, **more)

    whole, half = unconverged(num_steps=100), unconverged(num_steps=50)
    rest = unconverged(num_steps=50, init=half)
    assert rest.params.theta.weight.tobytes() == whole.params.theta.weight.tobytes()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", ["path", "score-leave-one-out"])
def test_fit_with_discrete_sites_summed_out(library: Any, estimator: str) -> None:
    """The discrete sites are enumerated, the continuous ones estimated."""
    zoo = lz.get("earthquakes", num_components=2)
    data, _ = zoo.simulate(seed=1, num_rows=20)
    with pytest.warns(lz.Note, match="not converged"):
        fit = lz.fit(
            zoo,
            data,
            method="svi",
            library=library,
            estimator=estimator,
            num_particles=2,
            num_steps=100,
            learning_rate=0.02,
            progress=False,
        )
    start = zoo.elbo(zoo.init(data, seed=0, method="svi"), zoo.check(data), zoo.prior(data))
    assert fit.elbo > start


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"estimator": "pth"}, "'pth'.*'path'"),
        ({"estimator": "controlled", "num_particles": 0}, "num_particles is 0"),
        ({"estimator": "score-leave-one-out"}, "num_particles is 1: a leave-one-out baseline needs at least 2"),
        ({"estimator": "iwae"}, "enumerated"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], line: str) -> None:
    zoo = lz.get("earthquakes", num_components=2)
    data, _ = zoo.simulate(seed=1, num_rows=20)
    with pytest.raises(lz.UserError, match=line) as caught:
        lz.fit(zoo, data, method="svi", library="pyro", progress=False, num_steps=1, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Score("mean"), "baseline"),  # type: ignore[arg-type]
        (lambda: Score("running", decay=1.0), "decay is 1.0: it must be below 1"),
        (lambda: Controlled(num_separate=1), "num_separate is 1"),
        (lambda: Relaxed(0.0), "temperature is 0.0"),
    ],
)
def test_options_are_checked(make: Any, line: str) -> None:
    with pytest.raises(lz.UserError, match=line):
        make()


def test_a_path_needs_differentiable_draws() -> None:
    for name, line in (("path", "the draws of z are not differentiable"), ("dreg", "z are not differentiable")):
        with pytest.raises(lz.UserError, match=line):
            estimators.gradients("pyro", name, categories("pyro"), {"logits": LOGITS}, num_draws=1)


def test_weights_of_a_minibatch_need_rows_of_their_own() -> None:
    ppl = handle("pyro")

    def model() -> None:
        mean = ppl.sample("mean", ppl.dist.Normal(ppl.array(np.array(0.0)), 1.0))
        with ppl.scale(scale=3.0), ppl.plate("rows", 2):
            ppl.sample("x", ppl.dist.Normal(mean, 1.0), obs=ppl.array(np.ones(2)))

    def guide() -> None:
        ppl.sample("mean", ppl.dist.Normal(ppl.param("m", np.array(0.0)), 1.0))

    with pytest.raises(lz.UserError, match="all rows share a latent variable"):
        estimators.gradients(
            "pyro", "iwae", Pair(model, guide, (), {}, 1), {"m": np.array(0.0)}, rows=("rows",), num_draws=1
        )
