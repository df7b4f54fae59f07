"""What the commands do with what the user gave: the prior, the data to fit, the files of a fit."""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

import latentzoo as lz
from latentzoo.models.language.errors import UserError, choose
from latentzoo.options import options

if TYPE_CHECKING:
    from latentzoo.inference.comparison import Comparison
    from latentzoo.inference.registry import Entry
    from latentzoo.inference.result import Fit, Restart
    from latentzoo.models.language.ppl import Library


def prior_fields(zoo: "Entry", assignments: tuple[str, ...], data: Any = None) -> dict[str, Any]:
    """Return `field=number,...` as arrays, in the shapes that the fields have by default; one number fills a field."""
    import numpy as np

    usual, fields = zoo.prior(data), dict[str, Any]()
    for assignment in assignments:
        word, _, text = assignment.partition("=")
        name = choose(word.replace("-", "_"), zoo.Prior._fields, "field of the prior")
        _only_once(name, fields, "--prior")
        try:
            numbers = np.array([float(number) for number in text.split(",")])
        except ValueError:
            raise UserError(f"--prior {assignment}: write {name}=number, or numbers separated by commas") from None
        shape = np.shape(getattr(usual, name))
        numbers = np.full(shape, numbers[0]) if numbers.size == 1 else numbers
        fields[name] = numbers.reshape(shape) if numbers.size == np.prod(shape) else numbers
    return fields


def _only_once(name: str, found: dict[str, Any], option: str) -> None:
    if name in found:
        raise UserError(f"{option} gives {name} twice: give it once")


class Rows(NamedTuple):
    """The data of a fit: what is fitted, what is watched meanwhile, and what the fit is measured on; None: no such."""

    train: Any
    validation: Any = None
    test: Any = None


def rows(
    zoo: "Entry", paths: tuple[str, ...], seed: int, reader: dict[str, Any], prior: tuple[str, ...]
) -> tuple[Rows, str]:
    """Return the data to fit, read by these options of the reader or simulated, and one line on what they are."""
    if not zoo.has_rows:
        return Rows(zoo.check(None)), f"{zoo.name} observes nothing: there are no data"
    if len(paths) > 1 and not zoo.reads_many_files:
        raise UserError(f"--data is given {len(paths)} times: a fit is of one file")
    if paths or zoo.has_default_data:
        reading = zoo.reading((paths if zoo.reads_many_files else paths[0]) if paths else None, **reader)
        return Rows(reading.data, test=reading.test), reading.summary
    if reader:
        raise UserError(f"--{next(iter(reader)).replace('_', '-')} is for a file: name one with --data")
    data, _ = zoo.simulate(seed=seed, prior=zoo.prior(**prior_fields(zoo, prior)))
    return Rows(data), f"no --data: simulated data of {zoo.name}, seed {seed}"


def parted(given: Rows, part: float, seed: int) -> Rows:
    """Spare a part of the rows for the test and for validation, where there are none of their own; say how many."""
    from latentzoo.models.language import contract

    found = given
    for number, what in enumerate(("test", "validation")):
        if getattr(found, what) is None and part > 0.0:
            train, spared, _ = split(found.train, part, seed + number)
            found = found._replace(train=train, **{what: spared})
    if found is not given:
        sizes = [0 if data is None else contract.num_rows(data) or 0 for data in found]
        click.echo("{:,} rows to fit, {:,} to watch, {:,} to test".format(*sizes))
    return found


def further(zoo: "Entry", path: str | None, like: Any, reader: dict[str, Any], what: str) -> Any:
    """Return the data of another file, read as those that are fitted were, and say what they are; None without one."""
    if path is None:
        return None
    reading = zoo.reading(path, like=like, **reader)
    click.echo(f"{what}: {reading.summary}")
    return reading.data


def catalogues(texts: tuple[str, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return {model: (file, options)} from `NAME=FILE[,OPTION=VALUE...]` of each model."""
    found = dict[str, tuple[str, dict[str, Any]]]()
    for text in texts:
        name, _, rest = text.partition("=")
        file, *pairs = _pairs(rest)
        if not all("=" in pair for pair in (text, *pairs)):
            words = "NAME=FILE, or NAME=FILE,OPTION=VALUE with options of `latentzoo fit NAME`"
            raise UserError(f"--data {text}: write {words}")
        zoo = lz.get(name)
        if not zoo.has_rows:
            raise UserError(f"--data {text}: {name} observes nothing, leave it out")
        _only_once(name, found, "--data")
        if not Path(file).is_file():
            raise UserError(f"--data {text}: there is no file {file}")
        found[name] = (file, _values(zoo, pairs))
    return found


def _pairs(text: str) -> list[str]:
    """Return what commas separate; a part without "=" goes on with the value before it, as in columns=a,b."""
    found: list[str] = []
    for part in text.split(","):
        if len(found) > 1 and "=" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _values(zoo: "Entry", pairs: list[str]) -> dict[str, Any]:
    """Return the values of `OPTION=VALUE`, which are of the model's reader or its Spec."""
    spec, reader = options(zoo.model_room.Spec), options(zoo.reader)
    known, values = {str(option.name): option for option in (*reader, *spec)}, dict[str, Any]()
    for word, _, value in (pair.partition("=") for pair in pairs):
        name = choose(word.replace("-", "_"), known, f"option of {zoo.name}")
        _only_once(name, values, "--data")
        values[name] = known[name].type.convert(value, known[name], None)
    lz.get(zoo.name, **{str(o.name): values[str(o.name)] for o in spec if o.name in values})  # refuses what is wrong
    return values


# --- several methods --------------------------------------------------------------------------------------------------

LIMITS = ("num_steps", "tol", "max_seconds", "progress")  # of every method
STARTS = "all methods start at the one, of so many, from which the model's first method ends highest"
PART = "the part of the rows, drawn at random, that is not fitted and on which the log density is measured"


def labels(zoo: "Entry") -> list[str]:
    """Return the methods of a model, one for each library that they run in."""
    from latentzoo.inference.run import label
    from latentzoo.inference.task import HOMES

    return [label(method, library) for method in zoo.methods for library in HOMES[method].LIBRARIES or (None,)]


def usual(zoo: "Entry") -> list[str]:
    """Return the methods to compare where none are named: all, a sampler in its first library only, as it is slow."""
    from latentzoo.inference import mcmc
    from latentzoo.inference.run import label
    from latentzoo.inference.task import HOMES

    slow = {label(method, name) for method in zoo.methods if HOMES[method] is mcmc for name in mcmc.LIBRARIES[1:]}
    return [each for each in labels(zoo) if each not in slow]


def methods(zoo: "Entry", text: str) -> list[str]:
    """Return the labels that the user wrote, separated by commas: `nuts` is `nuts-numpyro`."""
    known = labels(zoo)
    words = [word.strip() for word in text.split(",") if word.strip()]
    full = [f"{word}-numpyro" if f"{word}-numpyro" in known else choose(word, known, "method") for word in words]
    if not full:
        raise UserError(f"--methods names none: give some of {', '.join(known)}")
    return list(dict.fromkeys(full))


def split(data: Any, part: float, seed: int) -> tuple[Any, Any, str]:
    """Return the rows to fit, those held out (None: none are), and a line on them."""
    import numpy as np

    from latentzoo.models.language import contract

    total = contract.num_rows(data) or 0
    held = int(part * total)
    if not held:
        return data, None, f"{total:,} rows to fit, none held out" if total else "no rows to hold out"
    order = np.random.default_rng(seed).permutation(total)
    train, test = (contract.take_rows(data, np.sort(rows)) for rows in (order[held:], order[:held]))
    return train, test, f"{total - held:,} rows to fit, {held:,} held out"


def fits(
    zoo: "Entry", data: Any, prior: Any, methods: list[str], num_starts: int, seed: int, given: dict[str, Any]
) -> dict[str, "Fit"]:
    """Fit by each method from one start; each takes those of the settings that it has."""
    from dataclasses import fields

    from latentzoo.inference.fit import best_seed
    from latentzoo.inference.task import settings_of

    best = best_seed(zoo, data, prior, num_starts, seed)
    found = dict[str, "Fit"]()
    for label in methods:
        method, _, name = label.partition("-")
        library = cast("Library | None", name or None)
        known = {field.name for field in fields(settings_of(zoo, method))} | set(LIMITS)
        taken = {name: value for name, value in given.items() if name in known}
        click.echo(f"{label} ...")
        start = zoo.init(data, prior, best, method)
        found[label] = lz.fit(zoo, data, method, prior=prior, init=start, library=library, seed=seed, **taken)
        click.echo(f"{label}: {found[label].num_steps} steps, {found[label].seconds:.2f} s")
    return found


def write_comparison(comparison: "Comparison", fits: dict[str, "Fit"], out: Path, source: str) -> None:
    """Write the table, the numbers of each coordinate, the picture, and each fit into its folder."""
    from latentzoo.inference.pictures import write

    click.echo(f"\n{comparison}\n")
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "comparison.csv": comparison.to_pandas().to_csv(),
        "coordinates.csv": comparison.sites_to_pandas().to_csv(),
    }
    for name, text in {"comparison.txt": f"{comparison}\n", **tables}.items():
        _wrote(_write_text(out / name, text), "table")
    write(comparison.plot(), out / "comparison.png")
    _wrote(out / "comparison.png", "picture")
    for label, fit in fits.items():
        write_fit(fit, out / label, source, Rows(fit.data))


# --- one fit ----------------------------------------------------------------------------------------------------------


def result(fit: "Fit") -> str:
    """Return the table of a result."""
    lines = {
        "method": fit.label,
        fit.objective: "none: it is a sampler" if fit.chains else f"{fit.elbo:.6f}",
        "steps": str(fit.num_steps),
        "converged": f"{'yes' if fit.converged else 'no'}: {fit.reason}",
        "seconds": f"{fit.seconds:.2f}",
    }
    if fit.elbo_error:
        lines[fit.objective] += f" +- {fit.elbo_error:.6f}, by draws"
    if fit.compile_seconds:
        lines["seconds"] += f", and {fit.compile_seconds:.2f} to compile"
    if len(fit.restarts) > 1:
        ends = [f"{run.elbo:.6f}{_doubt(run)}" for run in fit.restarts]
        lines["restarts"] = ", ".join(ends)
    width = max(10, *map(len, lines))
    table = fit.describe()
    return "\n".join(f"  {name:<{width}} {value}" for name, value in lines.items()) + (
        f"\n\n{table}\n" if table else ""
    )


def _doubt(run: "Restart") -> str:
    return " (not converged)" if not run.converged else " (flawed)" if run.flaw else ""


def tested(fit: "Fit", rows: Rows) -> dict[str, float]:
    """Return how well a fit predicts data, and what simpler models do; say both."""
    found, beside = fit.evaluate(rows.test), fit.baselines(rows.test, rows.validation)
    for title, each in {"test": found, "beside it": beside}.items():
        if each:
            click.echo(f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {x:,.6g}" for name, x in each.items()))
    return found | beside


def write_fit(fit: "Fit", out: Path, source: str, rows: Rows) -> None:
    """Write the fit, its numbers, pictures and posterior, each file whole or not at all, and say so for each."""
    out.mkdir(parents=True, exist_ok=True)
    _wrote(fit.save(out / "fit.npz"), "latentzoo.load reads it")
    test = None if rows.test is None else tested(fit, rows)
    _wrote(_write_numbers(fit, out / "fit.json", source, test), "numbers and settings")
    if table := fit.describe():
        _wrote(_write_text(out / "table.txt", f"{table}\n"), "table")
    for name, text in fit.exports().items():
        _wrote(_write_text(out / name, text), "for other programs")
    for picture in importlib.import_module("latentzoo.inference.pictures").save(fit, out, rows.test):
        drawn = picture.suffix == ".png"
        _wrote(picture, "picture" if drawn else "a graph in DOT: Graphviz's `dot`, which is not installed, draws it")
    if fit.is_deep or not fit.is_point:
        _write_posterior(fit, out / "posterior.nc")


CHECKPOINT = "checkpoint.npz"  # in the folder of a fit, while it runs


def checkpoint(zoo: "Entry", settings: dict[str, Any], out: Path) -> Path | None:
    """Return where a run writes its checkpoints, and goes on from them; None where it has none."""
    from latentzoo.inference import svi
    from latentzoo.inference.task import HOMES

    if HOMES[settings.get("method", zoo.methods[0])] is not svi or settings.get("num_restarts", 1) > 1:
        return None
    if (out / CHECKPOINT).exists():
        click.echo(f"going on from {out / CHECKPOINT}")
    return out / CHECKPOINT


def remove_checkpoint(out: Path) -> None:
    """Remove the checkpoints of a run that has ended, whose fit is written."""
    from latentzoo.inference.checkpoint import remove

    remove(out / CHECKPOINT)


def write_graphs(zoo: "Entry", out: Path) -> None:
    """Write the plate diagram and the graph of the loss, as pictures where `dot` is installed, else as DOT."""
    from latentzoo.inference.pictures.dot import Graph, save

    out.mkdir(parents=True, exist_ok=True)
    for name, graph in {"model": zoo.graph(), "loss": zoo.loss_graph()}.items():
        _wrote(*save(Graph(graph.source), out / name))


def _write_text(path: Path, text: str) -> Path:
    from latentzoo.models.language.files import atomic

    with atomic(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _write_numbers(fit: "Fit", path: Path, source: str, test: dict[str, float] | None) -> Path:
    from latentzoo.models.language import contract

    prior = {name: value.tolist() for name, value in contract.leaves(fit.prior).items()}
    found = {**fit.summary(), "data": source, "prior": prior}
    if test is None or not fit.is_deep:  # a deep model is weighed by draws, once
        found["metrics"] = fit.evaluate()
    if test is not None:
        found["test"] = test
    return _write_text(path, json.dumps(found, indent=2) + "\n")


def _write_posterior(fit: "Fit", path: Path) -> None:
    from latentzoo.inference.arviz_export import affordable_draws, num_chains
    from latentzoo.inference.importance import FEWEST
    from latentzoo.models.language.files import atomic_path

    num_draws = affordable_draws(fit)
    if not num_draws:
        click.echo(f"{path} is not written: {FEWEST} draws of so many numbers would be too large")
        return
    with atomic_path(path) as temporary:
        fit.to_arviz(num_draws=num_draws).to_netcdf(str(temporary))
    chains = f" in each of {num_chains(fit)} chains" if num_chains(fit) > 1 else ""
    _wrote(path, f"{num_draws} draws{chains}; arviz.from_netcdf reads it")


def _wrote(path: Path, what: str) -> None:
    click.echo(f"wrote {path}: {what}")
