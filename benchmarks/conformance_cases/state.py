"""What a program keeps between runs: the parameter store and the arrays of the user."""

# Programs are printed as they stand here, so that they bear neither hints nor docstrings; Case declares the attributes.
# ruff: noqa: D102, RUF012
# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,misc"

from latentzoo.benchmarks.conformance_cases.case import Case


class SecondInitialValue(Case):
    """A second initial value for a parameter."""

    title = "the parameter store ignores a second initial value under the same name"
    user = "starts a second fit in the same process from the value 2, after a first from 1"
    known = "the value that was given"
    tolerance = 0.0
    verdicts = {"pyro": "wrong", "numpyro": "right"}
    note = (
        "As documented, and the cause of pyro-ppl/pyro#1488 and #3209: clear the store, or open"
        " pyro.get_param_store().scope()."
    )

    @staticmethod
    def exact() -> float:
        """Return the second value."""
        return 2.0

    @staticmethod
    def pyro() -> float:
        import pyro
        import torch

        pyro.param("loc", torch.tensor(1.0))
        return pyro.param("loc", torch.tensor(2.0)).item()

    @staticmethod
    def numpyro() -> float:
        import numpyro

        numpyro.param("loc", 1.0)
        return numpyro.param("loc", 2.0)


class BorrowedArray(Case):
    """The user's array as the initial value of a parameter."""

    title = "an optimiser writes into the array that was given as the initial value"
    user = "starts from a NumPy array, by torch.from_numpy, makes one step of Adam and looks at the array"
    known = "the array as it was given"
    tolerance = 0.0
    verdicts = {"pyro": "wrong", "numpyro": "right"}
    note = "pyro.param keeps the very tensor, and torch.from_numpy shares the memory: give a clone."

    @staticmethod
    def exact() -> list[float]:
        """Return the array."""
        return [0.0, 0.0]

    @staticmethod
    def pyro() -> list[float]:
        import numpy as np
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import SVI, Trace_ELBO

        start = np.zeros(2)

        def model():
            loc = pyro.param("loc", torch.from_numpy(start))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=torch.ones(2))

        SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step()
        return start.tolist()

    @staticmethod
    def numpyro() -> list[float]:
        import jax
        import jax.numpy as jnp
        import numpy as np
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, Trace_ELBO

        start = np.zeros(2)

        def model():
            loc = numpyro.param("loc", start)
            numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=jnp.ones(2))

        svi = SVI(model, lambda: None, numpyro.optim.Adam(0.1), Trace_ELBO())
        svi.update(svi.init(jax.random.key(0)))
        return start.tolist()
