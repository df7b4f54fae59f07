"""Neural networks as nested parameters: layers by name, with the same names and shapes in both libraries.

A network is a chain of affine maps with tanh between them. One that takes patches first, by indices that are known
beforehand, is a convolution: so one chain serves both kinds, and its derivative by hand is one formula.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Handle

KERNEL = 3  # pixels of a patch, each way
MOST_UNITS = 100_000  # of a layer


class Layer(NamedTuple):
    """An affine map, x weight + bias; the bias is of each output, or of each number at each place."""

    weight: Float[Any, "inputs outputs"]
    bias: Float[Any, "biases"]


Layers = dict[str, Layer]


class Step(NamedTuple):
    """One link of the chain.

    name: of its layer. inputs, outputs, biases: the sizes of its map. patches: for each place, which of the numbers
    that come in are its patch, the number after the last for what lies beyond the edge; None where there is one place,
    which takes all. active: whether tanh follows.
    """

    name: str
    inputs: int
    outputs: int
    biases: int
    patches: Int[np.ndarray, "places inputs"] | None
    active: bool


Chain = tuple[Step, ...]


# --- which networks there are -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> Chain:
    """Return a multilayer perceptron with these hidden layers; without any it is one affine map."""
    sizes = (inputs, *hidden, outputs)
    names = [*(f"hidden{index}" for index in range(len(hidden))), "out"]
    return tuple(
        Step(name, before, after, after, None, active=name != "out")
        for name, (before, after) in zip(names, itertools.pairwise(sizes), strict=True)
    )


@functools.lru_cache(maxsize=64)
def convolution(side: int, channels: tuple[int, ...], outputs: int) -> Chain:
    """Return a network of images, side x side pixels in a row: convolutions of stride two, then one affine map."""
    steps, depth = [], 1
    for index, after in enumerate(channels):
        patches = _patches(side, depth, stride=2)
        steps.append(Step(f"conv{index}", KERNEL**2 * depth, after, after, patches, active=True))
        side, depth = math.ceil(side / 2), after
    return (*steps, Step("out", side**2 * depth, outputs, outputs, None, active=False))


@functools.lru_cache(maxsize=64)
def deconvolution(inputs: int, channels: tuple[int, ...], side: int) -> Chain:
    """Return a network into images, the mirror of `convolution`: each step doubles the side, by copies of pixels.

    The last has a bias for each pixel.
    """
    sides = [side]
    for _ in channels:
        sides.append(math.ceil(sides[-1] / 2))
    depths = [1, *channels]
    size = sides[-1] ** 2 * depths[-1]
    steps = [Step("in", inputs, size, size, None, active=True)]
    for index in reversed(range(len(channels))):
        patches = _patches(sides[index], depths[index + 1], stride=1, source=sides[index + 1])
        before, after = KERNEL**2 * depths[index + 1], depths[index]
        if index:
            steps.append(Step(f"conv{index}", before, after, after, patches, active=True))
        else:
            steps.append(Step("out", before, after, side**2 * after, patches, active=False))
    return tuple(steps)


def _patches(side: int, depth: int, stride: int, source: int | None = None) -> Int[np.ndarray, "places inputs"]:
    """Return which numbers of an image each patch has: about every `stride`-th pixel, with zeros beyond the edge.

    source: the side of a smaller image that is seen as if its pixels were doubled. Numbers are by row, column, channel.
    """
    reach = KERNEL // 2
    middles = np.arange(0, side, stride)
    pixels = middles[:, None] + np.arange(-reach, reach + 1)  # (places, kernel) along one axis
    outside = (pixels < 0) | (pixels >= side)
    if source is not None:
        side, pixels = source, np.minimum(pixels // 2, source - 1)
    row, column = pixels[:, None, :, None], pixels[None, :, None, :]
    channel = np.arange(depth)
    index = (row * side + column)[..., None] * depth + channel
    beyond = (outside[:, None, :, None] | outside[None, :, None, :])[..., None]
    index = np.where(beyond, side * side * depth, index)
    return index.reshape(len(middles) ** 2, KERNEL**2 * depth)


def check_hidden(hidden: tuple[int, ...]) -> None:
    """Raise `UserError` where these are no sizes of layers."""
    for size in hidden:
        if not 1 <= size <= MOST_UNITS:
            raise UserError(f"hidden has a layer of {size}: it must have from 1 to {MOST_UNITS:,} units")


def image_side(num_pixels: int, name: str) -> int:
    """Return the side of a square image of so many pixels.

    Raises
    ------
    UserError: there is none.
    """
    side = math.isqrt(num_pixels)
    if side * side != num_pixels:
        raise UserError(f"{name} has {num_pixels} numbers a row: a convolution needs square images")
    return side


# --- running and starting ---------------------------------------------------------------------------------------------


def run(ppl: Handle, chain: Chain, layers: Layers, x: Float[Any, "*batch inputs"]) -> Float[Any, "*batch outputs"]:
    """Return what a network makes of its input, whatever batch stands to its left."""
    for step in chain:
        layer = layers[step.name]
        if step.patches is not None:
            zero = ppl.xp.zeros_like(x[..., :1])
            x = ppl.xp.concatenate([x, zero], -1)[..., ppl.array(step.patches)]
        x = x @ layer.weight
        if step.biases == step.outputs:
            x = x + layer.bias
        if step.patches is not None:
            x = x.reshape((*x.shape[:-2], x.shape[-2] * x.shape[-1]))
        if step.biases != step.outputs:
            x = x + layer.bias
        if step.active:
            x = ppl.nn.tanh(x)
    return x


def start(chain: Chain, rng: np.random.Generator) -> Layers:
    """Return random layers, of the size that keeps the variance of what passes through (Glorot & Bengio, 2010)."""
    return {
        step.name: Layer(
            rng.normal(size=(step.inputs, step.outputs)) * np.sqrt(2.0 / (step.inputs + step.outputs)),
            np.zeros(step.biases),
        )
        for step in chain
    }


def check_layers(chain: Chain, layers: Layers, name: str) -> None:
    """Raise `UserError` where layers are not those of a chain; `name` says of which."""
    for step in chain:
        if step.name not in layers:
            raise UserError(f"{name} lacks the layer {step.name!r}: there are {', '.join(step.name for step in chain)}")
        wanted = Layer(weight=(step.inputs, step.outputs), bias=(step.biases,))
        for field, value, shape in zip(Layer._fields, layers[step.name], wanted, strict=True):
            if np.shape(value) != shape:
                raise UserError(f"{name}.{step.name}.{field} has shape {np.shape(value)}: give {shape}")
