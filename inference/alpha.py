"""The divergences between exclusive and inclusive: Minka's D_alpha(p || q), as alpha goes from 0 to 1.

D_alpha(p || q) = (1 - int p^alpha q^(1 - alpha)) / (alpha (1 - alpha)) (Minka, 2005, equation 3, at integrals of one).
It is lowest where the variational Renyi bound (1 / alpha) log E_q (p / q)^alpha is highest: that of order 1 - alpha in
the notation of Li & Turner (2016, equation 6). As alpha tends to 0 this is the method "ascent", as it tends to 1
"moments".
"""

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from latentzoo.inference.ascent import LIBRARIES, NUM_STEPS, climb
from latentzoo.inference.run import Step
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

__all__ = ["LIBRARIES", "NUM_STEPS", "Settings", "steps"]

LEAST, MOST = 1e-6, 1.0 - 1e-6  # beyond, rounding is all that is left of a difference


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen.

    alpha: of D_alpha(p || q), between 0, the exclusive divergence, and 1, the inclusive one.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not LEAST <= self.alpha <= MOST:
            raise UserError(f"alpha is {self.alpha!r}: it must be a number above 0 and below 1, by {LEAST:g} at least")


def steps(
    closed_form: ModuleType, data: Any, prior: Any, spec: Any, params: Params, *, settings: Settings, tol: float
) -> Iterator[Step]:
    """Climb the variational Renyi bound, over 1 - alpha, until it rises by less than `tol` times itself.

    closed_form: the module with `renyi_bound`. The steps carry no bound: the loop evaluates the ELBO at each.
    """
    alpha = settings.alpha

    def objective(at: Params) -> tuple[float, Params]:
        bound, gradient = closed_form.renyi_bound(alpha, at, data, prior, spec)
        # Near 1 the bound is flat: it is log_evidence - (1 - alpha) times a divergence.
        return bound / (1.0 - alpha), contract.map_leaves(lambda _, leaf: leaf / (1.0 - alpha), gradient)

    return (step._replace(elbo=None) for step in climb(objective, params, tol))
