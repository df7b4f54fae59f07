"""How deep models are trained: the settings of SVI in minibatches and float32, and what is watched meanwhile."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference import deep
from latentzoo.inference.svi import Dtype, Schedule, Settings
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

BATCH_ROWS = 128
WATCHED_ROWS = 1000  # of validation data, at every look
WATCHED_DRAWS = 2


@dataclasses.dataclass(frozen=True)
class Training(Settings):
    """What can be chosen, for a model that is trained on minibatches.

    batch_rows: the rows of a minibatch; 128 by default, or all where they are fewer.
    binarise: at each step draw the features anew as 0 or 1, with their values as the probabilities of 1.
    patience: steps without a better bound of the validation data, after which a run stops.
    """

    learning_rate: float = 0.003
    schedule: Schedule = "cosine"
    dtype: Dtype = "float32"
    binarise: bool = False
    patience: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        contract.check_whole("patience", self.patience)

    def check(self, zoo: "Entry") -> None:
        """Raise `UserError` where features are no probabilities."""
        super().check(zoo)
        if self.binarise and zoo.spec.likelihood != "bernoulli":
            raise UserError(f"binarise is for likelihood='bernoulli': it is {zoo.spec.likelihood!r}, leave it out")

    def rows_of_a_batch(self, total: int) -> int:
        """Return the rows of a minibatch of so many rows."""
        return super().rows_of_a_batch(total) or min(BATCH_ROWS, total)

    def prepared(self, data: Any, rng: np.random.Generator) -> Any:
        """Return the rows of some steps, or those watched, with features drawn as 0 or 1 where they are to be."""
        return data._replace(x=binarised(data.x, rng)) if self.binarise else data


def watched(zoo: "Entry", data: Any, prior: Any, settings: Training, seed: int) -> Callable[[Params], float]:
    """Return the bound of validation data as a function of the parameters: of some of the rows, with the same noise."""
    rng = np.random.default_rng([seed, 2])
    seen = settings.prepared(contract.draw_rows(data, WATCHED_ROWS, rng), rng)
    return lambda params: deep.bound(zoo, seen, prior, params, num_draws=WATCHED_DRAWS, seed=seed)[0]


def binarised(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return features drawn as 0 or 1, with their values as the probabilities of 1, in their own precision."""
    x = np.asarray(x)
    uniform = rng.random(x.shape, dtype=np.float32 if x.dtype == np.float32 else np.float64)
    return (uniform < x).astype(x.dtype)
