"""What is known in closed form, without a loop: an optimum of the likelihood or of a divergence, an exact posterior.

The method bears the name of the function that has it: "exact", "mle", "moments" of a closed form are its
`exact`, `mle`, `moments`.
"""

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from latentzoo.inference.run import Step
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import Library

NUM_STEPS = 1
LIBRARIES: tuple[Library, ...] = ()  # it runs on arrays alone


@dataclasses.dataclass(frozen=True)
class Settings:
    """Nothing can be chosen."""


def steps(
    closed_form: ModuleType, method: str, given: Params | None, data: Any, prior: Any, spec: Any
) -> Iterator[Step]:
    """Yield the one step; the loop evaluates the bound there.

    given: the parameters that the user gave to start from, which matter to a method that does not move them.
    """
    params = getattr(closed_form, method)(given, data, prior, spec)
    yield Step(1, params, 1, converged="it is exact, in closed form")
