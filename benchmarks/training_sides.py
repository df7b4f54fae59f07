"""The sides of the comparisons of training: the same model, the same sizes, the same optimiser, minibatches alike.

An iteration is 50 steps. What a run returns is the mean loss of its last 50 steps, in nats of all rows, by which the
tests tell that the sides do the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from latentzoo.benchmarks.fresh import Run, answer, measured

FEATURES, UNITS, LATENTS = 784, 200, 20
BATCH, STEPS, RATE = 128, 50, 0.003


def images(seed: int, size: int) -> Float[np.ndarray, "rows features"]:
    """Draw rows of bits, of which some are more often 1 than others."""
    rng = np.random.default_rng(seed)
    return (rng.random((size, FEATURES)) < rng.beta(0.5, 1.5, size=FEATURES)).astype(np.float32)


def latentzoo(seed: int, *, size: int) -> Run:
    """Return training as `lz.fit` runs it, without what it does once."""
    from latentzoo.inference import svi
    from latentzoo.inference.registry import get
    from latentzoo.inference.training import Training

    zoo = get("vae", num_latents=LATENTS, hidden=(UNITS,))
    data = zoo.check(zoo.Data(images(seed, size)))
    prior = zoo.prior(data)
    start = zoo.init(data, prior, seed)
    settings = Training(learning_rate=RATE, schedule="constant", batch_rows=min(BATCH, size))
    train = partial(svi.steps, zoo, data, prior, start, library="numpyro", guide=zoo.guide.numpyro)

    def run(count: int) -> float:
        steps = train(settings=settings, seed=seed, num_steps=STEPS * count, tol=-np.inf)
        return [-(step.elbo or 0.0) for step in steps][-1]

    return run


def by_hand(seed: int, *, size: int) -> Run:
    """Return training as one would write it for this model alone in JAX: a compiled scan over the steps."""
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int) -> tuple[jax.Array, jax.Array]:
        weight = rng.normal(size=(inputs, outputs)) * np.sqrt(2.0 / (inputs + outputs))
        return jnp.asarray(weight, jnp.float32), jnp.zeros(outputs, jnp.float32)

    sizes = (FEATURES, UNITS), (UNITS, 2 * LATENTS), (LATENTS, UNITS), (UNITS, FEATURES)
    first = tuple(layer(*each) for each in sizes)
    batch, optimiser = min(BATCH, size), optax.adam(RATE)

    def dense(inputs: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
        return inputs @ weights[0] + weights[1]

    def loss(params: tuple[tuple[jax.Array, jax.Array], ...], x: jax.Array, key: jax.Array) -> jax.Array:
        code = dense(jnp.tanh(dense(x, params[0])), params[1])
        mean, log_scale = code[:, :LATENTS], code[:, LATENTS:]
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(log_scale) * noise
        logits = dense(jnp.tanh(dense(z, params[2])), params[3])
        likelihood = (x * logits - jax.nn.softplus(logits)).sum()
        return -(size / batch) * (likelihood + (0.5 * noise**2 + log_scale - 0.5 * z**2).sum())

    @jax.jit
    def block(state: Any, data: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
        def one(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            params, moments, key = state
            key, own = jax.random.split(key)
            value, gradient = jax.value_and_grad(loss)(params, data[rows], own)
            updates, moments = optimiser.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments, key), value

        return jax.lax.scan(one, state, rows)

    data = jnp.asarray(images(seed, size))

    def run(count: int) -> float:
        state: Any = (first, optimiser.init(first), jax.random.PRNGKey(seed))
        batches, losses = np.random.default_rng(seed), np.zeros(1)
        for _ in range(count):
            state, found = block(state, data, batches.integers(size, size=(STEPS, batch)))
            losses = np.asarray(found)
        return float(losses.mean())

    return run


def pyro_loop(seed: int, *, size: int) -> Run:
    """Return training as Pyro's tutorials write it: modules of torch, SVI with Trace_ELBO, a step at a time."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.nn import Linear, Sequential, Tanh

    torch.manual_seed(seed)
    encoder = Sequential(Linear(FEATURES, UNITS), Tanh(), Linear(UNITS, 2 * LATENTS))
    decoder = Sequential(Linear(LATENTS, UNITS), Tanh(), Linear(UNITS, FEATURES))
    batch, data = min(BATCH, size), torch.from_numpy(images(seed, size))

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", size, subsample=x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("rows", size, subsample=x):
            mean, log_scale = encoder(x).split(LATENTS, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def run(count: int) -> float:
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": RATE}), pyro.infer.Trace_ELBO())
        losses = [float(svi.step(data[torch.randint(size, (batch,))])) for _ in range(STEPS * count)]
        return float(np.mean(losses[-STEPS:]))

    return run


SIDES: dict[str, Callable[..., dict[str, float]]] = {
    "latentzoo": partial(measured, latentzoo),
    "jax": partial(measured, by_hand),
    "pyro": partial(measured, pyro_loop),
}


if __name__ == "__main__":
    answer(SIDES)
