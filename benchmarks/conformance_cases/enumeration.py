"""Sums over discrete sites: what is observed in part, axes of length one, and sites beside those that are summed."""

# Programs are printed as they stand here, so that they bear neither hints nor docstrings; Case declares the attributes.
# ruff: noqa: D102, RUF012
# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,misc"

import numpy as np
from scipy import stats

from latentzoo.benchmarks.conformance_cases.case import Case


class PartlyObserved(Case):
    """`obs_mask` on a discrete site that is marked for enumeration."""

    title = "obs_mask drops the mark for enumeration: a missing discrete value is drawn from the prior"
    user = 'observes two of three coins by obs_mask, with infer={"enumerate": "parallel"}, and a measurement of each'
    known = "the sum over the missing coin"
    tolerance = 1e-10
    verdicts = {"pyro": "warns", "numpyro": "raises"}
    note = (
        "See pyro-ppl/pyro#3255. In Pyro the decorator config_enumerate in place of infer= marks the missing part, too,"
        " and is right. In both libraries so is a latent site for every row, with a factor of the evidence."
    )

    @staticmethod
    def exact() -> float:
        """Return the log evidence of coins 1, 0, ? that were measured as 0.5, 1.0, 1.5."""
        seen = 0.3 * stats.norm.pdf(0.5, 2.0) * 0.7 * stats.norm.pdf(1.0)
        return float(np.log(seen * (0.3 * stats.norm.pdf(1.5, 2.0) + 0.7 * stats.norm.pdf(1.5))))

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        z, seen = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, True, False])

        def model():
            with pyro.plate("rows", 3):
                infer = {"enumerate": "parallel"}
                coin = pyro.sample("z", dist.Bernoulli(0.3), obs=z, obs_mask=seen, infer=infer)
                pyro.sample("x", dist.Normal(2.0 * coin, 1.0), obs=torch.tensor([0.5, 1.0, 1.5]))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceEnum_ELBO

        z, seen = jnp.array([1, 0, 0]), jnp.array([True, True, False])

        def model():
            with numpyro.plate("rows", 3):
                infer = {"enumerate": "parallel"}
                coin = numpyro.sample("z", dist.Bernoulli(0.3), obs=z, obs_mask=seen, infer=infer)
                numpyro.sample("x", dist.Normal(2.0 * coin, 1.0), obs=jnp.array([0.5, 1.0, 1.5]))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(jax.random.key(0), {}, model, lambda: None)


class PlateOfOne(Case):
    """`TraceEnum_ELBO` with a plate of size one."""

    title = "TraceEnum_ELBO fails where a plate with a sampled site has size one"
    user = "fits a mixture whose plate of components has one component"
    known = "closed form: the guide is the prior"
    tolerance = 1e-10
    verdicts = {"pyro": "right", "numpyro": "raises"}
    note = "Leave the plate out where its size is one."

    @staticmethod
    def exact() -> float:
        """Return the log evidence of the rows, of which the site in the plate is no part."""
        return float(np.log(stats.norm.pdf(np.arange(5.0), [[0], [1]]).mean(0)).sum())

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        def model():
            with pyro.plate("components", 1):
                pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 5):
                z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.arange(5.0))

        def guide():
            with pyro.plate("components", 1):
                pyro.sample("loc", dist.Normal(0.0, 1.0))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceEnum_ELBO

        def model():
            with numpyro.plate("components", 1):
                numpyro.sample("loc", dist.Normal(0.0, 1.0))
            with numpyro.plate("rows", 5):
                z = numpyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.arange(5.0))

        def guide():
            with numpyro.plate("components", 1):
                numpyro.sample("loc", dist.Normal(0.0, 1.0))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(jax.random.key(0), {}, model, guide)


class OneState(Case):
    """`TraceEnum_ELBO` with a discrete site of one state."""

    title = "TraceEnum_ELBO fails where an enumerated site has one state"
    user = "fits a mixture of one component, as the first of several numbers of components"
    known = "closed form"
    tolerance = 1e-10
    verdicts = {"pyro": "right", "numpyro": "raises"}
    note = "Leave the site out where it has one state."

    @staticmethod
    def exact() -> float:
        """Return the log density of the rows."""
        return float(stats.norm.logpdf(np.arange(5.0)).sum())

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        def model():
            with pyro.plate("rows", 5):
                z = pyro.sample("z", dist.Categorical(torch.ones(1)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.arange(5.0))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceEnum_ELBO

        def model():
            with numpyro.plate("rows", 5):
                z = numpyro.sample("z", dist.Categorical(jnp.ones(1)), infer={"enumerate": "parallel"})
                numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=jnp.arange(5.0))

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(jax.random.key(0), {}, model, lambda: None)


class DrawnOneState(Case):
    """`infer_discrete` with a discrete site of one state."""

    title = "infer_discrete does not draw an enumerated site of one state"
    user = "asks for the most probable component of each row of a mixture of one component"
    known = "there is one"
    tolerance = 0.0
    verdicts = {"pyro": "warns", "numpyro": "raises"}
    note = (
        "Pyro finds no site to enumerate and returns the axis of the states, one value for all rows; beside a site of"
        " two states it does so without a warning. NumPyro's Predictive(infer_discrete=True) raises, too. Leave the"
        " site out where it has one state."
    )

    @staticmethod
    def exact() -> list[float]:
        """Return the component of each row."""
        return [0.0, 0.0]

    @staticmethod
    def pyro() -> list[float]:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import infer_discrete

        def model():
            with pyro.plate("rows", 2):
                z = pyro.sample("z", dist.Categorical(torch.ones(1)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.arange(2.0))
            return z

        return infer_discrete(model, first_available_dim=-2, temperature=0)().tolist()

    @staticmethod
    def numpyro() -> list[float]:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.contrib.funsor import infer_discrete

        def model():
            with numpyro.plate("rows", 2):
                z = numpyro.sample("z", dist.Categorical(jnp.ones(1)), infer={"enumerate": "parallel"})
                numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=jnp.arange(2.0))
            return z

        return infer_discrete(model, first_available_dim=-2, temperature=0)().tolist()


class MarginalsOfOneRow(Case):
    """`TraceEnum_ELBO.compute_marginals` of one row."""

    title = "compute_marginals fails for a plate of one row"
    user = "computes the posterior of the component of one row"
    known = "Bayes' rule"
    tolerance = 1e-10
    verdicts = {"pyro": "raises", "numpyro": "absent"}
    note = "Open as pyro-ppl/pyro#3102. With two rows it is right."

    @staticmethod
    def exact() -> list[float]:
        """Return the posterior of both states at x = 0.8."""
        joint = np.array([0.7, 0.3]) * stats.norm.pdf(0.8, [0, 1])
        return (joint / joint.sum()).tolist()

    @staticmethod
    def pyro() -> list[float]:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        def model():
            with pyro.plate("rows", 1):
                z = pyro.sample("z", dist.Categorical(torch.tensor([0.7, 0.3])), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.tensor([0.8]))

        return TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, lambda: None)["z"].probs.tolist()


class VectorScale(Case):
    """`TraceEnum_ELBO` with a scale for each row."""

    title = "TraceEnum_ELBO under a vector scale returns a loss for each row, which is no sum"
    user = "counts rows by handlers.scale with an array, around the model and a guide that is enumerated"
    known = "the sum over both states of each row, times its count"
    tolerance = 1e-10
    verdicts = {"pyro": "right", "numpyro": "wrong"}
    note = (
        "NumPyro multiplies the bound of all rows by the vector, and jax.grad then raises, as the loss is no number."
        " With the site on the side of the model both raise, and say that only a scalar is supported"
        " (pyro-ppl/pyro#1897): repeat the rows instead."
    )

    @staticmethod
    def exact() -> float:
        """Return the bound of rows 0.8 and -0.5, counted once and three times, at q = 1/2."""
        log_joint = np.log([[0.7, 0.3]]) + stats.norm.logpdf([[0.8], [-0.5]], [[0, 1]])
        return float([1, 3] @ (log_joint.mean(1) + np.log(2)))

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        @pyro.poutine.scale(scale=torch.tensor([1.0, 3.0]))
        def model():
            with pyro.plate("rows", 2):
                z = pyro.sample("z", dist.Bernoulli(0.3))
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.8, -0.5]))

        @pyro.poutine.scale(scale=torch.tensor([1.0, 3.0]))
        def guide():
            with pyro.plate("rows", 2):
                pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceEnum_ELBO

        def model():
            with numpyro.handlers.scale(scale=jnp.array([1.0, 3.0])), numpyro.plate("rows", 2):
                z = numpyro.sample("z", dist.Bernoulli(0.3))
                numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.array([0.8, -0.5]))

        def guide():
            with numpyro.handlers.scale(scale=jnp.array([1.0, 3.0])), numpyro.plate("rows", 2):
                numpyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

        return -TraceEnum_ELBO(max_plate_nesting=1).loss(jax.random.key(0), {}, model, guide)


class JointGuide(Case):
    """`AutoMultivariateNormal` over a site in a plate, beside an enumerated one."""

    title = "AutoMultivariateNormal fails where a site in a plate stands beside an enumerated one"
    user = "gives the locations of a mixture a joint normal guide, the assignments being enumerated"
    known = "Gauss-Hermite quadrature; the standard error of 10,000 particles is 0.0125"
    tolerance = 0.063
    verdicts = {"pyro": "right", "numpyro": "raises"}
    note = "Documented since pyro-ppl/numpyro#1713 and #1796. AutoNormal works: it keeps the plates of its sites."

    @staticmethod
    def exact() -> float:
        """Return the bound of rows 0 ... 4 at q(loc) = Normal(0, 0.01 I)."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        a, b = np.meshgrid(0.1 * nodes, 0.1 * nodes)
        x = np.arange(5.0)[:, None, None]
        rows = np.log((stats.norm.pdf(x, a) + stats.norm.pdf(x, b)) / 2).sum(0)
        kl = 2 * (0.01 / 2 - 0.5 - np.log(0.1))
        return float(weights @ rows @ weights / weights.sum() ** 2 - kl)

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO
        from pyro.infer.autoguide import AutoMultivariateNormal, init_to_value

        def model():
            with pyro.plate("components", 2):
                loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 5):
                z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                of_row = loc[..., :1] * (1 - z) + loc[..., 1:] * z
                pyro.sample("x", dist.Normal(of_row, 1.0), obs=torch.arange(5.0))

        start = init_to_value(values={"loc": torch.zeros(2)})
        guide = AutoMultivariateNormal(pyro.poutine.block(model, hide=["z"]), init_loc_fn=start, init_scale=0.1)
        guide()
        return -TraceEnum_ELBO(num_particles=10_000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, TraceEnum_ELBO, init_to_value
        from numpyro.infer.autoguide import AutoMultivariateNormal

        def model():
            with numpyro.plate("components", 2):
                loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
            with numpyro.plate("rows", 5):
                z = numpyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                of_row = loc[..., :1] * (1 - z) + loc[..., 1:] * z
                numpyro.sample("x", dist.Normal(of_row, 1.0), obs=jnp.arange(5.0))

        start = init_to_value(values={"loc": jnp.zeros(2)})
        guide = AutoMultivariateNormal(numpyro.handlers.block(model, hide=["z"]), init_loc_fn=start, init_scale=0.1)
        loss = TraceEnum_ELBO(num_particles=10_000, max_plate_nesting=1)
        svi = SVI(model, guide, numpyro.optim.Adam(0.1), loss)
        return -svi.evaluate(svi.init(jax.random.key(0)))


class SubstitutedSite(Case):
    """`TraceGraph_ELBO` with a value that was substituted for a discrete site."""

    title = "TraceGraph_ELBO and TraceEnum_ELBO redraw a substituted discrete site, and find no key for it"
    user = "evaluates the loss at a given value of a discrete site, by handlers.substitute on the guide"
    known = "closed form"
    tolerance = 1e-10
    verdicts = {"numpyro": "raises"}
    note = "Trace_ELBO takes the value. A distribution whose sample() returns the value works with all."

    @staticmethod
    def exact() -> float:
        """Return log p(z, x) - log q(z) at z = 1, x = 0.8."""
        return float(np.log(0.3) + stats.norm.logpdf(0.8, 1.0) - np.log(0.5))

    @staticmethod
    def numpyro() -> float:
        import jax
        import numpyro
        import numpyro.distributions as dist
        from numpyro.handlers import substitute
        from numpyro.infer import TraceGraph_ELBO

        def model():
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=0.8)

        def guide():
            numpyro.sample("z", dist.Bernoulli(0.5))

        return -TraceGraph_ELBO().loss(jax.random.key(0), {}, model, substitute(guide, {"z": 1.0}))


class DeterministicOfEnumerated(Case):
    """A `deterministic` site of an enumerated one, by NUTS."""

    title = "NUTS computes a deterministic of an enumerated site on the axis of its states"
    user = "asks for the number of heads of three coins of bias 0.9, beside a site that NUTS draws; 100 draws"
    known = "the mean of Binomial(3, 0.9); the standard error of 100 independent draws is 0.052"
    tolerance = 0.26
    verdicts = {"numpyro": "wrong"}
    note = (
        "The total is 0 + 1 at every draw: the sum over the states, not over the coins. Draw the site by infer_discrete"
        " or Predictive(infer_discrete=True) first. Pyro's MCMC keeps no deterministic sites."
    )

    @staticmethod
    def exact() -> float:
        """Return the mean number of heads."""
        return float(stats.binom(3, 0.9).mean())

    @staticmethod
    def numpyro() -> float:
        import jax
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import MCMC, NUTS

        def model():
            numpyro.sample("loc", dist.Normal(0.0, 1.0))
            with numpyro.plate("coins", 3):
                z = numpyro.sample("z", dist.Bernoulli(0.9), infer={"enumerate": "parallel"})
            numpyro.deterministic("heads", z.sum())

        mcmc = MCMC(NUTS(model), num_warmup=10, num_samples=100, progress_bar=False)
        mcmc.run(jax.random.key(0))
        return mcmc.get_samples()["heads"].mean()
