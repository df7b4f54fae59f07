"""The backward pass of neural networks, derived by hand, and of the likelihoods at their end.

A link of a chain is a = u W + b, h = tanh a, where u is what came in, or its patches. With bar for the derivative of a
scalar by each of them, backwards:

    (1)  a-bar = h-bar (1 - h^2)                        or h-bar, where no tanh follows
    (2)  W-bar = sum u' a-bar,  b-bar = sum a-bar       over the batch and the places
    (3)  u-bar = a-bar W'                               each number of a patch goes back to where it came from
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.networks import Chain, Layer, Layers, Step

Array = Any


class Tape(NamedTuple):
    """What the way forward leaves for the way back: of each link what came into its map, and what came out."""

    inputs: list[Array]
    outputs: list[Array]


def forward(chain: Chain, layers: Layers, x: Float[np.ndarray, "*batch inputs"]) -> tuple[Array, Tape]:
    """Return what a network makes of its input, and the tape.

    Raises
    ------
    UserError: the input has another number of features.
    """
    tape = Tape([], [])
    wanted = chain[0].inputs if chain[0].patches is None else int(chain[0].patches.max())
    if x.shape[-1] != wanted:
        raise UserError(f"data.x has {x.shape[-1]} features: these parameters are of {wanted}")
    for step in chain:
        if step.patches is not None:
            x = np.concatenate([x, np.zeros_like(x[..., :1])], -1)[..., step.patches]
        tape.inputs.append(x)
        layer = layers[step.name]
        x = x @ layer.weight
        if step.patches is not None:
            x = (x + layer.bias if step.biases == step.outputs else x).reshape(*x.shape[:-2], -1)
        if step.patches is None or step.biases != step.outputs:
            x = x + layer.bias
        if step.active:
            x = np.tanh(x)
        tape.outputs.append(x)
    return x, tape


def backward(
    chain: Chain, layers: Layers, tape: Tape, by_output: Float[np.ndarray, "*batch outputs"]
) -> tuple[Layers, Float[np.ndarray, "*batch inputs"]]:
    """Return the derivatives by the layers, summed over the batch, and by the input of each."""
    gradient: Layers = {}
    for index in reversed(range(len(chain))):
        step, u, h = chain[index], tape.inputs[index], tape.outputs[index]
        by_a = by_output * (1.0 - h * h) if step.active else by_output  # (1)
        by_map = by_a.reshape(*u.shape[:-1], step.outputs)
        weight = u.reshape(-1, step.inputs).T @ by_map.reshape(-1, step.outputs)
        gradient[step.name] = Layer(weight, by_a.reshape(-1, step.biases).sum(0))  # (2)
        by_output = by_map @ layers[step.name].weight.T  # (3)
        if step.patches is not None:
            by_output = _put_back(step, by_output, _width(chain, index, tape))
    return {step.name: gradient[step.name] for step in chain}, by_output


def _width(chain: Chain, index: int, tape: Tape) -> int:
    """Return how many numbers come into a link of the chain before patches are taken."""
    if index == 0:
        return int(chain[0].patches.max())  # type: ignore[union-attr]  # the number beyond the edge is the last
    return int(tape.outputs[index - 1].shape[-1])


def _put_back(step: Step, by_patches: Array, width: int) -> Array:
    """Return derivatives by numbers from those by the patches that hold them: each is the sum of its copies."""
    assert step.patches is not None
    places = step.patches.reshape(-1)
    inside = places < width
    rows = np.arange(len(places))
    copies = csr_array((np.ones(inside.sum()), (rows[inside], places[inside])), shape=(len(places), width))
    flat = by_patches.reshape(-1, len(places))
    return (copies.T @ flat.T).T.reshape(*by_patches.shape[:-2], width)
