"""The handle that models and guides are written with: one small object, bound to Pyro or to NumPyro.

A model takes it as its first argument and never asks which library stands behind it. The handle imports its library
when it is first made, so that a NumPyro user never loads torch, nor a Pyro user JAX.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from latentzoo.models.language import contract
from latentzoo.models.language.errors import UserError, choose

Library = Literal["pyro", "numpyro"]
LIBRARIES: tuple[Library, ...] = ("pyro", "numpyro")

# The log probability of a state that evidence rules out: its exponential is 0, and 0 times it is 0, too.
RULED_OUT = -1e4
# Marks a discrete site that is summed over, never sampled, by the enumerating losses and by NUTS.
ENUMERATE = {"enumerate": "parallel"}


@dataclass(frozen=True)
class Handle:
    """What a probabilistic program may use, the same in both libraries.

    Attributes
    ----------
    name: "pyro" or "numpyro": for messages; no model may branch on it.
    sample, plate, deterministic, factor, mask: the library's own primitives.
    param: registers a real-valued parameter; only the binding calls it.
    scale: a context that multiplies the log probability of its sites by a scalar.
    dist: the library's distributions.
    xp: its array namespace. Shared names: concatenate, stack, sum(axis=), where, einsum, exp, log, sqrt, zeros_like.
    array: converts to the library's arrays.
    nn: softmax, softplus, sigmoid, relu, tanh, logsumexp, log_softmax, digamma, gammaln (last axis); one_hot(x, size):
        of categories, but those that are vectors already, as relaxed ones are, stay as they are; and
        cholesky: the lower triangle of real matrices, its diagonal through exp, so that it is a Cholesky factor.
    stop_gradient: the value, with no gradient through it.
    scan: `scan(step, state, length)`, for simulation: draws a chain, `step(state) -> (state, outputs)`, and returns the
        outputs stacked. Its sites are hidden, so that it has no density.
    num_rows, total_rows: the number of rows to draw when nothing is observed, and of the whole data for a minibatch.
    """

    name: Library
    sample: Callable[..., Any]
    plate: Callable[..., Any]
    param: Callable[[str, Any], Any]
    deterministic: Callable[..., Any]
    factor: Callable[[str, Any], Any]
    mask: Callable[..., Any]
    scale: Callable[..., Any]
    dist: Any
    xp: Any
    array: Callable[[Any], Any]
    nn: SimpleNamespace
    stop_gradient: Callable[[Any], Any]
    vindex: Any
    scan: Callable[[Callable[[Any], tuple[Any, Any]], Any, int], Any]
    num_rows: int | None = None
    total_rows: int | None = None

    def arrays(self, tree: Any) -> Any:
        """Return a tree with the library's arrays in the place of others."""
        return contract.map_leaves(lambda _, leaf: self.array(leaf), tree)

    @contextmanager
    def rows(self, name: str, data: Any) -> Iterator[int]:
        """Open the plate over the rows of `data`, scaled when they are a minibatch of `total_rows`.

        Raises
        ------
        UserError: nothing is observed and `num_rows` was not given.
        """
        size = contract.num_rows(data)
        if size is None:
            size = self.num_rows
        if size is None:
            raise UserError(f"no {name} are observed: say how many to draw, num_rows=")
        scaled = self.scale(scale=self.total_rows / size) if self.total_rows else nullcontext()
        with scaled, self.plate(name, size):
            yield size

    def parameter(self, name: str, point: Any, family: Callable[..., Any], *prior: Any) -> Any:
        """Return a parameter that all rows share: drawn from its prior `family(*prior)`, or held at a point.

        Where `point` is None it is a latent site. At a point it is observed, so that its prior counts, as in MAP;
        where any part of the prior is None there is none, as in maximum likelihood.
        """
        if point is not None and any(part is None for part in prior):
            return self.deterministic(name, point)
        return self.sample(name, family(*prior), obs=point)

    def at(self, values: Any, index: Any, event_dim: int = 0) -> Any:
        """Pick `values[index]` along the plate of `values`, whatever batch of particles stands to its left.

        values: (..., K, *event), drawn inside a plate of size K; index: integers, one a row; returns (..., N, *event).
        A tuple of indices picks along as many axes, and one of none leaves `values` as they are.
        """
        picked = index if isinstance(index, tuple) else (index,)
        if not picked:
            return values
        # The plate of K sits at dimension -1 - event_dim, where the rows will be: an axis of one makes room for them.
        axis = len(values.shape) - len(picked) - event_dim
        spread = values.reshape((*values.shape[:axis], 1, *values.shape[axis:]))
        return self.vindex(spread)[(..., *picked, *(slice(None),) * event_dim)]


def _with_own_infer(sample: Callable[..., Any]) -> Callable[..., Any]:
    """Return a library's `sample` that copies `infer`, where the library keeps notes on the site: several share one."""

    def own(name: str, fn: Any, *, infer: dict[str, Any] | None = None, **options: Any) -> Any:
        return sample(name, fn, infer=None if infer is None else dict(infer), **options)

    return own


@functools.cache
def pyro_handle() -> Handle:
    """Return the handle bound to Pyro and torch."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro import poutine
    from pyro.ops.indexing import Vindex

    class Wishart(dist.Wishart):
        """Pyro's, without torch 2.13's search for singular draws, which takes the good ones for singular and warns."""

        def rsample(self, sample_shape: Any = (), max_try_correction: int | None = None) -> Any:
            """Draw by Bartlett's decomposition."""
            return self._bartlett_sampling(torch.Size(sample_shape))

    class MixtureSameFamily(dist.MixtureSameFamily):
        """Pyro's, with the support of its parts: torch's own has no transform, and NUTS and AutoGuides refuse it."""

        @property
        def support(self) -> Any:
            return self.component_distribution.support

    def array(value: Any) -> Any:
        if torch.is_tensor(value):
            return value
        # torch warns about arrays that it may not write to: pandas and JAX hand such out.
        return torch.from_numpy(np.require(np.asarray(value), requirements=["C", "W"]))

    def digamma(x: Any) -> Any:
        # torch 2.13 differentiates digamma to 5e-10 only (its trigamma is that far off below 20), so the argument is
        # shifted to where it is exact: psi(x) = psi(x + n) - sum_{i<n} 1 / (x + i).
        steps = torch.arange(32, dtype=x.dtype)
        return torch.digamma(x + len(steps)) - (1 / (x[..., None] + steps)).sum(-1)

    def scan(step: Callable[[Any], tuple[Any, Any]], state: Any, length: int) -> Any:
        found = []
        with poutine.block():
            for _ in range(length):
                state, outputs = step(state)
                found.append(outputs)
        return tuple(torch.stack(column) for column in zip(*found, strict=True))

    nn = SimpleNamespace(
        softmax=lambda x: torch.softmax(x, -1),
        log_softmax=lambda x: torch.log_softmax(x, -1),
        logsumexp=lambda x: torch.logsumexp(x, -1),
        one_hot=lambda x, size: x if x.is_floating_point() else torch.nn.functional.one_hot(x.long(), size),
        softplus=torch.nn.functional.softplus,
        sigmoid=torch.sigmoid,
        relu=torch.relu,
        tanh=torch.tanh,
        digamma=digamma,
        gammaln=torch.lgamma,
        cholesky=lambda x: torch.tril(x, -1) + torch.diag_embed(torch.exp(torch.diagonal(x, dim1=-2, dim2=-1))),
    )
    return Handle(
        name="pyro",
        sample=_with_own_infer(pyro.sample),
        plate=pyro.plate,
        param=lambda name, value: pyro.param(name, array(value)),
        deterministic=pyro.deterministic,
        # Every factor of ours is a differentiable function of its arguments, which is what has_rsample states.
        factor=lambda name, value: pyro.factor(name, value, has_rsample=True),
        mask=poutine.mask,
        scale=poutine.scale,
        dist=SimpleNamespace(**{**vars(dist), "MixtureSameFamily": MixtureSameFamily, "Wishart": Wishart}),
        xp=torch,
        array=array,
        nn=nn,
        stop_gradient=lambda x: x.detach(),
        vindex=Vindex,
        scan=scan,
    )


@functools.cache
def numpyro_handle() -> Handle:
    """Return the handle bound to NumPyro and JAX."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib import control_flow
    from numpyro.ops.indexing import Vindex

    from latentzoo.models.language.categoricals import ONE_HOT

    class Wishart(dist.Wishart):
        """NumPyro's, whose draws by Bartlett's decomposition are differentiable in its shape, too."""

        has_rsample = True

    def scan(step: Callable[[Any], tuple[Any, Any]], state: Any, length: int) -> Any:
        with numpyro.handlers.block(hide_fn=lambda site: site["type"] == "sample"):
            return control_flow.scan(lambda state, _: step(state), state, None, length=length)[1]

    nn = SimpleNamespace(
        softmax=lambda x: jax.nn.softmax(x, -1),
        log_softmax=lambda x: jax.nn.log_softmax(x, -1),
        logsumexp=lambda x: jax.scipy.special.logsumexp(x, -1),
        one_hot=lambda x, size: x if jnp.issubdtype(x.dtype, jnp.floating) else jax.nn.one_hot(x, size, dtype=int),
        softplus=jax.nn.softplus,
        sigmoid=jax.nn.sigmoid,
        relu=jax.nn.relu,
        tanh=jnp.tanh,
        digamma=jax.scipy.special.digamma,
        gammaln=jax.scipy.special.gammaln,
        cholesky=lambda x: (
            jnp.tril(x, -1)
            + jnp.exp(jnp.diagonal(x, axis1=-2, axis2=-1))[..., None] * jnp.eye(x.shape[-1], dtype=x.dtype)
        ),
    )
    return Handle(
        name="numpyro",
        sample=_with_own_infer(numpyro.sample),
        plate=numpyro.plate,
        param=lambda name, value: numpyro.param(name, jnp.asarray(value)),
        deterministic=numpyro.deterministic,
        factor=numpyro.factor,
        mask=numpyro.handlers.mask,
        scale=numpyro.handlers.scale,
        dist=SimpleNamespace(**{**vars(dist), "Wishart": Wishart, **ONE_HOT}),
        xp=jnp,
        array=jnp.asarray,
        nn=nn,
        stop_gradient=jax.lax.stop_gradient,
        vindex=Vindex,
        scan=scan,
    )


def handle(library: str, *, num_rows: int | None = None, total_rows: int | None = None) -> Handle:
    """Return the handle of a library, with the numbers of rows that a bound program was given."""
    bound = {"pyro": pyro_handle, "numpyro": numpyro_handle}[choose(library, LIBRARIES, "library")]()
    return replace(bound, num_rows=num_rows, total_rows=total_rows)
