"""Binding: a write-once model or guide becomes a plain callable of Pyro or of NumPyro.

The bound callable registers each array of its parameters as the library's own `param` site, named by its path
(`theta.decoder.0.weight`, `phi.loc_mean`): real-valued, so that both libraries optimise the same numbers.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from latentzoo.models.language.contract import Params, leaves, map_leaves
from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.ppl import LIBRARIES, Handle, Library, handle

Program = Callable[..., Any]


class Bound:
    """A model or a guide with its Spec, as `.pyro` and `.numpyro` callables.

    Each is called `(data, prior, params=None, *, num_rows=None, total_rows=None)`: `num_rows` says how many rows to
    draw when nothing is observed, `total_rows` scales a minibatch up to the whole data.
    """

    def __init__(self, program: Program, spec: Any, kinds: Mapping[str, Any], owner: str):
        """Bind a program whose parameters, by their role (theta, phi), are of these kinds."""
        self._program, self._spec, self._kinds, self._owner = program, spec, dict(kinds), owner
        self.__doc__ = program.__doc__

    def on(self, library: Library) -> Program:
        """Return the callable of the library that is named."""
        return {"pyro": self.pyro, "numpyro": self.numpyro}[choose(library, LIBRARIES, "library")]

    def pyro(
        self,
        data: Any,
        prior: Any,
        params: Params | None = None,
        *,
        num_rows: int | None = None,
        total_rows: int | None = None,
    ) -> Any:
        """Run in Pyro.

        Raises
        ------
        UserError: the parameter store holds a parameter of this name that was first made from other values.
        """
        ppl = handle("pyro", num_rows=num_rows, total_rows=total_rows)
        return self._run(ppl, _as_precise(data, params, ppl), prior, params, self._stored_param)

    def numpyro(
        self,
        data: Any,
        prior: Any,
        params: Params | None = None,
        *,
        num_rows: int | None = None,
        total_rows: int | None = None,
    ) -> Any:
        """Run in NumPyro."""
        ppl = handle("numpyro", num_rows=num_rows, total_rows=total_rows)
        return self._run(ppl, data, prior, params, ppl.param)

    def _run(self, ppl: Handle, data: Any, prior: Any, params: Params | None, param: Callable[[str, Any], Any]) -> Any:
        found = self._trees(params or Params())
        trees = [map_leaves(param, found[role], role) for role in self._kinds]
        return self._program(ppl, ppl.arrays(data), ppl.arrays(prior), *trees, self._spec)

    def _trees(self, params: Params) -> dict[str, Any]:
        """Return the parameters by their role; a guide whose parameters may all be left out has none of its own."""
        given = params._asdict()
        kind = self._kinds.get("phi")
        if kind is None:
            return given
        required = set(kind._fields) - set(kind._field_defaults)
        if params.phi is None and (required or (params.theta is None and kind._fields)):
            raise UserError(f"the guide of {self._owner} needs params.phi: pass zoo.init(data, prior), or a fit's")
        return given if params.phi is not None else {**given, "phi": kind()}

    def _stored_param(self, name: str, value: Any) -> Any:
        """Register a parameter in Pyro's global store, which would ignore a second initial value in silence."""
        import pyro

        # A tensor of its own: torch shares memory with NumPy, and Pyro's optimisers write in place.
        initial = handle("pyro").array(value).detach()
        param = pyro.param(name, initial.clone())
        leaf = pyro.get_param_store()._params.get(name)
        if leaf is None or param is not leaf:  # substituted by a handler: the store was not asked
            return param
        owner, first = getattr(leaf, "latentzoo_origin", (self._owner, None))
        if first is None:
            leaf.latentzoo_origin = (self._owner, initial.clone().numpy())
            same = leaf.shape == initial.shape
        else:
            same = owner == self._owner and np.array_equal(first, initial.numpy())
        if not same:
            raise UserError(
                f"Pyro's parameter store already holds {name!r}, made by {owner} from other params; "
                "call pyro.clear_param_store() before you start from new ones"
            )
        return param


def _as_precise(data: Any, params: Params | None, ppl: Handle) -> Any:
    """Return data whose floats are as wide as those of the parameters: torch multiplies no matrices of two types."""
    import torch

    types = {leaf.dtype for leaf in leaves(ppl.arrays(params)).values() if leaf.is_floating_point()}
    if not types:
        return data
    widest = functools.reduce(torch.promote_types, types)

    def widened(_: str, tensor: Any) -> Any:
        return tensor.to(widest) if tensor.is_floating_point() else tensor

    return map_leaves(widened, ppl.arrays(data))
