"""What the notes get wrong about samplers, by SciPy's quantiles and a complex step."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from latentzoo.inference.samplers import exponential, straight_through

Check = Callable[..., None]


def test_samplers_straight_through(check: Check) -> None:
    """The gradient must be that of the relaxed draw: by a complex step, which has no rounding error to speak of."""
    noise, logits, temperature = np.array([0.3, 0.6, 0.5]), np.array([0.2, -0.1, 0.4]), 0.5
    reward = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)

    def slope_of(draw: Callable[..., torch.Tensor]) -> tuple[float, float]:
        leaf = torch.tensor(logits, requires_grad=True)
        value = (reward * draw(torch.from_numpy(noise), leaf, temperature)).sum() + 0.0 * leaf.sum()
        return value.item(), torch.autograd.grad(value, leaf)[0][1].item()

    def argmax(noise: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        return torch.nn.functional.one_hot((logits - torch.log(-torch.log(noise))).argmax(), 3).double()

    gumbel = stats.gumbel_r.ppf(noise)
    exponentials = np.exp((logits + 1e-30j * np.eye(3)[1] + gumbel) / temperature)
    relaxed = float((reward.numpy() @ exponentials / exponentials.sum()).imag / 1e-30)
    (value, flat), (kept, slope_) = slope_of(argmax), slope_of(straight_through)
    chosen = float(reward[int(np.argmax(logits + gumbel))])
    check(
        ("reward of the draw", value, kept, chosen, 0.0),
        ("its slope by the second logit", flat, slope_, relaxed, 1.0),
    )


def test_samplers_exponential(check: Check) -> None:
    """A function without a body returns None, which NumPy takes for not a number."""

    def empty(noise: np.ndarray, rate: float) -> None: ...

    rows = []
    for noise in (0.1, 0.9):
        nothing = float(np.array(empty(np.array(noise), 2.0), dtype=float))
        drawn, truth = float(exponential(np.array(noise), 2.0)), stats.expon.ppf(noise, scale=0.5)
        rows.append((f"draw of Exponential(2) at noise {noise}", nothing, drawn, truth, 1.0))
    check(*rows)


def test_samplers_shape(check: Check) -> None:
    """What is left of (N, 1) observations minus (N,) draws is a table of all pairs."""

    def flat(noise: np.ndarray, rate: float) -> np.ndarray:
        return exponential(noise, rate)[:, 0]  # where noise's own shape, (N, 1), is promised

    rows = []
    for size, margin in ((1, 0.0), (5, 19.0)):
        noise = np.linspace(0.1, 0.9, size)[:, None]
        observed = stats.expon.ppf(noise, scale=0.5)
        notes, zoo = ((observed - draw(noise, 2.0)).size for draw in (flat, exponential))
        rows.append((f"numbers in x - z, N = {size}", notes, zoo, size, margin))
    notes, zoo = (np.abs(observed - draw(noise, 2.0)).max() for draw in (flat, exponential))
    rows.append(("largest, where x = z", notes, zoo, 0.0, 1.0))
    check(*rows)
