"""The command line: `latentzoo list | show | simulate | fit | verify | bench`.

The options of `simulate` and `fit` are those of the model that is named: the fields of its Spec, the keywords of its
reader and of `latentzoo.fit`, read from their annotations, defaults and docstrings. Nothing here knows of one model.
"""

import importlib
import inspect
import json
import os
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import click

import latentzoo as lz
from latentzoo.models.language.errors import Note, UserError, choose

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry
    from latentzoo.inference.result import Fit

# posterior.nc holds the log likelihood of every row at every draw: so many numbers are 160 MB.
_MOST_NUMBERS, _FEWEST_DRAWS, _MOST_DRAWS = 20_000_000, 100, 1000

SEED = click.IntRange(0, 2**32 - 1)
COUNT = click.IntRange(1, 2**31 - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for a mistake of the user, which is told in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Note)
        warnings.showwarning = _show_note
        try:
            return root.main(argv, prog_name="latentzoo", standalone_mode=False) or 0
        except click.ClickException as error:
            return _complain(error.format_message(), error.exit_code)
        except UserError as error:
            return _complain(str(error))
        except OSError as error:
            return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):  # JAX's word for it
                raise
            return _complain(f"not enough memory: {error}")


def _complain(message: str, status: int = 2) -> int:
    click.echo(f"latentzoo: {' '.join(message.split())}", err=True)
    return status


def _show_note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, Note):
        _complain(f"note: {message}")


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C."""

    exit_code = 130


# --- options, from annotations and docstrings -------------------------------------------------------------------------


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """Numbers separated by commas, as a tuple."""

    def __init__(self, kind: type):
        self.kind, self.name = kind, f"{kind.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the numbers."""
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers separated by commas", param, ctx)


class Output(click.Path):
    """A file or a folder to write, refused at once where it could not be written after a long run."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            self.fail(f"{above} is not a folder that can be written to", param, ctx)
        return path


class Keyword(NamedTuple):
    """One keyword of a function or field of a Spec: its annotation, its default (None: it has none) and what it is."""

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def option(self) -> click.Option | None:
        """Its option, which is None where it is not given; None for what cannot be written on a command line."""
        kind = _click_type(self.hint)
        if kind is None:
            return None
        flag = f"--{self.name.replace('_', '-')}"
        flags = f"{flag}/--no-{flag[2:]}" if kind is click.BOOL else flag
        default = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        text = self.text if default is None else f"{self.text}  [default: {default}]"
        return click.Option([self.name, flags], type=kind, default=None, help=text)

    def row(self, ctx: click.Context) -> tuple[str, str]:
        """Return what a page of help says of it: the option, or the bare name, and the text."""
        option = self.option
        return (option and option.get_help_record(ctx)) or (self.name, self.text)


def _click_type(hint: Any) -> Any:
    """Return how a value of this type is written on a command line; None where it cannot be."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        return _click_type(choices[0]) if len(choices) == 1 else None
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return Numbers(get_args(hint)[0]) if get_args(hint)[0] in (int, float) else None
    return {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL}.get(hint)


def _keywords(source: Callable[..., Any], leave_out: Iterable[str] = ()) -> list[Keyword]:
    """Return the fields of a dataclass, or the keyword-only parameters of a function."""
    found = inspect.signature(source).parameters.values()
    chosen = [p for p in found if (isinstance(source, type) or p.kind is p.KEYWORD_ONLY) and p.name not in leave_out]
    hints, texts = typing.get_type_hints(source), _texts(source, [p.name for p in found])
    defaults = {p.name: None if p.default is p.empty else p.default for p in chosen}
    return [Keyword(name, hints[name], default, texts.get(name, "")) for name, default in defaults.items()]


def _options(keywords: Iterable[Keyword]) -> list[click.Option]:
    return [option for keyword in keywords if (option := keyword.option)]


def _given(given: Mapping[str, Any], options: Iterable[click.Option]) -> dict[str, Any]:
    """Return those of these options that the user has given."""
    return {str(o.name): given[str(o.name)] for o in options if given[str(o.name)] is not None}


def _texts(documented: Any, names: Iterable[str]) -> dict[str, str]:
    """Return what a docstring says of each name: `a, b: text`, which goes on over lines until the next one."""
    known, texts, current = set(names), dict[str, str](), list[str]()
    for line in (inspect.getdoc(documented) or "").splitlines():
        head, colon, text = line.strip().partition(": ")
        heads = head.split(", ")
        if colon and known.issuperset(heads):
            current = heads
            texts |= dict.fromkeys(heads, text)
        elif not line.strip():
            current = []
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in current}
    return texts


def _sentence(documented: Any) -> str:
    """Return the first sentence of a docstring."""
    paragraph = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()), maxsplit=1)[0]


# --- groups and commands ----------------------------------------------------------------------------------------------


class Commands(click.Group):
    """Commands of which a mistyped one is answered with the nearest match."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command."""
        return super().get_command(ctx, name if ctx.resilient_parsing else choose(name, self.commands, "command"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it in one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the files that were written are whole") from None


class ModelCommands(click.Group):
    """One command for each model, made by `build` from its entry."""

    def __init__(self, name: str, build: Callable[["Entry"], click.Command], text: str):
        super().__init__(name, invoke_without_command=True, callback=_which_model, help=text)
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
        names = lz.names()
        first = next((index for index, word in enumerate(args) if word in names), 0)
        return super().parse_args(ctx, [*args[first : first + 1], *args[:first], *args[first + 1 :]])


@click.pass_context
def _which_model(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        raise UserError(f"name a model: {ctx.command_path} NAME; there is: {', '.join(lz.names())}")


class ModelCommand(click.Command):
    """A command on one model, whose page of help shows its options by sections."""

    def __init__(self, entry: "Entry", run: Callable[..., None], text: str, **sections: list[click.Option]):
        options = [option for section in sections.values() for option in section]
        names = [option.name for option in options]
        if len(set(names)) < len(names):
            raise TypeError(f"{entry.name}: Spec, reader and method share an option, of {names}: rename one")
        sentence = _sentence(entry.model_room)
        super().__init__(entry.name, callback=run, params=[*options], help=f"{text} {sentence}", short_help=sentence)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for title, options in self.sections.items():
            with formatter.section(title.capitalize()):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="latentzoo", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Latent-variable models for Pyro and NumPyro: look at them, simulate, fit, verify and benchmark them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _seed() -> click.Option:
    text = "the same seed, the same result"
    return click.Option(["--seed"], type=SEED, default=0, show_default=True, help=text)


def _prior(entry: "Entry") -> click.Option:
    text = "a hyperparameter: numbers separated by commas, or one for the whole field. Again for each field: "
    return click.Option(["--prior"], multiple=True, metavar="FIELD=VALUE", help=text + ", ".join(entry.Prior._fields))


def _out(text: str, **what: Any) -> click.Option:
    return click.Option(["out", "-o", "--out"], type=Output(**what), required=True, help=text)


@root.command("list")
@click.pass_context
def list_models(ctx: click.Context) -> None:
    """List the models."""
    formatter = ctx.make_formatter()
    formatter.write_dl([(name, _sentence(lz.get(name).model_room)) for name in lz.names()])
    click.echo(formatter.getvalue(), nl=False)


@root.command()
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show a model: how its data come about, and what can be chosen."""
    entry = lz.get(name)
    formatter = ctx.make_formatter()
    sections = {
        "Spec (options of simulate and fit)": [field.row(ctx) for field in _keywords(entry.model_room.Spec)],
        "Data": _field_rows(entry.Data),
        "Prior (--prior field=value)": _field_rows(entry.Prior),
        "Reader (options of fit --data FILE)": [option.row(ctx) for option in _keywords(entry.model_room.read)],
        "Methods (fit --method)": [(", ".join(entry.methods), "the first by default")],
    }
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)
    click.echo(f"{entry.name}\n\n{inspect.getdoc(entry.model_room)}\n\n{formatter.getvalue()}", nl=False)


def _field_rows(tree: Any) -> list[tuple[str, str]]:
    """Return a row for each field of a NamedTuple: its name and shape, what it is and what its values must be."""
    from latentzoo.models.language import contract

    declared, texts = contract.fields(tree), _texts(tree, tree._fields)
    rows = []
    for name in tree._fields:
        field = declared.get(name)
        shape = f" ({', '.join(field.dims)})" if field and field.dims else ""
        words = [f"[{constraint.words}]" for constraint in field.constraints] if field else []
        rows.append((f"{name}{shape}", " ".join([texts.get(name, ""), *words])))
    return rows


# --- simulate and fit -------------------------------------------------------------------------------------------------


def simulate_command(entry: "Entry") -> click.Command:
    """Return `latentzoo simulate NAME` for a model."""
    spec = _options(_keywords(entry.model_room.Spec))
    rows = click.Option(["--num-rows"], type=COUNT, default=1000, show_default=True, help="how many rows")

    def run(out: Path, num_rows: int, seed: int, prior: tuple[str, ...], **given: Any) -> None:
        zoo = lz.get(entry.name, **_given(given, spec))
        data, _ = zoo.simulate(seed=seed, num_rows=num_rows, prior=zoo.prior(**_prior_fields(zoo, prior)))
        zoo.model_room.write(data, out)
        click.echo(f"wrote {out}: {num_rows} simulated rows of {zoo.name}, seed {seed}")

    text = "Write a data set drawn from the model itself."
    output = [_out("the file to write, in the format that the model reads", dir_okay=False)]
    return ModelCommand(entry, run, text, model=[*spec, _prior(entry)], data=[rows, _seed()], output=output)


def fit_command(entry: "Entry") -> click.Command:
    """Return `latentzoo fit NAME` for a model."""
    spec, reader = _options(_keywords(entry.model_room.Spec)), _options(_keywords(entry.model_room.read))
    method = _options([Keyword("method", Literal[entry.methods], entry.methods[0], "how to fit")])
    method += _options(_keywords(lz.fit, leave_out=("seed", "keep_history")))
    file = click.Path(exists=True, dir_okay=False)
    data = click.Option(["--data"], type=file, help="the file to read; without it, simulated data of the model")

    def run(out: Path, data: str | None, seed: int, prior: tuple[str, ...], **given: Any) -> None:
        zoo = lz.get(entry.name, **_given(given, spec))
        fields = _prior_fields(zoo, prior)
        rows, source = _rows(zoo, data, seed, _given(given, reader), fields)
        click.echo(source)
        fit = lz.fit(zoo, rows, prior=zoo.prior(rows, **fields), seed=seed, **_given(given, method))
        click.echo(_result(fit))
        _write_fit(fit, out, source)

    text = (
        "Fit the model and write fit.npz (latentzoo.load reads it), fit.json (numbers and settings),"
        " posterior.nc (for ArviZ) and pictures."
    )
    output = [_out("the folder to write into; it is made where there is none", file_okay=False)]
    model, methods = [*spec, _prior(entry)], [*method, _seed()]
    return ModelCommand(entry, run, text, data=[data, *reader], model=model, method=methods, output=output)


root.add_command(ModelCommands("simulate", simulate_command, "Write a data set drawn from a model."))
root.add_command(ModelCommands("fit", fit_command, "Fit a model to data; write the fit, its posterior and pictures."))


def _prior_fields(zoo: "Entry", assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return `field=number,...` as arrays, in the shapes that the fields have by default; one number fills a field."""
    import numpy as np

    usual = zoo.prior()
    fields = dict[str, Any]()
    for assignment in assignments:
        word, _, text = assignment.partition("=")
        name = choose(word.replace("-", "_"), zoo.Prior._fields, "field of the prior")
        try:
            numbers = np.array([float(number) for number in text.split(",")])
        except ValueError:
            raise UserError(f"--prior {assignment}: write {name}=number, or numbers separated by commas") from None
        shape = np.shape(getattr(usual, name))
        numbers = np.full(shape, numbers[0]) if numbers.size == 1 else numbers
        fields[name] = numbers.reshape(shape) if numbers.size == np.prod(shape) else numbers
    return fields


def _rows(zoo: "Entry", path: str | None, seed: int, options: dict[str, Any], prior: dict[str, Any]) -> tuple[Any, str]:
    """Return the data to fit, and one line on what they are."""
    if path is not None:
        reading = zoo.model_room.read(path, **options)
        return reading.data, reading.summary
    if options:
        raise UserError(f"--{next(iter(options)).replace('_', '-')} is for a file: name one with --data")
    data, _ = zoo.simulate(seed=seed, prior=zoo.prior(**prior))
    return data, f"no --data: simulated data of {zoo.name}, seed {seed}"


def _result(fit: "Fit") -> str:
    """Return the table of a result."""
    lines = {
        "method": fit.method,
        "ELBO": f"{fit.elbo:.6f}",
        "steps": str(fit.num_steps),
        "converged": f"{'yes' if fit.converged else 'no'}: {fit.reason}",
        "seconds": f"{fit.seconds_trace[-1]:.2f}",
    }
    if len(fit.restarts) > 1:
        ends = [f"{run.elbo:.6f}{'' if run.converged else ' (not converged)'}" for run in fit.restarts]
        lines["restarts"] = ", ".join(ends)
    return "\n".join(f"  {name:<10} {value}" for name, value in lines.items())


def _write_fit(fit: "Fit", out: Path, source: str) -> None:
    """Write the fit, its numbers, pictures and posterior, each file whole or not at all, and say so for each."""
    from latentzoo.models.language import contract
    from latentzoo.models.language.files import atomic

    out.mkdir(parents=True, exist_ok=True)
    _wrote(fit.save(out / "fit.npz"), "latentzoo.load reads it")

    prior = {name: value.tolist() for name, value in contract.leaves(fit.prior).items()}
    numbers = {**fit.summary(), "data": source, "prior": prior, "metrics": fit.evaluate()}
    with atomic(out / "fit.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(numbers, indent=2) + "\n")
    _wrote(out / "fit.json", "numbers and settings")

    for picture in importlib.import_module("latentzoo.inference.pictures").save(fit, out):
        _wrote(picture, "picture")

    num_draws = _MOST_NUMBERS // (contract.num_rows(fit.data) or 1)
    num_draws = min(max(num_draws, _FEWEST_DRAWS), _MOST_DRAWS)
    posterior, temporary = out / "posterior.nc", out / f".posterior.nc.{os.getpid()}"
    try:
        fit.to_arviz(num_draws=num_draws).to_netcdf(str(temporary))
        os.replace(temporary, posterior)
    finally:
        temporary.unlink(missing_ok=True)
    _wrote(posterior, f"{num_draws} draws; arviz.from_netcdf reads it")


def _wrote(path: Path, what: str) -> None:
    click.echo(f"wrote {path}: {what}")


# --- verify and bench -------------------------------------------------------------------------------------------------


@root.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--seed", type=SEED, default=0, show_default=True, help="of the random parameter points")
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], seed: int) -> None:
    """Prove every hand-derived ELBO and gradient.

    Each is compared with the automatic ones of Pyro and NumPyro, for all models or for those that are named.
    The exit status is 1 when a proof does not hold.
    """
    reports = []
    for name in [choose(name, lz.names(), "model") for name in names] or lz.names():
        reports.append(lz.verify(name, seed=seed))
        click.echo(str(reports[-1]))
    ctx.exit(0 if all(report.ok for report in reports) else 1)


def _catalogue(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """Return the model, the file and the options from `NAME=FILE[,OPTION=VALUE...]`."""
    name, _, rest = text.partition("=")
    file, *pairs = rest.split(",")
    if not all("=" in pair for pair in (text, *pairs)):
        raise UserError(
            f"--data {text}: write NAME=FILE, or NAME=FILE,OPTION=VALUE with options of `latentzoo fit NAME`"
        )
    room = lz.get(name).model_room
    options = {str(option.name): option for option in _options([*_keywords(room.read), *_keywords(room.Spec)])}
    if not Path(file).is_file():
        raise UserError(f"--data {text}: there is no file {file}")
    chosen = dict[str, Any]()
    for word, _, value in (pair.partition("=") for pair in pairs):
        option = options[choose(word.replace("-", "_"), options, f"option of {name}")]
        chosen[str(option.name)] = option.type.convert(value, option, None)
    return name, (file, chosen)


class Bench(click.Command):
    """The command that ends its page of help with the suites."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the suites."""
        with formatter.section("Suites"):
            formatter.write_dl(list(_runner().suites().items()))


@root.command(cls=Bench)
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("-o", "--out", type=Output(file_okay=False), required=True, help="the folder to write into")
@click.option("--quick", is_flag=True, help="measure less: minutes rather than hours")
@click.option(
    "--data", multiple=True, metavar="NAME=FILE[,OPTION=VALUE...]", help="real data for a model; again for each"
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="of all that is random")
@click.pass_context
def bench(
    ctx: click.Context, suites: tuple[str, ...], out: Path, quick: bool, data: tuple[str, ...], seed: int
) -> None:
    """Run the benchmarks and write their report.

    All suites, or those that are named. A bench that was stopped goes on where it was when it is started again.
    The exit status is 1 when a measurement failed or a proof did not hold.
    """
    runner = _runner()
    chosen = [choose(suite, runner.suites(), "suite") for suite in suites] or list(runner.suites())
    ok = runner.run(chosen, out, quick=quick, seed=seed, catalogues=dict(map(_catalogue, data)))
    ctx.exit(0 if ok else 1)


def _runner() -> Any:
    return importlib.import_module("latentzoo.benchmarks.runner")
