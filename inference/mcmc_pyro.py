"""NUTS in Pyro, without its MCMC class, which runs one chain after another: here all chains reach `max_seconds` alike.

What the kernel does not tell is taken from its running means and from a count of its gradients.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from latentzoo.inference.automatic import Arrays, Pair, Site, backend
from latentzoo.inference.mcmc import Block, Task, check_start
from latentzoo.models.language.contract import as_numpy
from latentzoo.models.language.errors import UserError


def latents(program: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Site]:
    """Return the latent sites of a model."""
    return backend("pyro").latents(Pair(program, program, args), {}, {}, 0)


def blocks(task: Task) -> Generator[Block]:
    """Yield one transition of every chain after another.

    Until the iterator is closed, it holds torch's random state and Pyro's parameter store, and gives them back then.
    """
    import pyro
    import torch
    from pyro import poutine

    # Arguments of distributions are not validated, as in Pyro's own MCMC: a diverging trajectory may reach any value.
    with (
        backend("pyro").precision(),
        pyro.get_param_store().scope(),
        torch.random.fork_rng(devices=[]),
        poutine.block(),
        pyro.validation_enabled(False),
    ):
        torch.manual_seed(int(task.seeds[0]))  # the chains take turns, in one stream
        try:
            chains = _chains(task)
        except NotImplementedError as error:  # a positive definite matrix, for one, has no map to the whole space
            raise UserError(f"Pyro's NUTS does not run on this model ({error}): take library='numpyro'") from error
        check_start(np.array([chain.lp for chain in chains]))
        for number in range(task.num_warmup + task.num_draws):
            yield _block([chain.transition(number) for chain in chains])


class _Chain:
    """One chain: a kernel and what it leaves unsaid."""

    def __init__(self, task: Task, potential: Callable[..., Any], transforms: Mapping[str, Any], start: Arrays):
        import torch
        from pyro.infer import NUTS

        self._potential, self._transforms, self._num_warmup = potential, transforms, task.num_warmup
        self._num_gradients = self._told = 0
        self._kernel = NUTS(potential_fn=self._counted, target_accept_prob=task.target_accept)
        self._z = {site: transforms[site](torch.tensor(value)) for site, value in start.items()}
        self._kernel.initial_params = self._z
        self._kernel.setup(task.num_warmup)

    @property
    def lp(self) -> float:
        return -float(self._kernel._potential_energy_last)

    def _counted(self, z: Mapping[str, Any]) -> Any:
        """Return the potential energy; Pyro asks for a gradient of it whenever z requires one."""
        self._num_gradients += any(value.requires_grad for value in z.values())
        return self._potential(z)

    def transition(self, number: int) -> tuple[Arrays, dict[str, Any], int]:
        """Return the draw, its statistics, and the gradients since the last one, or since before the set-up."""
        kernel, before = self._kernel, self._num_gradients
        step_size, mean = kernel.step_size, kernel._mean_accept_prob
        self._z = kernel.sample(self._z)
        # The running mean of the acceptance rates starts anew after the warm-up.
        count = 1 + (number if number < self._num_warmup else number - self._num_warmup)
        rate = count * kernel._mean_accept_prob - (count - 1) * mean
        n_steps = self._num_gradients - before
        stats = {
            "lp": self.lp,
            "diverging": kernel._divergences[-1:] == [number - self._num_warmup],
            "n_steps": n_steps,
            "acceptance_rate": min(max(rate, 0.0), 1.0),
            "step_size": float(step_size),
        }
        draw = {site: as_numpy(self._transforms[site].inv(z)).copy() for site, z in self._z.items()}
        since, self._told = self._num_gradients - self._told, self._num_gradients
        return draw, stats, since


def _chains(task: Task) -> list[_Chain]:
    """Return the chains, each at its start."""
    from pyro.infer.mcmc.util import initialize_model

    # Given initial params, whatever they are, Pyro searches for none.
    nesting = task.max_plate_nesting
    _, potential, transforms, _ = initialize_model(
        task.program, task.args, {}, max_plate_nesting=nesting, initial_params={}
    )
    starts = [{site: values[chain] for site, values in task.starts.items()} for chain in range(len(task.seeds))]
    return [_Chain(task, potential, transforms, start) for start in starts]


def _block(transitions: Sequence[tuple[Arrays, dict[str, Any], int]]) -> Block:
    """Return one transition of every chain as a block of length one."""
    draws, stats, num_gradients = zip(*transitions, strict=True)
    return Block(_stacked(draws), _stacked(stats), sum(num_gradients))


def _stacked(trees: Sequence[Mapping[str, Any]]) -> Arrays:
    return {name: np.stack([tree[name] for tree in trees])[:, None] for name in trees[0]}
