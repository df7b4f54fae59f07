"""NUTS in either library: draws from the posterior itself, the discrete sites summed out.

The libraries supply the kernels, with their adaptation. The loop is ours: it keeps time, tells how far it is, stops
when it should and counts gradients, the same way for both.
"""

import dataclasses
import importlib
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from latentzoo.inference.automatic import Site, backend
from latentzoo.inference.registry import Entry
from latentzoo.inference.stopwatch import Stopwatch
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import Library

NUM_STEPS = 1000  # draws of each chain
LIBRARIES: tuple[Library, ...] = ("numpyro", "pyro")
LEAST_DRAWS = 4  # split R-hat halves each chain, and a half has no variance below two draws
# What is imported when it is first needed, and slow to load: no part of any run's time.
_NEEDS = {"numpyro": "numpyro.contrib.funsor", "pyro": "pyro.infer.mcmc"}

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen.

    num_warmup: transitions before the draws, in which a chain finds its step size and scales.
    num_chains: which start at draws from the guide at `init`.
    target_accept: the acceptance rate that the step size is adapted to.
    """

    num_warmup: int = 500
    num_chains: int = 4
    target_accept: float = 0.8

    def __post_init__(self) -> None:
        contract.check_whole("num_warmup", self.num_warmup)
        contract.check_whole("num_chains", self.num_chains)
        if not (isinstance(self.target_accept, float | np.floating) and 0.0 < self.target_accept < 1.0):
            raise UserError(f"target_accept is {self.target_accept!r}: it must be a number between 0 and 1")


class Chains(NamedTuple):
    """Draws of a sampler: the first two axes of every array are (chain, draw).

    draws: every continuous latent site of the model, by name, in its own space.
    stats: in ArviZ's names. `lp`: log joint density of the data and the continuous latents, in the unconstrained space
        that the library samples in; `diverging`; `n_steps`: leapfrog steps; `tree_depth`; `acceptance_rate`;
        `step_size`.
    num_gradients: evaluations of the gradient, of all chains, warm-up included.
    seconds, compile_seconds: running, warm-up included; and, apart from it, compiling.
    reason: why there are fewer draws than were asked for; empty when there are not.
    """

    draws: Arrays
    stats: Arrays
    num_gradients: float
    seconds: float
    compile_seconds: float
    reason: str


class Task(NamedTuple):
    """What a library is asked to sample.

    program, args: the model, and what it is called with.
    max_plate_nesting, discrete: how deep its plates are nested; whether it has discrete sites to sum out.
    starts: by continuous latent site, where each chain starts: (chain, ...).
    seeds: one for each chain.
    """

    program: Callable[..., Any]
    args: tuple[Any, ...]
    max_plate_nesting: int
    discrete: bool
    starts: Arrays
    seeds: np.ndarray
    num_draws: int
    num_warmup: int
    target_accept: float


class Block(NamedTuple):
    """Some transitions of every chain, one after another: arrays are (chain, transition, ...), as in `Chains`."""

    draws: Arrays
    stats: Arrays
    num_gradients: int


class Sampler(Protocol):
    """What a library must do for us: a module of its own for each."""

    def latents(self, program: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Site]:
        """Return the latent sites of a model."""

    def blocks(self, task: Task) -> Generator[Block]:
        """Yield the transitions of all chains, warm-up first, in blocks of any length."""


def num_transitions(library: Library, num_draws: int, num_warmup: int, num_chains: int) -> int:
    """Return how many transitions `sample` reports: in NumPyro one moves every chain, in Pyro it is a chain's own."""
    return (num_warmup + num_draws) * (num_chains if library == "pyro" else 1)


def sample(
    zoo: Entry,
    data: Any,
    prior: Any,
    init: Params,
    *,
    library: Library = "numpyro",
    seed: int = 0,
    num_draws: int = 1000,
    num_warmup: int = 500,
    num_chains: int = 4,
    target_accept: float = 0.8,
    max_seconds: float | None = None,
    report: Callable[[int, str], None] = lambda done, text: None,
) -> Chains:
    """Draw from the posterior by NUTS.

    Parameters
    ----------
    zoo, data, prior: the entry and, checked, what its model is called with.
    init: the chains start at draws from the guide at these parameters: apart, but in one labelling of a mixture. Point
        parameters of the model stay where they are.
    seed: the same seed gives the same draws, to the bit, on one machine.
    num_draws, num_warmup: of each chain; the draws of the warm-up are not kept.
    target_accept: the acceptance rate that the step size is adapted to.
    max_seconds: sampling stops there, compilation not counted, with the draws that there are.
    report: called with the transitions so far, out of `num_transitions`, and a word on how it goes.

    Raises
    ------
    UserError: a value that cannot be used, by its name; no draws in `max_seconds`; nothing continuous to draw.
    """
    choose(library, LIBRARIES, "library")
    contract.check_whole("seed", seed, least=0)
    contract.check_whole("num_draws", num_draws, least=LEAST_DRAWS)
    if max_seconds is not None:
        contract.check_number("max_seconds", max_seconds, above=0.0)
    settings = Settings(num_warmup, num_chains, target_accept)
    each = num_transitions(library, num_draws, num_warmup, num_chains) // (num_warmup + num_draws)
    sampler, watch, kept, done, num_gradients = _sampler(library), Stopwatch(), list[Block](), 0, 0

    with watch:
        task = _task(sampler, zoo, data, prior, init, library, seed, num_draws, settings)
    with closing(sampler.blocks(task)) as blocks:
        while done < num_warmup + num_draws:
            with watch:
                block = next(blocks)
            skipped = max(num_warmup - done, 0)  # of this block: it may reach from the warm-up into the draws
            done += block.stats["lp"].shape[1]
            num_gradients += block.num_gradients
            if done > num_warmup:
                kept.append(Block(_after(skipped, block.draws), _after(skipped, block.stats), 0))
            report(done * each, _word(done - num_warmup, kept))
            if max_seconds is not None and watch.running >= max_seconds:
                break

    if done < num_warmup + LEAST_DRAWS:
        raise UserError(_too_soon(max_seconds, done, num_warmup))
    stats = _joined([block.stats for block in kept])
    # A trajectory of depth d has from 2^(d - 1) to 2^d - 1 steps.
    stats["tree_depth"] = np.floor(np.log2(stats["n_steps"])).astype(np.int64) + 1
    taken = done - num_warmup
    reason = "" if taken == num_draws else f"max_seconds = {max_seconds:g} came first: {taken} of {num_draws} draws"
    draws = _joined([block.draws for block in kept])
    return Chains(draws, stats, float(num_gradients), watch.running, watch.compiling, reason)


def _sampler(library: Library) -> Sampler:
    importlib.import_module(_NEEDS[library])
    return cast(Sampler, importlib.import_module(f"latentzoo.inference.mcmc_{library}"))


def _task(
    sampler: Sampler,
    zoo: Entry,
    data: Any,
    prior: Any,
    init: Params,
    library: Library,
    seed: int,
    num_draws: int,
    settings: Settings,
) -> Task:
    """Draw the starts, and say what is to be sampled."""
    program = zoo.model.on(library)
    args = (data, prior) if init.theta is None else (data, prior, Params(theta=init.theta))
    latents = sampler.latents(program, args)
    continuous = [name for name, site in latents.items() if not site.discrete]
    if not continuous:
        raise UserError(f"{zoo.name} has no continuous latent variables ({zoo.spec}): NUTS has nothing to draw")
    start_seed, *seeds = np.random.SeedSequence(seed).generate_state(1 + settings.num_chains)
    # The guide sees all rows: it may have parameters or sites for each of them.
    guide = zoo.guide.on(library)
    rows = zoo.row_plates
    starts, _ = backend(library).draws(guide, (data, prior, init), continuous, len(seeds), int(start_seed), rows)
    return Task(
        program=program,
        args=args,
        max_plate_nesting=zoo.model_room.MAX_PLATE_NESTING,
        discrete=len(continuous) < len(latents),
        starts={site: np.asarray(values, np.float64) for site, values in starts.items()},
        seeds=np.array(seeds),
        num_draws=num_draws,
        num_warmup=settings.num_warmup,
        target_accept=settings.target_accept,
    )


def check_start(lp: np.ndarray) -> None:
    """Raise `UserError` when the log density is not finite where a chain starts; lp: (chain,)."""
    bad = np.flatnonzero(~np.isfinite(lp))
    if bad.size:
        raise UserError(f"the log density is {lp[bad[0]]} where chain {bad[0]} starts: give other params to start from")


def _after(skipped: int, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: array[:, skipped:] for name, array in arrays.items()}


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _word(num_draws: int, kept: list[Block]) -> str:
    if num_draws <= 0:
        return "warm-up"
    return f"{sum(int(block.stats['diverging'].sum()) for block in kept)} diverging"


def _too_soon(max_seconds: float | None, done: int, num_warmup: int) -> str:
    if done < num_warmup:
        return f"max_seconds = {max_seconds:g} came before the end of the warm-up: {done} of {num_warmup} transitions"
    return f"max_seconds = {max_seconds:g} came before {LEAST_DRAWS} draws of each chain: there are {done - num_warmup}"
