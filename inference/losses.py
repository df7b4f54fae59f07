"""The loss that suits a model and its guide, for the SVI of either library."""

from typing import Any

from latentzoo.inference import estimators


class Losses:
    """The loss under which a model and its guide are exact in their discrete sites, for each library.

    estimator: one of `estimators.ESTIMATORS` by its name, or an instance: how the gradient is estimated; by default as
    the library does it. Other keywords (`num_particles`, ...) go to the library's class.
    """

    def __init__(self, kind: str, max_plate_nesting: int, rows: tuple[str, ...]):
        self._kind, self._nesting, self._rows = kind, max_plate_nesting, rows

    def pyro(self, estimator: Any = None, **options: Any) -> Any:
        """Return the loss for `pyro.infer.SVI`."""
        from pyro.infer import Trace_ELBO

        from latentzoo.inference.automatic_pyro import enumerated_elbo

        if estimator is not None:
            return self._estimating("pyro", estimator, **options)
        loss = enumerated_elbo() if self._kind == "enumerated" else Trace_ELBO
        return loss(max_plate_nesting=self._nesting, **options)

    def numpyro(self, estimator: Any = None, **options: Any) -> Any:
        """Return the loss for `numpyro.infer.SVI`."""
        from numpyro.infer import Trace_ELBO

        from latentzoo.inference.automatic_numpyro import enumerated_elbo

        if estimator is not None:
            return self._estimating("numpyro", estimator, **options)
        if self._kind == "enumerated":
            return enumerated_elbo()(max_plate_nesting=self._nesting, **options)
        return Trace_ELBO(**options)

    def _estimating(self, library: str, estimator: Any, num_particles: int = 1) -> Any:
        return estimators.loss(
            library, estimator, num_particles=num_particles, rows=self._rows, max_plate_nesting=self._nesting
        )
