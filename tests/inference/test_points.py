"""Parameters that are held at points, beside those with a posterior: what every model with both may rely on."""

import warnings
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from jaxtyping import Float, UInt8

import latentzoo as lz
from latentzoo.inference.run import Step, drive
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params, missing, optional, shared
from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.language.ppl import LIBRARIES
from latentzoo.models.language.words import pack, unpack


@pytest.fixture(scope="module")
def mixture():
    """Return an entry that has both, and overlapping clusters."""
    rng = np.random.default_rng(8)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 4.0]])
    zoo = lz.get("gaussian_mixture", num_components=3)
    return zoo, zoo.Data(np.concatenate([centre + rng.normal(size=(40, 2)) for centre in centres]))


def test_every_method_starts_at_the_same_place(mixture):
    zoo, data = mixture
    prior = zoo.prior(data)
    for seed in (0, 5):
        centres = [zoo.init(data, prior, seed, method).theta.loc for method in ("em", "map")]
        centres += [zoo.init(data, prior, seed, method).phi.loc_mean for method in ("cavi", "svi", "nuts")]
        assert all((each == centres[0]).all() for each in centres)
    with pytest.raises(UserError, match="did you mean 'cavi'"):
        zoo.init(data, prior, method="cav")


def test_em_leaves_priors_out_and_map_keeps_them(mixture):
    zoo, data = mixture
    prior = zoo.prior(data)
    em, penalised = (lz.fit(zoo, data, method, prior=prior, progress=False) for method in ("em", "map"))
    assert all(leaf is None for leaf in em.prior)
    assert all(leaf is not None for leaf in penalised.prior)
    assert em.objective == "log likelihood"
    assert penalised.objective == "penalised log likelihood"
    assert lz.fit(zoo, data, "cavi", prior=prior, progress=False).objective == "ELBO"
    assert em.evaluate()["log_density"] >= penalised.evaluate()["log_density"]
    for wrong, words in [
        (prior._replace(loc_mean=None), "prior.loc_mean is missing"),
        (zoo.without_priors(prior)._replace(loc_mean=np.zeros(2)), "prior.weights_concentration is missing"),
    ]:
        with pytest.raises(UserError, match=words):
            lz.fit(zoo, data, "map", prior=wrong, progress=False)


def test_a_start_of_the_other_kind_is_refused(mixture):
    zoo, data = mixture
    em = lz.fit(zoo, data, "em", progress=False)
    with pytest.raises(UserError, match="params"):
        lz.fit(zoo, data, "cavi", init=em, progress=False)
    again = lz.fit(zoo, data, "em", init=em, progress=False)
    assert again.num_steps <= 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_points_are_what_the_program_makes_of_theta(mixture, library):
    zoo, data = mixture
    for method in ("em", "map"):
        fit = lz.fit(zoo, data, method, progress=False)
        held = zoo.points(data, fit.prior, fit.params, library)
        np.testing.assert_allclose(held["loc"], fit.params.theta.loc)
        rows = fit.log_likelihood(data, held)
        assert rows.sum() == pytest.approx(fit.evaluate()["log_density"], abs=1e-8)
    assert zoo.points(data, zoo.prior(data), zoo.init(data, method="cavi")) == {}


def test_a_run_stops_where_the_validation_data_are_best(mixture):
    zoo, data = mixture
    crowded = lz.get("gaussian_mixture", num_components=9)
    train, valid = (contract.take_rows(data, rows) for rows in (slice(0, None, 3), slice(1, None, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        whole = lz.fit(crowded, train, "em", keep_history=True, num_steps=300, progress=False)
        stopped = lz.fit(crowded, train, "em", validation=valid, num_restarts=3, num_steps=300, progress=False)
        first = lz.fit(crowded, train, "em", validation=valid, num_steps=300, progress=False)
    spec = crowded.spec
    scores = [crowded.closed_form.log_predictive(p, valid, whole.prior, spec).sum() for p in whole.history]
    best = int(np.argmax(scores[: first.num_steps]))
    assert first.num_steps < whole.num_steps
    assert f"highest at step {best + 1}" in first.reason
    assert first.num_steps == best + 1 + 5
    assert first.restarts[0].validation == pytest.approx(scores[best])
    assert all((a == b).all() for a, b in zip(first.params.theta, whole.history[best].theta, strict=True))
    assert first.elbo == whole.elbo_trace[best]
    chosen = [run.params is stopped.params for run in stopped.restarts].index(True)
    assert chosen == int(np.argmax([run.validation for run in stopped.restarts]))
    with pytest.raises(UserError, match="validation= is for EM and CAVI"):
        lz.fit(zoo, data, "svi", validation=valid, progress=False)


def test_the_loop_keeps_the_best_score():
    scores = {1: 0.0, 2: 3.0, 3: 2.0, 4: float("nan"), 5: 9.0}
    steps = [Step(number, Params(theta=number), number, float(number)) for number in scores]
    run = drive(iter(steps), num_steps=9, score=lambda params: scores[params.theta], patience=2)
    assert run.params.theta == 2
    assert (run.elbo, run.score, run.converged) == (2.0, 3.0, True)
    assert len(run.trace.step) == 4
    patient = drive(iter(steps), num_steps=9, score=lambda params: scores[params.theta], patience=3)
    assert patient.params.theta == 5
    plain = drive(iter(steps), num_steps=3)
    assert plain.params.theta == 3
    assert np.isnan(plain.score)


def test_a_family_that_numpyro_cannot_reparametrise_is_proved_too():
    """Of NumPyro's own Wishart, which its enumerating ELBO would draw anew, without a key."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from scipy.special import multigammaln, polygamma, psi

    scale = np.linalg.cholesky([[0.5, 0.1], [0.1, 0.4]])

    def model(data):
        precision = numpyro.sample("precision", dist.Wishart(4.0, scale_tril=jnp.array(scale)))
        with numpyro.plate("rows", len(data)):
            numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=precision), obs=data)

    def guide(data):
        df = numpyro.param("df", 6.0)
        numpyro.sample("precision", dist.Wishart(df, scale_tril=jnp.array(scale)))

    x = np.array([[1.0, 0.3], [-0.4, 2.0], [0.2, 0.1]])
    matrix = scale @ scale.T

    def elbo(params, data):
        df, num = float(params["df"]), len(data)
        log_det = psi(df / 2.0) + psi((df - 1.0) / 2.0) + 2.0 * np.log(2.0) + np.linalg.slogdet(matrix)[1]
        likelihood = 0.5 * (num * log_det - df * np.trace(data @ matrix @ data.T)) - num * np.log(2.0 * np.pi)
        ratio = 0.5 * (4.0 - df) * (log_det - 2.0 * np.log(2.0) - np.linalg.slogdet(matrix)[1])
        return likelihood + ratio + multigammaln(df / 2.0, 2) - multigammaln(2.0, 2)

    def gradient(params, data):
        df, num = float(params["df"]), len(data)
        slope = 0.5 * (polygamma(1, df / 2.0) + polygamma(1, (df - 1.0) / 2.0))
        return {"df": 0.5 * (num + 4.0 - df) * slope - 0.5 * np.trace(data @ matrix @ data.T)}

    options = {"library": "numpyro", "model": model, "guide": guide, "params": {"df": 6.5}, "data": x}
    report = lz.verify(elbo=elbo, gradient=gradient, **options)
    assert report.ok, str(report)
    assert {row.way for row in report.rows} == {"conjugate probe (precision)"}
    wrong = lz.verify(elbo=elbo, gradient=lambda p, d: {"df": gradient(p, d)["df"] + 1e-6}, **options)
    assert not wrong.ok


class Rows(NamedTuple):
    x: Annotated[Float[Any, "rows 2"], missing] = None
    names: Annotated[UInt8[Any, "characters"], optional, shared] = None


def test_what_all_rows_share_is_no_row():
    words = ("left side", "Ümlaut")
    data = contract.check(Rows([[1.0, float("nan")], [2.0, 3.0]], pack(words)), None, "data")
    assert contract.num_rows(data) == 2
    part = contract.take_rows(data, slice(1, None))
    assert part.x.tolist() == [[2.0, 3.0]]
    assert unpack(part.names) == words
    empty = contract.without_rows(data)
    assert empty.x is None
    assert contract.num_rows(empty) is None
    assert unpack(empty.names) == words
    assert unpack(pack(())) == ()


def test_a_missing_cell_may_be_nan_and_not_infinite():
    with pytest.raises(UserError, match=r"data.x\[0, 1\] is inf: it must be finite, or NaN where it is missing"):
        contract.check(Rows([[1.0, float("inf")]]), None, "data")
