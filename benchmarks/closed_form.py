"""The closed form of every model, fitted to data that its own story made and to data that the user names."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentzoo.benchmarks.data_sets import Source, Task, sources
from latentzoo.benchmarks.report import by_data_set, link, mark, number, table
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.runner import Context, Unit
from latentzoo.inference import fit as fitting
from latentzoo.inference import pictures
from latentzoo.inference.arviz_export import affordable_draws
from latentzoo.inference.relabel import permutation, relabelled
from latentzoo.inference.result import Fit
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import Note
from latentzoo.models.language.files import atomic_path

SUITE = "fits by the closed forms: how good, how fast, and their pictures"
NUM_ROWS = {True: 2_000, False: 50_000}  # quick or not
NUM_RESTARTS = {True: 5, False: 20}
NUM_STEPS = 5_000
NUM_DRAWS = 1_000  # of the posterior, for its means and sds
CERTAIN = 30.0  # logits of a component that is known


def units(context: Context) -> Iterator[Unit]:
    """Yield a unit for each entry's simulated data, half as many rows again held out, and for each named data set."""
    size = NUM_ROWS[context.quick]
    for source in sources(context, size, num_held_out=size // 2):
        yield Unit(source.name, partial(_fitted, source, context))


def _fitted(source: Source, context: Context) -> Iterator[Row]:
    yield from _measure(source.load(), context)


# --- what is measured -----------------------------------------------------------------------------------------------


def _measure(task: Task, context: Context) -> Iterator[Row]:
    row = partial(Row, "closed_form", entry=task.zoo.name, variant=task.options, data=task.name)
    fit = _fit(task, num_restarts=NUM_RESTARTS[context.quick], seed=context.seed)
    seconds, ended = fit.seconds, [restart.elbo for restart in fit.restarts]
    best = sum(fit.elbo - elbo <= 1e-6 * abs(fit.elbo) for elbo in ended)
    yield row(fit.objective, value=fit.elbo, unit="nats", ok=bool(np.isfinite(fit.elbo)), note=task.about)
    yield row(
        f"restarts at this {fit.objective}",
        value=best,
        reference=len(ended),
        note=f"the worst is at {number(min(ended))}",
    )
    yield row("converged", value=float(fit.converged), ok=fit.converged, note=fit.reason)
    yield row("steps", value=fit.num_steps)
    yield row("time of the best restart", value=seconds, unit="s")
    yield row("time per step", value=1e3 * seconds / fit.num_steps, unit="ms")
    if task.zoo.has_rows:
        yield _density(row, task, fit)
    if task.truth is not None:
        yield from _against_truth(row, task, fit, task.truth)
    if task.truth is not None:
        yield from _recovery(row, fit, task.truth)
    paths = _write(fit, context.folder / "closed_form" / task.zoo.name / task.name)
    yield row("files", value=len(paths), note=", ".join(path.name for path in paths))


def _fit(task: Task, **options: Any) -> Fit:
    """Fit by the model's first method; whether it converged is a row, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        return fitting.fit(task.zoo, task.data, prior=task.prior, num_steps=NUM_STEPS, progress=False, **options)


def _density(row: "partial[Row]", task: Task, fit: Fit) -> Row:
    """Return the log density of held-out rows where there are any, beside what the truth itself gives them."""
    if task.held_out is None or task.truth is None:
        found = fit.evaluate()
        return row("log density per row, of the fitted rows", value=found["log_density_per_row"], unit="nats")
    found = fit.evaluate(task.held_out)
    truth = float(fit.log_likelihood(task.held_out, task.truth).mean())
    error = truth - found["log_density_per_row"]
    note = "the reference is the density under the true parameters"
    name = "log density per row, of held-out rows"
    return row(name, value=found["log_density_per_row"], unit="nats", reference=truth, error=error, note=note)


def _against_truth(row: "partial[Row]", task: Task, fit: Fit, truth: dict[str, np.ndarray]) -> Iterator[Row]:
    """Yield how the fit compares with one that starts at the truth, and with the truth itself."""
    start = _start_at_truth(task, fit, truth)
    if start is not None:
        reference = _fit(task, init=start).elbo
        short = reference - fit.elbo
        reached = short <= 1e-6 * abs(reference)
        note = "reached" if reached else "a poorer optimum: more restarts may find the better one"
        name = f"{fit.objective}, beside a fit that starts at the truth"
        yield row(name, value=fit.elbo, unit="nats", reference=reference, error=short, note=note)


def _start_at_truth(task: Task, fit: Fit, truth: dict[str, np.ndarray]) -> Params | None:
    """Return the parameters after an M step from the true discrete sites, where the guide has free logits for them."""
    zoo, size = task.zoo, contract.num_rows(task.data)
    states = {field: truth.get(field.removesuffix("_logits")) for field in zoo.guide_room.LOCAL}
    one_hot = np.eye(getattr(zoo.spec, "num_components", 0))
    local = {
        field: CERTAIN * one_hot[np.asarray(state[:size], dtype=int)]
        for field, state in states.items()
        if field.endswith("_logits") and state is not None and len(one_hot)
    }
    if not local or len(local) < len(states):
        return None
    params = fit.params._replace(phi=fit.params.phi._replace(**local))
    stats = zoo.closed_form.e_step(params, task.data, fit.prior, zoo.spec)
    return zoo.closed_form.m_step(stats, params, fit.prior, zoo.spec)


def _recovery(row: "partial[Row]", fit: Fit, truth: dict[str, np.ndarray]) -> Iterator[Row]:
    """Yield how far the sites of each component are from the truth, the labels matched as well as can be."""
    dims, plate = fit.entry.dims(), fit.entry.exchangeable(fit.prior)
    found = fit.posterior(NUM_DRAWS, fit.seed) if plate is not None else {}
    draws = {site: values for site, values in found.items() if site in truth}
    order = permutation(draws, truth, dims, plate)
    for site, values in relabelled(draws, order, dims, plate).items():
        if plate not in dims[site]:
            continue
        gap, sd = values.mean(0) - truth[site], values.std(0)
        distance = np.sqrt((gap**2).reshape(len(gap), -1).sum(1).mean())
        note = "" if fit.is_point else f"in posterior standard deviations {_rms(gap / sd):.2f}, where 1 is expected"
        yield row(f"{site}: distance to the truth", value=float(distance), note=note)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _write(fit: Fit, folder: Path) -> list[Path]:
    """Write the pictures, the fit and its posterior draws, where it has a posterior that is not too large."""
    paths = [*pictures.save(fit, folder), fit.save(folder / "fit.npz")]
    if not fit.is_point and (num_draws := affordable_draws(fit)):
        paths.append(folder / "posterior.nc")
        with atomic_path(paths[-1]) as temporary:
            fit.to_arviz(num_draws=num_draws, seed=fit.seed).to_netcdf(str(temporary))
    return paths


# --- the report -----------------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], folder: Path) -> str:
    """Return a table for each data set, with its pictures."""
    intro = (
        "The ELBO is a lower bound on the log evidence, every constant kept: of two fits of the same model to the same"
        " data, the higher is the better. Of restarts that end lower, another optimum is to blame. The log density of"
        " rows that the fit has not seen comes near the truth's own where the model was learnt; the distance to the"
        " truth is the root mean square over components, and a few posterior standard deviations where q is honest."
    )
    return "\n\n".join([intro, *(_data_set(*key, group, folder) for key, group in by_data_set(rows).items())])


def _data_set(entry: str, data: str, rows: list[Row], folder: Path) -> str:
    lines = [
        [row.quantity, f"{number(row.value)} {row.unit}".strip(), number(row.reference), mark(row.ok), row.note]
        for row in rows
        if row.quantity != "files"
    ]
    place = Path("closed_form") / entry / data
    links = [f"!{link(f'{path.stem} of {entry}, {data}', place / path.name)}" for path in _png(folder / place)]
    written = [name for name in ("fit.npz", "posterior.nc") if (folder / place / name).exists()]
    files = "Files: " + ", ".join(link(name, place / name) for name in written)
    body = table(["quantity", "value", "reference", "holds", "note"], lines)
    return "\n\n".join([f"### {entry}, {data}", rows[0].variant, body, *links, files])


def _png(folder: Path) -> list[Path]:
    """Return the pictures, a model's own first."""
    return sorted(folder.glob("*.png"), key=lambda path: (path.stem == "elbo", path.name))
