"""Gradient estimators in both libraries: bias against exact gradients, variance, seconds, and what precision costs."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from latentzoo.benchmarks import estimators_costs, estimators_evidence, estimators_normal, estimators_report
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit

SUITE = "gradient estimators: bias against exact gradients, variance, seconds, and what precision costs"


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each problem."""
    problems = {
        estimators_report.NORMAL: estimators_normal.rows,
        estimators_report.PCA: estimators_costs.probabilistic_pca,
        estimators_report.EARTHQUAKES: estimators_costs.earthquakes,
        estimators_report.ONE_HOT: estimators_costs.one_hot,
        estimators_report.SIGNAL: estimators_costs.signal,
        estimators_report.EVIDENCE: estimators_evidence.rows,
    }
    for name, rows in problems.items():
        yield Unit(name, partial(rows, context))


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return what is measured and how, and for each problem its tables and its picture."""
    return estimators_report.section(rows, folder)
