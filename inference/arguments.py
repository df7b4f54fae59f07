"""What an entry asks of a prior and of params: each field that its Spec needs, no other, and their shapes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry


def prior(entry: "Entry", given: Any, default: Any, data: Any) -> Any:
    """Return a prior as arrays, checked against the model's default, and against the sizes of the data, if any.

    Raises
    ------
    UserError: a field is missing, has no place in this model, or has another shape.
    """
    if all(value is kept for value, kept in zip(given, entry.without_priors(given), strict=True)):
        default = entry.without_priors(default)
    for field, value, usual in zip(given._fields, given, default, strict=True):
        if value is None and usual is not None:
            raise UserError(f"prior.{field} is missing: this model ({entry.spec}) needs it; zoo.prior(data) gives one")
        if value is not None and usual is None:
            raise UserError(f"prior.{field} has no place in this model ({entry.spec}): leave it out")
    checked = contract.check(given, entry.spec, "prior", contract.sizes(data))
    found, wanted = contract.leaves(checked), contract.leaves(default)
    for field in [*wanted, *found] if data is not None else ():
        if field not in found or field not in wanted:
            known = "is missing" if field in wanted else "has no place in this model"
            raise UserError(f"prior.{field} {known}: there is {', '.join(wanted)}")
        if np.shape(found[field]) != np.shape(wanted[field]):
            raise UserError(f"prior.{field} has shape {np.shape(found[field])}: give {np.shape(wanted[field])}")
    return checked


def params(entry: "Entry", given: Params, like: Params | None) -> Params:
    """Return params as arrays, checked against their declared shapes, and against those of `like`.

    Raises
    ------
    UserError: a field that this Spec needs is missing, has no place in it, or has another shape.
    """
    if not isinstance(given, Params):
        raise UserError(f"params is a {type(given).__name__}: give zoo.init(data, prior), or Params(theta, phi)")
    sizes: dict[str, int] = {}
    trees = zip(Params._fields, given, (entry.Theta, entry.Phi), strict=True)
    checked = completed(entry, Params(*(_tree(entry, role, tree, kind, sizes) for role, tree, kind in trees)))
    found, wanted = contract.leaves(checked), contract.leaves(like or checked)
    local = {f"phi.{field}" for field in entry.guide_room.LOCAL}
    for name in [*wanted, *found]:
        if name not in found:
            raise UserError(f"params.{name} is missing: this model ({entry.spec}) needs it")
        if name not in wanted and name not in local:
            raise UserError(f"params.{name} has no place in this model ({entry.spec}): leave it out")
        if name in wanted and np.shape(found[name]) != np.shape(wanted[name]):
            raise UserError(f"params.{name} has shape {np.shape(found[name])}: give {np.shape(wanted[name])}")
    if hasattr(entry.guide_room, "check_params"):
        entry.guide_room.check_params(checked, entry.spec)
    return checked


def completed(entry: "Entry", given: Params) -> Params:
    """Return the params with an empty phi beside point parameters: every q is then at its optimum."""
    if given.theta is None or given.phi is not None or set(entry.Phi._fields) - set(entry.Phi._field_defaults):
        return given
    return given._replace(phi=entry.Phi())


def _tree(entry: "Entry", role: str, tree: Any, kind: Any, sizes: dict[str, int]) -> Any:
    if tree is None:
        return None
    if not isinstance(tree, kind):
        raise UserError(f"params.{role} is a {type(tree).__name__}: give {entry.name}'s {kind.__name__}")
    return contract.check(tree, entry.spec, f"params.{role}", sizes)
