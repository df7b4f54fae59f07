"""Pyro's SVI, step by step, in a parameter store and a random state of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from latentzoo.inference.automatic import backend
from latentzoo.inference.svi import Block, Problem, Start, check_state
from latentzoo.models.language.contract import as_numpy, take_rows

ADAM = ("step", "exp_avg", "exp_avg_sq")  # what torch's Adam keeps of a parameter


class Stepper:
    """SVI from one start."""

    def __init__(self, problem: Problem, begin: Start):
        import pyro
        import torch

        self._auto, self._problem = backend("pyro"), problem
        self._data, self._prior, self._params = map(self._auto.ppl.arrays, begin.args)
        self._rate = 0.0
        optimiser = {"adam": pyro.optim.Adam, "sgd": pyro.optim.SGD}[problem.optimiser]
        self._optimiser = optimiser(lambda *_: {"lr": self._rate})
        self._loss = problem.zoo.loss.pyro(num_particles=problem.num_particles, estimator=problem.estimator)
        self._model, self._guide = problem.programs("pyro")
        self._svi = pyro.infer.SVI(self._model, self._guide, self._optimiser, self._loss)
        self._store: dict[str, Any] | None = None
        self._random = torch.Generator().manual_seed(begin.seed).get_state()
        self._first = begin.state

    def advance(self, block: Block) -> Any:
        """Take the steps."""
        with self._private():
            if self._first is not None:
                self._rate = float(block.rates[0])
                self._restore(self._first)
                self._first = None
            return np.array([self._step(block, index) for index in range(len(block.rates))])

    def _step(self, block: Block, index: int) -> float:
        self._rate = float(block.rates[index])
        for optimiser in self._optimiser.optim_objs.values():
            for group in optimiser.param_groups:
                group["lr"] = self._rate
        batch = self._data if block.batches is None else self._auto.ppl.arrays(take_rows(block.batches, index))
        keywords = self._problem.keywords(float(block.weights[index]))
        return float(self._svi.step(batch, self._prior, self._params, **keywords))

    def values(self) -> dict[str, np.ndarray]:
        """Return the constrained value of each `param` site."""
        import pyro

        with self._private():
            return {name: as_numpy(value).copy() for name, value in pyro.get_param_store().items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return the parameters, unconstrained, the state of their optimisers, and that of the random numbers."""
        assert self._store is not None
        found = {"pyro.random": self._random.numpy()}
        if self._remembers:
            found["pyro.memory"] = as_numpy(self._loss.memory).copy()
        with self._private():
            for name, held in self._optimiser.get_state().items():
                found[f"pyro.value.{name}"] = as_numpy(self._store["params"][name]).copy()
                kept = held["state"].get(0, {})
                found |= {
                    f"pyro.{key}.{name}": as_numpy(value).copy() for key, value in kept.items() if value is not None
                }
        return found

    @property
    def _remembers(self) -> bool:
        estimator = self._problem.estimator
        return estimator is not None and estimator.remembers

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Put parameters, optimisers and random numbers back to where they were."""
        import pyro
        import torch
        from pyro import poutine

        args, keywords = (self._data, self._prior, self._params), self._problem.keywords(1.0)
        guide = poutine.trace(self._guide).get_trace(*args, **keywords)  # registers the parameters
        poutine.trace(poutine.replay(self._model, guide)).get_trace(*args, **keywords)
        found = {f"pyro.value.{name}": leaf.detach() for name, leaf in pyro.get_param_store()._params.items()}
        check_state(state, {"pyro.random": self._random, **found})
        waiting = {}
        for name, leaf in pyro.get_param_store()._params.items():
            leaf.data.copy_(torch.from_numpy(state[f"pyro.value.{name}"]))
            kept = {key: torch.from_numpy(state[at]).clone() for key in ADAM if (at := f"pyro.{key}.{name}") in state}
            groups = self._optimiser.pt_optim_constructor([leaf], lr=self._rate).state_dict()["param_groups"]
            waiting[name] = {"state": {0: kept} if kept else {}, "param_groups": groups}
        self._optimiser.set_state(waiting)
        torch.set_rng_state(torch.from_numpy(state["pyro.random"]))
        if self._remembers:
            self._loss.memory = torch.from_numpy(state["pyro.memory"])

    @contextmanager
    def _private(self) -> Iterator[None]:
        """Open our own parameter store and random state, and give the user's back."""
        import pyro
        import torch

        with self._auto.precision(self._problem.dtype), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            with pyro.get_param_store().scope(self._store) as self._store:
                yield
            self._random = torch.get_rng_state()
