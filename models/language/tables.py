"""Tables of probabilities at points: kept as logits, whose softmax along the last axis they are."""

from typing import Any

import numpy as np

from latentzoo.models.language.contract import leaves
from latentzoo.models.language.errors import UserError

FLOOR = 1e-300  # what a probability of zero is written as, so that its logarithm is finite
IMPOSSIBLE = 1e-290  # what is smaller is zero: a sum of such floors


def logits_of(probs: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities, finite where these are zero."""
    return np.log(np.maximum(probs, FLOOR))


def check_maximum(prior: Any) -> None:
    """Raise `UserError` where the density of a Dirichlet prior has no maximum, which MAP needs: below one."""
    for field, value in leaves(prior, "prior").items():
        if np.min(value) < 1.0:
            at = tuple(int(index) for index in np.argwhere(np.less(value, 1.0))[0])
            where = f"{field}[{', '.join(map(str, at))}] is {value[at]:g}"
            raise UserError(f"{where}: map needs concentrations of 1 or more, below which there is no maximum")
