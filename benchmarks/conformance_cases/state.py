"""What a program keeps that its user does not expect: the parameter store, and notes in the user's arrays and dicts."""

# Programs are printed as they stand here, so that they bear neither hints nor docstrings; Case declares the attributes.
# ruff: noqa: D102, RUF012
# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,misc"

import itertools

import numpy as np

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


class SharedMark(Case):
    """One `infer` dict for all states of a hidden Markov model."""

    title = "sites that share one infer dict are summed along each other's axes: the log density is another number"
    user = 'marks the states of a hidden Markov model, in a loop of markov, by one dict {"enumerate": "parallel"}'
    known = "the sum over all eight paths"
    tolerance = 1e-10
    verdicts = {"pyro": "right", "numpyro": "wrong"}
    note = (
        "NumPyro writes the axes of a site, dim_to_name, into the user's dict, so that all sites are read by those of"
        " the last, whose axis the first has in a loop of markov. NUTS draws from the same wrong density."
        " TraceEnum_ELBO and infer_discrete raise instead, and without markov all do, with a TypeError about reshape,"
        " unless the last site depends on all others. Write the dict anew at each site, or leave it to"
        " config_enumerate. Pyro copies it."
    )

    @staticmethod
    def exact() -> float:
        """Return the log probability of 0, 1, 1 by brute force."""
        start, move = np.array([0.6, 0.4]), np.array([[0.9, 0.1], [0.2, 0.8]])
        seen = np.array([[0.7, 0.1], [0.3, 0.9], [0.3, 0.9]])  # by step and state
        paths = itertools.product((0, 1), repeat=3)
        joint = [start[a] * move[a, b] * move[b, c] * seen[0, a] * seen[1, b] * seen[2, c] for a, b, c in paths]
        return float(np.log(np.sum(joint)))

    @staticmethod
    def pyro() -> float:
        import pyro
        import pyro.distributions as dist
        import torch
        from pyro.infer import TraceEnum_ELBO

        start, move = torch.tensor([0.6, 0.4]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        emit, x = torch.tensor([[0.7, 0.3], [0.1, 0.9]]), torch.tensor([0, 1, 1])
        mark = {"enumerate": "parallel"}

        def model():
            probs = start
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z{t}", dist.Categorical(probs), infer=mark)
                pyro.sample(f"x{t}", dist.Categorical(emit[z]), obs=x[t])
                probs = move[z]

        return -TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)

    @staticmethod
    def numpyro() -> float:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.contrib.funsor import enum, log_density, markov

        start, move = jnp.array([0.6, 0.4]), jnp.array([[0.9, 0.1], [0.2, 0.8]])
        emit, x = jnp.array([[0.7, 0.3], [0.1, 0.9]]), jnp.array([0, 1, 1])
        mark = {"enumerate": "parallel"}

        def model():
            probs = start
            for t in markov(range(3)):
                z = numpyro.sample(f"z{t}", dist.Categorical(probs), infer=mark)
                numpyro.sample(f"x{t}", dist.Categorical(emit[z]), obs=x[t])
                probs = move[z]

        return log_density(enum(model, first_available_dim=-1), (), {}, {})[0]
