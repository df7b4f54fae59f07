"""Commands on one model: `simulate`, `fit`, `graph` and `compare`, made for each from its entry.

Their options are those of the model that is named: the fields of its Spec, the keywords of its reader and of
`latentzoo.fit`, read from their annotations, defaults and docstrings. Nothing here knows of one model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import click

import latentzoo as lz
from latentzoo import commands
from latentzoo.models.language.errors import UserError, choose
from latentzoo.options import COUNT, SEED, Output, given_of, options, sentence

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry


class ModelCommands(click.Group):
    """One command for each model, made by `build` from its entry."""

    def __init__(self, name: str, build: Callable[["Entry"], click.Command], text: str):
        super().__init__(name, no_args_is_help=False, help=text)
        self.options_metavar, self.subcommand_metavar = "", "NAME [OPTIONS]"
        self.build = build

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the models."""
        return lz.names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of a model."""
        return None if ctx.resilient_parsing and name not in lz.names() else self.build(lz.get(name))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, where the name may also come after options."""
        if not args and not ctx.resilient_parsing:
            _name_a_model(ctx)
        names = lz.names()
        first = next((index for index, word in enumerate(args) if word in names), 0)
        try:
            return super().parse_args(ctx, [*args[first : first + 1], *args[:first], *args[first + 1 :]])
        except click.UsageError:  # an option without a model: the group has none but --help
            _name_a_model(ctx)


def _name_a_model(ctx: click.Context) -> NoReturn:
    raise UserError(f"name a model: {ctx.command_path} NAME; there is: {', '.join(lz.names())}")


class ModelCommand(click.Command):
    """A command on one model, whose page of help shows its options by sections."""

    def __init__(self, entry: "Entry", run: Callable[..., None], text: str, **sections: list[click.Option]):
        params = [option for section in sections.values() for option in section]
        names = [option.name for option in params]
        if len(set(names)) < len(names):
            raise TypeError(f"{entry.name}: Spec, reader and method share an option, of {names}: rename one")
        what = sentence(entry.model_room)
        super().__init__(entry.name, callback=run, params=[*params], help=f"{text} {what}", short_help=what)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for title, section in self.sections.items():
            if not section:
                continue
            with formatter.section(title.capitalize()):
                formatter.write_dl([record for option in section if (record := option.get_help_record(ctx))])


# --- options that several commands have -------------------------------------------------------------------------------


def _seed() -> click.Option:
    text = "the same seed, the same result"
    return click.Option(["--seed"], type=SEED, default=0, show_default=True, help=text)


def _prior(entry: "Entry") -> click.Option:
    text = "a hyperparameter: numbers separated by commas, or one for the whole field. Again for each field: "
    return click.Option(["--prior"], multiple=True, metavar="FIELD=VALUE", help=text + ", ".join(entry.Prior._fields))


VALIDATION = "a file on which EM or CAVI is watched: it stops when its density there no longer rises"
WATCHED = "a file on which the bound is watched: the run stops when it no longer rises there"
SPARED = "the part of the rows, drawn at random, that is spared for each of these two where no file is given"
PART = click.FloatRange(0.0, 0.4)


def _file(flag: str, text: str) -> click.Option:
    return click.Option([flag], type=click.Path(exists=True, dir_okay=False), help=text)


def _out(kind: Literal["file", "folder"], text: str) -> click.Option:
    return click.Option(["-o", "--out"], type=Output(kind), required=True, help=text)


# --- the commands -----------------------------------------------------------------------------------------------------


def simulate_command(entry: "Entry") -> click.Command:
    """Return `latentzoo simulate NAME` for a model."""
    spec = options(entry.model_room.Spec)
    rows = click.Option(["--num-rows"], type=COUNT, default=1000, show_default=True, help="how many rows")

    def run(out: Path, num_rows: int, seed: int, prior: tuple[str, ...], **given: Any) -> None:
        zoo = lz.get(entry.name, **given_of(given, spec))
        data, _ = zoo.simulate(seed=seed, num_rows=num_rows, prior=zoo.prior(**commands.prior_fields(zoo, prior)))
        zoo.write(data, out)
        click.echo(f"wrote {out}: {num_rows} simulated rows of {zoo.name}, seed {seed}")

    text = "Write a data set drawn from the model itself."
    output = [_out("file", "the file to write, in the format that the model reads")]
    return ModelCommand(entry, run, text, model=[*spec, _prior(entry)], data=[rows, _seed()], output=output)


class Task(NamedTuple):
    """What a fit begins with: the entry at its Spec, the data, a line on where they come from, what `--prior` says."""

    zoo: "Entry"
    rows: commands.Rows
    source: str
    assignments: tuple[str, ...]

    def prior(self, rows: Any) -> Any:
        """Return the prior for some of the rows, to which its default is scaled."""
        return self.zoo.prior(rows, **commands.prior_fields(self.zoo, self.assignments, rows))


class Inputs(NamedTuple):
    """The options that say what to fit: the file and its reader, the Spec and the prior."""

    entry: "Entry"
    data: list[click.Option]
    model: list[click.Option]

    @classmethod
    def of(cls, entry: "Entry") -> "Inputs":
        """Return the options of a model."""
        spec = options(entry.model_room.Spec)
        if not entry.has_rows:
            return cls(entry, [], [*spec, _prior(entry)])
        what = "the file or folder to read" + ("; again for each of several" if entry.reads_many_files else "")
        what += "; without it, data that the model brings" if entry.has_default_data else "; without it, simulated data"
        file = click.Option(["--data"], type=click.Path(exists=True), multiple=True, help=what)
        return cls(entry, [file, *options(entry.reader)], [*spec, _prior(entry)])

    def task(self, seed: int, given: dict[str, Any]) -> Task:
        """Return what these options, as they were given, ask to fit."""
        zoo = lz.get(self.entry.name, **given_of(given, self.model[:-1]))
        rows, source = commands.rows(zoo, given.get("data", ()), seed, self.reader(given), given["prior"])
        return Task(zoo, rows, source, given["prior"])

    def reader(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the reader that were given."""
        return given_of(given, self.data[1:])


def settings(entry: "Entry") -> dict[str, list[click.Option]]:
    """Return the options of the settings of each method of a model, under the title of their part of the help."""
    from latentzoo.inference.task import settings_of

    methods: dict[type, list[str]] = {}
    for method in entry.methods:
        methods.setdefault(settings_of(entry, method), []).append(method)
    found = {f"settings of {', '.join(names)}": options(settings) for settings, names in methods.items()}
    return {title: section for title, section in found.items() if section}


def fit_command(entry: "Entry") -> click.Command:
    """Return `latentzoo fit NAME` for a model."""
    inputs, by_method = Inputs.of(entry), settings(entry)
    choice, first = click.Choice(entry.methods), entry.methods[0]
    method = [click.Option(["--method"], type=choice, default=first, show_default=True, help="how to fit")]
    method += options(lz.fit, leave_out=("seed", "checkpoint", "keep_history"))
    method += [
        click.Option(["--guide"], metavar="NAME", help="for svi, one of the library's AutoGuides: AutoNormal ...")
    ]
    chosen = [*method, *(option for group in by_method.values() for option in group)]
    watched = VALIDATION if entry.is_exact else WATCHED
    held_out = [_file("--validation", watched), _file("--test", "a file on which the fit is measured")]
    if not entry.is_exact:
        held_out.append(click.Option(["--held-out"], type=PART, default=0.1, show_default=True, help=SPARED))
    held_out = held_out if entry.has_rows else []

    def run(out: Path, seed: int, **given: Any) -> None:
        task, reader = inputs.task(seed, given), inputs.reader(given)
        click.echo(task.source)
        others = {
            what: commands.further(task.zoo, given.get(what), task.rows.train, reader, what)
            for what in ("validation", "test")
        }
        found = {what: data for what, data in others.items() if data is not None}
        rows = commands.parted(task.rows._replace(**found), given.get("held_out", 0.0), seed)
        settings = given_of(given, chosen) | {"validation": rows.validation}
        checkpoint = commands.checkpoint(task.zoo, settings, out)
        fit = lz.fit(task.zoo, rows.train, prior=task.prior(rows.train), seed=seed, checkpoint=checkpoint, **settings)
        click.echo(commands.result(fit))
        commands.write_fit(fit, out, task.source, rows)
        commands.remove_checkpoint(out)

    text = (
        "Fit the model and write fit.npz (latentzoo.load reads it), fit.json (numbers and settings),"
        " posterior.nc (for ArviZ) and pictures."
    )
    output = [_out("folder", "the folder to write into; it is made where there is none")]
    sections = {
        "data": [*inputs.data, *held_out],
        "model": inputs.model,
        "method": [*method, _seed()],
        **by_method,
        "output": output,
    }
    return ModelCommand(entry, run, text, **sections)


def compare_command(entry: "Entry") -> click.Command:
    """Return `latentzoo compare NAME` for a model."""
    inputs, by_method = Inputs.of(entry), settings(entry)
    what = f"separated by commas, of {', '.join(commands.labels(entry))}; without a library it is NumPyro"
    usual = ",".join(commands.usual(entry))
    method = [
        click.Option(["--methods"], default=usual, show_default=True, metavar="METHOD,...", help=what),
        click.Option(["--reference"], metavar="METHOD", help="whose posterior the others are measured against [nuts]"),
        click.Option(["--num-starts"], type=COUNT, default=10, show_default=True, help=commands.STARTS),
        click.Option(
            ["--held-out"], type=click.FloatRange(0.0, 0.9), default=0.1, show_default=True, help=commands.PART
        ),
        *[option for option in options(lz.fit) if option.name in commands.LIMITS],
    ]
    chosen = [*method[4:], *(option for group in by_method.values() for option in group)]

    def run(out: Path, seed: int, **given: Any) -> None:
        names = commands.methods(entry, given["methods"])
        reference = given["reference"] and commands.methods(entry, given["reference"])[0]
        if reference:
            choose(reference, names, "reference among --methods")
        task = inputs.task(seed, given)
        train, test, split = commands.split(task.rows.train, given["held_out"], seed)
        click.echo(f"{task.source}; {split}")
        prior, starts = task.prior(train), given["num_starts"]
        fits = commands.fits(task.zoo, train, prior, names, starts, seed, given_of(given, chosen))
        comparison = lz.compare(fits, reference=reference, held_out=test, seed=seed)
        commands.write_comparison(comparison, fits, out, task.source)

    text = (
        "Fit the model by several methods from the same start; write their comparison as a table and a picture,"
        " and each fit into a folder of its own."
    )
    output = [_out("folder", "the folder to write into; it is made where there is none")]
    sections = {
        "data": inputs.data,
        "model": inputs.model,
        "methods": [*method, _seed()],
        **by_method,
        "output": output,
    }
    return ModelCommand(entry, run, text, **sections)


def graph_command(entry: "Entry") -> click.Command:
    """Return `latentzoo graph NAME` for a model."""
    spec = options(entry.model_room.Spec)

    def run(out: Path, **given: Any) -> None:
        commands.write_graphs(lz.get(entry.name, **given_of(given, spec)), out)

    text = "Draw the plate diagram of the model, and the graph of its loss, from the programs themselves."
    output = [_out("folder", "the folder to write into; it is made where there is none")]
    return ModelCommand(entry, run, text, model=spec, output=output)
