"""A semi-supervised autoencoder: rows of a class and of latent coordinates, of which few have a label.

    label[n]  ~ Categorical(class_probs)                           y_n, seen where the row has a label
    latent[n] ~ Normal(0, I)                                       z_n, num_latents coordinates: all but the class
    x[n]      ~ Bernoulli(logits = decoder(latent[n], label[n]))   x_n, one value for each feature
             or Normal(decoder(latent[n], label[n]), noise_scale^2 I)

M2 of Kingma et al. (2014). The label goes into the networks as a vector that is 1 at its class and 0 elsewhere. A label
that is missing (-1) is latent, and summed out: right where labels are missing at random.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentzoo.models.language.contract import (
    Constraint,
    Reading,
    missing,
    optional,
    positive,
    shared,
    simplex,
    take_rows,
)
from latentzoo.models.language.deep import (
    DeepSpec,
    check_features,
    decoded,
    default_noise,
    noise_scale,
    observed,
    standard_normal,
)
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Layer
from latentzoo.models.language.ppl import ENUMERATE, RULED_OUT, Handle
from latentzoo.models.readers.idx import Part
from latentzoo.models.readers.labelled import NONE
from latentzoo.models.readers.rows import Options, digits, read_rows, some_labels, write_rows
from latentzoo.models.readers.table import names_of

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
MOST_CLASSES = 1000
DIGITS_LABELLED = 100  # labels that are kept of the data that the model brings

not_negative = Constraint("0 or more, and finite", lambda x: np.isfinite(x) & (x >= 0))


@dataclass(frozen=True)
class Spec(DeepSpec):
    """What changes the program, beside what `DeepSpec` says.

    hidden: the sizes of the hidden layers, of the encoder and the classifier in this order and of the decoder in the
        other; none: linear.
    num_classes: the number of classes, K.
    """

    num_classes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.num_classes <= MOST_CLASSES:
            raise UserError(f"num_classes is {self.num_classes}: it must be from 2 to {MOST_CLASSES:,}")


class Data(NamedTuple):
    """Rows of features, with the labels that there are.

    x: a row for each observation, a column for each feature: from 0 to 1 for "bernoulli".
    label: the class of each row, counted from 0; -1 where it is missing.
    columns: the names of the features, as `pack` makes an array of them.
    """

    x: Float[Any, "rows features"] = None
    label: Annotated[Int[Any, "rows"], missing] = None
    columns: Annotated[UInt8[Any, "characters"], optional, shared] = None


class Prior(NamedTuple):
    """Hyperparameters.

    class_probs: pi, how common each class is.
    noise_scale: the standard deviation of Gaussian noise that is not learnt.
    classification_weight: alpha, of log q(label given x) of the rows with a label, which is added to what is climbed:
        where it is not 0, that is no bound on the log evidence.
    """

    class_probs: Annotated[Float[Any, "num_classes"], simplex]
    noise_scale: Annotated[Float[Any, ""], positive]
    classification_weight: Annotated[Float[Any, ""], not_negative]


class Theta(NamedTuple):
    """Point parameters, all real-valued.

    decoder: the layers of the network from the latent coordinates and the label to the features.
    noise_log_scale: the logarithm of the standard deviation of Gaussian noise; None where it is not learnt.
    """

    decoder: dict[str, Layer]
    noise_log_scale: Annotated[Float[Any, ""], optional] = None


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about; what is known of a label is evidence on it."""
    with ppl.rows("rows", data):
        label = ppl.sample("label", ppl.dist.Categorical(prior.class_probs), infer=ENUMERATE)
        latent = ppl.sample("latent", standard_normal(ppl, spec.num_latents, prior.noise_scale))
        output = decoded(ppl, spec, theta.decoder, beside(ppl, latent, ppl.nn.one_hot(label, spec.num_classes)))
        seen = observed(ppl, spec.likelihood, output, noise_scale(ppl, prior, theta))
        x = ppl.sample("x", seen, obs=data.x)
        if data.label is not None:
            zero = ppl.xp.zeros_like(prior.class_probs[..., 0])
            ruled_out = (data.label >= 0) & (label != data.label)
            ppl.factor("evidence on label", ppl.xp.where(ruled_out, zero + RULED_OUT, zero))
    return Data(x, label if data.label is None else data.label, data.columns)


def beside(ppl: Handle, left: Any, right: Any) -> Any:
    """Return vectors side by side, each repeated along the batch dimensions that only the other one has.

    Those of the right, which may be whole numbers, become floats.
    """
    zero_left, zero_right = ppl.xp.zeros_like(left[..., :1]), ppl.xp.zeros_like(right[..., :1])
    return ppl.xp.concatenate([left + zero_right, right + zero_left], -1)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"latent": ("latents",), "x": ("features",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return classes that are equally common, a noise of half the spread of the data, and a bound as the objective."""
    probs = np.full(spec.num_classes, 1.0 / spec.num_classes)
    return Prior(probs, default_noise(None if data is None else data.x), np.array(0.0))


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: labels give the classes their names."""
    return None


# --- data -------------------------------------------------------------------------------------------------------------


def check_data(data: Data, spec: Spec) -> None:
    """Raise `UserError` where a value is none that the likelihood knows, or a label is of no class."""
    if data.x is not None:
        check_features(data.x, spec.likelihood)
    if data.label is not None and (wrong := np.asarray(data.label) >= spec.num_classes).any():
        row = int(np.flatnonzero(wrong)[0])
        known = f"a label is from 0 to {spec.num_classes - 1}, or -1 where it is missing"
        raise UserError(f"data.label[{row}] is {data.label[row]}: with num_classes={spec.num_classes} {known}")


def check_classes(data: Data, spec: Spec) -> None:
    """Raise `UserError` where some rows have a label, but none of them that of some class.

    Of data that are fitted: nothing would tie such a class to its number. A part of the data may lack a class.
    """
    if data.label is None or not (np.asarray(data.label) >= 0).any():
        return
    lacking = sorted(set(range(spec.num_classes)) - set(np.asarray(data.label).tolist()))
    if lacking:
        cure = "label a row of it, or take fewer classes with num_classes"
        raise UserError(f"no row of data.label has class {lacking[0]} of num_classes={spec.num_classes}: {cure}")


def read(
    path: str | PathLike[str],
    spec: Spec,
    *,
    columns: tuple[str, ...] | None = None,
    label: str | None = None,
    x: str | None = None,
    part: Part = "train",
    threshold: float | None = None,
    num_labelled: int | None = None,
    label_seed: int = 0,
    on_bad: Literal["error", "skip"] = "error",
) -> Reading:
    """Read a table in CSV, images in IDX or NPZ, or a folder of MNIST's; return them with a line on what was read.

    columns: the names of the features of a table, in the order wanted; without them, every column of numbers but the
        labels.
    label: the name of the column, or of the array of an NPZ file, that holds labels: whole numbers from 0, a cell empty
        and a number -1 where there is none. Without it, "label"; where there is none, no row has a label.
    x: the name of the array of an NPZ file that holds the features; without it "x", or the only one with rows.
    part: of the data set in a folder; with "train", the other one is kept apart to measure the fit on.
    threshold: a feature above it becomes 1, any other 0.
    num_labelled: keep so many labels, spread evenly over the classes, and hide the others; without it, keep them all.
    label_seed: the same seed, the same labels.
    on_bad: "error" refuses a table with cells that are no finite numbers or no labels, "skip" leaves their rows out and
        says so.
    """
    options = Options(columns, label, x, part, threshold, on_bad)
    reading = read_rows(Data, path, options, spec.num_classes)
    test = None if reading.test is None else _with_labels(reading.test)
    return _hidden(reading._replace(data=_with_labels(reading.data), test=test), num_labelled, label_seed)


def default_data(
    spec: Spec, *, num_labelled: int | None = DIGITS_LABELLED, label_seed: int = 0, **options: Any
) -> Reading:
    """Return scikit-learn's images of the digits below num_classes, of which 100 keep their labels.

    A tenth, every tenth row, is kept apart with all its labels: what the labels that are hidden are guessed as is
    measured on it.
    """
    found = digits(Data, spec.num_classes, **options)
    apart = np.arange(len(found.data.x)) % 10 == 0
    reading = found._replace(data=take_rows(found.data, ~apart), test=take_rows(found.data, apart))
    return _hidden(reading, num_labelled, label_seed)


def _with_labels(data: Data) -> Data:
    """Return data in which a row has the label -1 where there were none at all."""
    return data if data.label is not None else data._replace(label=np.full(len(data.x), NONE))


def _hidden(reading: Reading, num_labelled: int | None, seed: int) -> Reading:
    """Return what was read with so many labels left."""
    if num_labelled is None:
        return reading
    label = some_labels(reading.data.label, num_labelled, seed)
    summary = f"{reading.summary}, of which {num_labelled:,} are kept"
    return reading._replace(data=reading.data._replace(label=label), summary=summary)


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write what `read` reads without options: NPZ where the name ends so, else a table in CSV."""
    write_rows(data, path)


def options_like(data: Data) -> dict[str, Any]:
    """Return the options with which another file is read as these data were: the same columns, and all its labels."""
    return {"num_labelled": None} | ({} if data.columns is None else {"columns": names_of(data)})
