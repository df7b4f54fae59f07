"""The one computation behind every exponential-family mixture, and who runs it.

With natural parameters `W` (a column a component) and sufficient statistics `T(x)` (a column a row of the data), the
logits of the responsibilities `R` are `W' T`. Their log normaliser is the log likelihood of point parameters (EM) or
the local part of a bound (expected parameters, CAVI), and its gradient with respect to `W` is `T R'`, the expected
statistics that the next M-step needs. Both are sums over rows, so neither rows x components nor rows x features is
ever in memory: each block of rows lives and dies in a core's cache.

`mixture_numpy` is the reference, and the fallback where numba is not installed; `mixture_numba` is the same for CPUs,
`mixture_jax` for accelerators and several devices, and where derivatives are taken automatically.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from latentzoo.inference.arrays import namespace
from latentzoo.inference.kernels import mixture_numpy
from latentzoo.inference.kernels.executors import runs_numba
from latentzoo.inference.kernels.mixture_numpy import MixtureSums
from latentzoo.inference.kernels.moments import Moments


def mixture_sums(moments: Moments, natural_parameters: Float[Any, "features components"]) -> MixtureSums:
    """Return the log normaliser and the expected sufficient statistics of a mixture, summed over rows.

    NumPy arrays go block by block through every core that this process may use, by numba or NumPy as
    `kernels/executors.py` has it; the result does not depend, to the bit, on how many cores there are. JAX arrays go
    through a scan, over all devices that the rows are spread over, which can be jitted and differentiated. Float32 rows
    are computed in float32, all others in float64; the totals of NumPy arrays are float64 in either case.

    Parameters
    ----------
    moments: the rows, and which sufficient statistics they have.
    natural_parameters: finite, but for -inf in the first row, which marks a component of weight zero: it is left out,
        with responsibilities and statistics of exactly zero. A row that no component explains has log normaliser -inf
        and adds nothing to the statistics.

    Raises
    ------
    ValueError: `moments` and `natural_parameters` differ in the number of features.
    """
    if len(natural_parameters) != moments.num_features:
        raise ValueError(f"rows of {moments.num_features} features mismatch {len(natural_parameters)} parameters")
    if any(namespace(array) is not np for array in (moments.x, moments.centre, natural_parameters)):
        from latentzoo.inference.kernels import mixture_jax

        return mixture_jax.sums(moments, natural_parameters)
    live = natural_parameters[0] != -np.inf
    found = _numpy_sums(_as_floats(moments), natural_parameters[:, live])
    statistics = np.zeros(natural_parameters.shape)
    statistics[:, live] = found.statistics
    return MixtureSums(found.log_normaliser, statistics)


def _numpy_sums(moments: Moments, natural: Float[np.ndarray, "features components"]) -> MixtureSums:
    num_rows = len(moments.x)
    if natural.shape[1] == 0 or num_rows == 0:
        nothing = np.float64(-np.inf if num_rows else 0.0)
        return MixtureSums(nothing, np.zeros(natural.shape))
    if runs_numba(num_rows):
        from latentzoo.inference.kernels import mixture_numba

        return mixture_numba.sums(moments, natural)
    return mixture_numpy.sums(moments, natural)


def _as_floats(moments: Moments) -> Moments:
    """Return the rows in one precision of their own: single or double."""
    parts = [moments.x] if moments.more is None else [moments.x, moments.more]
    dtype = np.result_type(*parts, np.float32)
    more = None if moments.more is None else moments.more.astype(dtype, copy=False)
    return moments._replace(x=moments.x.astype(dtype, copy=False), more=more)
