"""Variational autoencoders in use: fits, files, predictions, the autoencoder beside them, and mistakes of a user."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.cli import main
from latentzoo.inference.autoencoder import fit_autoencoder
from latentzoo.inference.automatic import Pair, backend, pushed
from latentzoo.models.language.deep import OwnNetworks
from latentzoo.models.language.networks import Layer

ZOO = lz.get("vae", hidden=(5,), likelihood="gaussian")
BITS = lz.get("vae", hidden=(5,))

pytestmark = pytest.mark.filterwarnings("ignore:.* has not converged")


@pytest.fixture(scope="module")
def data() -> Any:
    return ZOO.simulate(seed=0, num_rows=60)[0]


@pytest.fixture(scope="module")
def fit(data: Any) -> Any:
    return lz.fit(ZOO, data, num_steps=150, progress=False)


def test_a_fit_says_what_it_knows_of_rows(fit: Any, data: Any) -> None:
    assert fit.objective == "ELBO"
    assert 0.0 < fit.elbo_error < 0.05 * abs(fit.elbo)
    found = fit.evaluate(num_draws=200)
    assert found["log_density"] > fit.elbo - 3.0 * fit.elbo_error  # L_K is above the ELBO
    assert found["num_rows"] == 60.0
    said = fit.predict()
    assert said["latent"].shape == said["latent_sd"].shape == (60, 2)
    residual = np.square(said["x"] - data.x).mean()
    assert residual < np.square(data.x - data.x.mean(0)).mean()


def test_a_fit_is_read_back(fit: Any, data: Any, tmp_path: Path) -> None:
    back = lz.load(fit.save(tmp_path / "fit.npz"), data=data)
    assert back.evaluate(num_draws=50) == fit.evaluate(num_draws=50)
    assert back.params.phi.encoder["out"].weight.shape == (5, 4)
    assert lz.verify(back, library="pyro").ok


@pytest.mark.parametrize("library", ["pyro", "numpyro"])
def test_both_libraries_climb_from_one_start(data: Any, library: Any) -> None:
    start = lz.deep.bound(ZOO, data, ZOO.prior(data), ZOO.init(data))[0]
    found = lz.fit(ZOO, data, library=library, num_steps=60, batch_rows=20, progress=False)
    assert found.elbo > start + 10.0


def test_the_full_guide_bounds_no_less_than_its_diagonal(data: Any) -> None:
    # A full matrix without entries beside the diagonal is the diagonal guide.
    full = lz.get("vae", hidden=(5,), likelihood="gaussian", posterior="full")
    params = ZOO.init(data, seed=3)
    out = params.phi.encoder["out"]
    weight, bias = np.zeros((5, 6)), np.zeros(6)
    weight[:, [0, 1, 2, 5]], bias[[0, 1, 2, 5]] = out.weight, out.bias
    same = params._replace(phi=full.Phi({**params.phi.encoder, "out": Layer(weight, bias)}))
    noise = ZOO.closed_form.noise(data, ZOO.spec, np.random.default_rng(0))
    rows = [
        zoo.closed_form.log_weights(each, data, zoo.prior(data), noise, zoo.spec)
        for zoo, each in ((ZOO, params), (full, same))
    ]
    np.testing.assert_allclose(*rows, rtol=1e-13)


def test_the_command_line_fits_and_verifies(tmp_path: Path, capsys: Any) -> None:
    assert main(["simulate", "vae", "--hidden", "5", "--num-rows", "40", "-o", str(tmp_path / "bits.csv")]) == 0
    words = ["fit", "vae", "--hidden", "5", "--data", str(tmp_path / "bits.csv"), "--num-steps", "100"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    said = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert said["objective"] == "ELBO"
    assert said["elbo"] < 0.0
    assert (tmp_path / "out" / "elbo.png").exists()
    capsys.readouterr()


# --- the autoencoder beside it ----------------------------------------------------------------------------------------


def test_the_autoencoder_reconstructs_better_and_is_the_same_again(data: Any) -> None:
    found, again = (fit_autoencoder(data.x, ZOO.spec, seed=1) for _ in range(2))
    assert found.loss == again.loss
    np.testing.assert_array_equal(found.encode(data.x), again.encode(data.x))
    spread = np.square(data.x - data.x.mean(0)).mean()
    assert np.square(found.reconstruct(data.x) - data.x).mean() < 0.5 * spread
    assert found.sample(7, seed=2).shape == (7, 6)
    linear = fit_autoencoder(data.x, lz.get("vae", hidden=(), likelihood="gaussian").spec, num_steps=3000)
    # A linear autoencoder spans the directions of the most variance (Baldi & Hornik, 1989).
    centred = data.x - data.x.mean(0)
    left = (np.linalg.svd(centred, compute_uv=False)[2:] ** 2).sum()
    assert np.square(linear.reconstruct(data.x) - data.x).sum() == pytest.approx(left, rel=1e-5)


def test_the_autoencoder_of_bits_gives_probabilities() -> None:
    bits, _ = BITS.simulate(seed=1, num_rows=50)
    probs = fit_autoencoder(bits.x, BITS.spec, num_steps=50).reconstruct(bits.x)
    assert ((probs > 0.0) & (probs < 1.0)).all()


def start(num_features: int) -> lz.Params:
    return ZOO.init(ZOO.Data(np.zeros((2, num_features))))


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: lz.fit(BITS, BITS.Data(np.full((3, 6), 2.0))), "data.x[0, 0] is 2: a Bernoulli value is from 0 to 1"),
        (lambda: lz.fit(BITS, BITS.Data(np.full((3, 6), -0.1))), "data.x[0, 0] is -0.1"),
        (lambda: lz.fit(ZOO, ZOO.Data([[0.0, np.nan]])), "data.x[0, 1] is nan: it must be finite"),
        (lambda: lz.fit(ZOO, ZOO.Data([0.0, 1.0])), "data.x has shape (2,)"),
        (lambda: lz.get("vae", hidden=(0,)), "hidden has a layer of 0"),
        (lambda: lz.get("vae", num_latents=0), "num_latents is 0"),
        (lambda: lz.get("vae", likelihood="poisson"), "no likelihood 'poisson'"),
        (
            lambda: lz.get("vae", network="convolutional").check(BITS.Data(np.zeros((2, 5)))),
            "data.x has 5 numbers a row: a convolution needs square images",
        ),
        (
            lambda: ZOO.check_params(start(3)._replace(phi=start(4).phi)),
            "params.phi.encoder.hidden0.weight has shape (4, 5): give (3, 5)",
        ),
        (
            lambda: ZOO.check_params(lz.Params(ZOO.Theta({}), start(3).phi)),
            "params.theta.decoder lacks the layer 'hidden0'",
        ),
        (
            lambda: ZOO.closed_form.predict(start(3), ZOO.Data(np.zeros((2, 4))), None, ZOO.spec),
            "data.x has 4 features: these parameters are of 3",
        ),
        (lambda: ZOO.prior(noise_scale=0.0), "prior.noise_scale is 0: it must be positive"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(mistake: Any, words: str) -> None:
    with pytest.raises(lz.UserError) as error:
        mistake()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# --- networks of one's own --------------------------------------------------------------------------------------------


def test_a_torch_module_takes_the_place_of_the_networks(data: Any) -> None:
    import pyro
    import torch

    encoder, decoder = torch.nn.Linear(6, 4).double(), torch.nn.Linear(2, 6).double()
    nets = OwnNetworks(lambda x: pyro.module("g", encoder)(x), lambda z: pyro.module("f", decoder)(z))
    zoo = lz.get("vae", likelihood="gaussian", networks=nets)
    rows, prior, params = zoo.Data(torch.tensor(data.x)), zoo.prior(), zoo.init(zoo.Data(data.x))
    svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.05}), zoo.loss.pyro())
    losses = [svi.step(rows, prior, params) for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])

    # The very same networks as ours, inserted, have our bound at our noise.
    ours = lz.get("vae", likelihood="gaussian", hidden=())
    layers = [Layer(net.weight.detach().numpy().T, net.bias.detach().numpy()) for net in (decoder, encoder)]
    same = lz.Params(ours.Theta({"out": layers[0]}), ours.Phi({"out": layers[1]}))
    noise = ours.closed_form.noise(data, ours.spec, np.random.default_rng(0))
    hand, _ = ours.closed_form.value_and_gradient(same, data, ours.prior(), noise, ours.spec)
    auto = backend("pyro")
    pair = Pair(zoo.model.pyro, zoo.guide.pyro, (zoo.Data(data.x), prior, params), {}, 1)
    assert auto.elbo(pair, {}, pushed(noise, auto.ppl)).item() == pytest.approx(hand, rel=1e-12)


def test_numpyros_modules_do_so_too(data: Any) -> None:
    import jax
    import numpyro
    from jax.example_libraries import stax
    from numpyro.infer import SVI

    nets = OwnNetworks(
        lambda x: numpyro.module("g", stax.Dense(4), (6,))(x), lambda z: numpyro.module("f", stax.Dense(6), (2,))(z)
    )
    zoo = lz.get("vae", likelihood="gaussian", networks=nets)
    args = zoo.Data(data.x), zoo.prior(), zoo.init(zoo.Data(data.x))
    svi = SVI(zoo.model.numpyro, zoo.guide.numpyro, numpyro.optim.Adam(0.05), zoo.loss.numpyro())
    found = svi.run(jax.random.PRNGKey(0), 80, *args, progress_bar=False)
    assert np.mean(found.losses[-10:]) < np.mean(found.losses[:10])


def test_what_is_by_hand_needs_our_networks(data: Any) -> None:
    zoo = lz.get("vae", likelihood="gaussian", networks=OwnNetworks(lambda x: x, lambda z: z))
    with pytest.raises(lz.UserError, match="networks of your own have no derivation by hand"):
        lz.fit(zoo, zoo.Data(data.x))
