"""The command line: `latentzoo list | show | graph | simulate | fit | compare | verify | bench | conformance`, and
verbs of single models, such as `query`.

Those on any model are made in `model_commands`, those of single models in `verbs`.
"""

import importlib
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import latentzoo as lz
from latentzoo import commands
from latentzoo.model_commands import ModelCommands, compare_command, fit_command, graph_command, simulate_command
from latentzoo.models.language.errors import Note, UserError, choose
from latentzoo.options import COUNT, SEED, Output, descriptions, keywords, sentence
from latentzoo.verbs import command, verbs

# How JAX and NumPy say that an array is too large, in errors that are of no class of their own.
TOO_LARGE = ("RESOURCE_EXHAUSTED", "Maximum allowed dimension exceeded", "array is too big")


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
        except click.Abort:  # Ctrl-C
            return _complain("interrupted; the files that were written are whole", 130)
        except UserError as error:
            return _complain(str(error))
        except OSError as error:
            return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (MemoryError, RuntimeError, ValueError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in TOO_LARGE):
                raise
            return _complain(f"not enough memory: {error}")


def _complain(message: str, status: int = 2) -> int:
    click.echo(f"latentzoo: {' '.join(message.split())}", err=True)
    return status


def _show_note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, Note):
        _complain(f"note: {message}")


class Commands(click.Group):
    """Commands, those of single models too, of which a mistyped one is answered with the nearest match."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [*super().list_commands(ctx), *verbs()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command."""
        if name in self.commands:
            return self.commands[name]
        known = verbs()
        if name in known or not ctx.resilient_parsing:
            name = choose(name, [*self.commands, *known], "command")
            return command(name, *known[name])
        return None


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


@root.command("list")
@click.pass_context
def list_models(ctx: click.Context) -> None:
    """List the models."""
    formatter = ctx.make_formatter()
    formatter.write_dl([(name, sentence(lz.get(name).model_room)) for name in lz.names()])
    click.echo(formatter.getvalue(), nl=False)


@root.command()
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show a model: how its data come about, and what can be chosen."""
    entry = lz.get(name)
    formatter = ctx.make_formatter()
    sections = {
        "Spec (options of simulate and fit)": [field.row(ctx) for field in keywords(entry.model_room.Spec)],
        "Data": _field_rows(entry.Data),
        "Prior (--prior field=value)": _field_rows(entry.Prior),
        "Reader (options of fit --data FILE)": [option.row(ctx) for option in keywords(entry.reader)],
        "Methods (fit --method)": [(", ".join(entry.methods), "the first by default")],
    }
    for title, rows in sections.items():
        if not rows:
            continue
        with formatter.section(title):
            formatter.write_dl(rows)
    click.echo(f"{entry.name}\n\n{inspect.getdoc(entry.model_room)}\n\n{formatter.getvalue()}", nl=False)


def _field_rows(tree: Any) -> list[tuple[str, str]]:
    """Return a row for each field of a NamedTuple: its name and shape, what it is and what its values must be."""
    from latentzoo.models.language import contract

    declared, texts = contract.fields(tree), descriptions(tree, tree._fields)
    rows = []
    for name in tree._fields:
        field = declared.get(name)
        shape = f" ({', '.join(field.dims)})" if field and field.dims else ""
        told = [constraint for constraint in field.constraints if constraint is not contract.finite] if field else []
        words = [f"[{constraint.words}]" for constraint in told]
        rows.append((f"{name}{shape}", " ".join([texts.get(name, ""), *words])))
    return rows


root.add_command(ModelCommands("simulate", simulate_command, "Write a data set drawn from a model."))
root.add_command(ModelCommands("fit", fit_command, "Fit a model to data; write the fit, its posterior and pictures."))
root.add_command(ModelCommands("graph", graph_command, "Draw the plate diagram and the loss of a model."))
root.add_command(ModelCommands("compare", compare_command, "Fit a model by several methods and compare them."))


# --- verify and bench -------------------------------------------------------------------------------------------------


@root.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--num-points", type=COUNT, default=3, show_default=True, help="random parameter points of each variant")
@click.option("--seed", type=SEED, default=0, show_default=True, help="of the random parameter points")
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], num_points: int, seed: int) -> None:
    """Prove every hand-derived ELBO and gradient.

    Each is compared with the automatic ones of Pyro and NumPyro, for all models or for those that are named.
    The exit status is 1 when a proof does not hold.
    """
    reports = []
    for name in [choose(name, lz.names(), "model") for name in names] or lz.names():
        reports.append(lz.verify(name, num_points=num_points, seed=seed))
        click.echo(str(reports[-1]))
    ctx.exit(0 if all(report.ok for report in reports) else 1)


class Bench(click.Command):
    """The command that ends its page of help with the suites."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the suites."""
        with formatter.section("Suites"):
            formatter.write_dl(list(_runner().suites().items()))


@root.command(cls=Bench)
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("-o", "--out", type=Output("folder"), required=True, help="the folder to write into")
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
    ok = runner.run(chosen, out, quick=quick, seed=seed, catalogues=commands.catalogues(data))
    ctx.exit(0 if ok else 1)


@root.command()
@click.option("-o", "--out", type=Output("folder"), help="a folder to write the page and the numbers into")
def conformance(out: Path | None) -> None:
    """Show where Pyro, NumPyro and their peers disagree with exact values.

    The page has a program for each case. The exit status is 0 whatever the libraries do.
    """
    importlib.import_module("latentzoo.benchmarks.conformance").command(out, click.echo)


def _runner() -> Any:
    return importlib.import_module("latentzoo.benchmarks.runner")
