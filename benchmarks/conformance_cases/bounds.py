"""Values of bounds: scales inside the logarithm, sites in another order, weights of the whole batch."""

# Programs are printed as they stand here, so that they bear neither hints nor docstrings; Case declares the attributes.
# ruff: noqa: D102, RUF012
# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,misc"

import itertools

import numpy as np
from scipy import stats

from latentzoo.benchmarks.conformance_cases.case import Case


class RenyiMinibatch(Case):
    """`RenyiELBO` of one row of ten."""

    title = "RenyiELBO puts the minibatch's scale inside the log-sum-exp: above the log evidence"
    user = "estimates the evidence of ten rows from one of them, by RenyiELBO of 100,000 particles"
    known = "the sum over both states; the particles' standard error is 0.0047, their bias 1e-6"
    tolerance = 0.024
    verdicts = {"pyro": "wrong", "numpyro": "right"}
    note = (
        "The bound exceeds what it bounds, and its gradient is that of another one. pyro-ppl/pyro#2194 removed a"
        " warning of subsampling. Without it Pyro, too, weights row by row (pyro-ppl/pyro#3104) and is right."
    )

    @staticmethod
    def exact() -> float:
        """Return the log evidence of ten rows at x = 0.8."""
        return float(10 * np.log(stats.norm.pdf(0.8, [0, 1]).mean()))

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import RenyiELBO

        def model():
            with pyro.plate("rows", 10, subsample_size=1):
                z = pyro.sample("z", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.8]))

        def guide():
            with pyro.plate("rows", 10, subsample_size=1):
                pyro.sample("z", dist.Bernoulli(0.5))

        return -RenyiELBO(num_particles=100_000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import RenyiELBO

        def model():
            with numpyro.plate("rows", 10, subsample_size=1):
                z = numpyro.sample("z", dist.Bernoulli(0.5))
                numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.array([0.8]))

        def guide():
            with numpyro.plate("rows", 10, subsample_size=1):
                numpyro.sample("z", dist.Bernoulli(0.5))

        return -RenyiELBO(num_particles=100_000).loss(jax.random.key(0), {}, model, guide)


class RenyiScale(Case):
    """`RenyiELBO` under a scale of ten."""

    title = "RenyiELBO puts the scale of a handler inside the log-sum-exp"
    user = "counts a row ten times by a scale of ten, around the model and the guide"
    known = RenyiMinibatch.known
    tolerance = RenyiMinibatch.tolerance
    verdicts = {"pyro": "wrong", "numpyro": "wrong"}
    note = "NumPyro takes out the scale of its plates, but not that of handlers.scale."

    @staticmethod
    def exact() -> float:
        """Return the log evidence of ten rows at x = 0.8."""
        return RenyiMinibatch.exact()

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import RenyiELBO

        @pyro.poutine.scale(scale=10.0)
        def model():
            with pyro.plate("rows", 1):
                z = pyro.sample("z", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.8]))

        @pyro.poutine.scale(scale=10.0)
        def guide():
            with pyro.plate("rows", 1):
                pyro.sample("z", dist.Bernoulli(0.5))

        return -RenyiELBO(num_particles=100_000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import RenyiELBO

        def model():
            with numpyro.handlers.scale(scale=10.0), numpyro.plate("rows", 1):
                z = numpyro.sample("z", dist.Bernoulli(0.5))
                numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.array([0.8]))

        def guide():
            with numpyro.handlers.scale(scale=10.0), numpyro.plate("rows", 1):
                numpyro.sample("z", dist.Bernoulli(0.5))

        return -RenyiELBO(num_particles=100_000).loss(jax.random.key(0), {}, model, guide)


class MeanFieldOrder(Case):
    """`TraceMeanField_ELBO` with the sites of the guide in the other order."""

    title = "TraceMeanField_ELBO is wrong where the guide draws a child of the model before its parent"
    user = "gives the model a, then b | a, and the guide b, then a | b; 100,000 particles"
    known = "closed form; the particles' standard error is 0.007"
    tolerance = 0.035
    verdicts = {"pyro": "warns", "numpyro": "warns"}
    note = "Both say that they could not verify the order (pyro-ppl/pyro#1543, pyro-ppl/numpyro#748) and go on."

    @staticmethod
    def exact() -> float:
        """Return E[log p(a) + log p(b | a)] plus the entropy: -3/2 - 1/2 + 1, the constants of 2π cancel."""
        return -1.0

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        from pyro.infer import TraceMeanField_ELBO

        def model():
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))

        def guide():
            b = pyro.sample("b", dist.Normal(1.0, 1.0))
            pyro.sample("a", dist.Normal(b, 1.0))

        loss = TraceMeanField_ELBO(num_particles=100_000, vectorize_particles=True, max_plate_nesting=0)
        return -loss.loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceMeanField_ELBO

        def model():
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
            numpyro.sample("b", dist.Normal(a, 1.0))

        def guide():
            b = numpyro.sample("b", dist.Normal(1.0, 1.0))
            numpyro.sample("a", dist.Normal(b, 1.0))

        return -TraceMeanField_ELBO(num_particles=100_000).loss(jax.random.key(0), {}, model, guide)


class WakeSleepWeights(Case):
    """The bound of `ReweightedWakeSleep`, of two rows and two particles."""

    title = "ReweightedWakeSleep weights the rows of a plate jointly"
    user = "trains a model of two independent rows by ReweightedWakeSleep; all 16 draws are averaged"
    known = "the sum over all draws of log(mean of the weights), row by row"
    tolerance = 1e-10
    verdicts = {"pyro": "wrong", "numpyro": "absent"}
    note = (
        "Still a bound, but looser with every row: the effective number of particles falls as the plate grows"
        " (pyro-ppl/pyro#2220, by the authors of the loss)."
    )

    @staticmethod
    def exact() -> float:
        """Return the sum of both rows' bounds."""
        weights = stats.norm.pdf([[0.8], [-0.5]], [[0, 1]])
        pairs = [weights[:, list(pair)].mean(1) for pair in itertools.product([0, 1], repeat=2)]
        return float(np.mean([np.log(pair).sum() for pair in pairs]))

    @staticmethod
    def pyro() -> float:
        import itertools

        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import ReweightedWakeSleep

        def model():
            with pyro.plate("rows", 2):
                z = pyro.sample("z", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.8, -0.5]))

        def bound(draws):
            class Drawn(dist.Bernoulli):
                def sample(self, sample_shape=()):
                    return torch.tensor(draws).reshape(2, 2)

            def guide():
                with pyro.plate("rows", 2):
                    pyro.sample("z", Drawn(0.5))

            loss = ReweightedWakeSleep(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
            return -loss.loss(model, guide)[0].item()

        return sum(bound(draws) for draws in itertools.product([0.0, 1.0], repeat=4)) / 16


class MultiSampleGuide(Case):
    """`Trace_ELBO(multi_sample_guide=True)` with eight samples of the exact posterior."""

    title = "Trace_ELBO(multi_sample_guide=True) adds up the samples: the bound times their number"
    user = "draws eight samples at once in the guide, from the exact posterior"
    known = "closed form: every draw of the exact posterior gives the log evidence"
    tolerance = 1e-10
    verdicts = {"pyro": "absent", "numpyro": "wrong"}
    note = "The gradient, too, is eight times as large. Divide by the number of samples."

    @staticmethod
    def exact() -> float:
        """Return the log evidence."""
        return float(stats.norm.logpdf(0.8, 0.0, np.sqrt(2.0)))

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import Trace_ELBO

        def model():
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=0.8)

        def guide():
            numpyro.sample("z", dist.Normal(jnp.full(8, 0.4), jnp.sqrt(0.5)))

        return -Trace_ELBO(multi_sample_guide=True).loss(jax.random.key(0), {}, model, guide)
