"""Commands that single models have: a network's `query`. They are the `ACTIONS` of the closed forms."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import latentzoo as lz
from latentzoo.options import Output, descriptions, given_of, options, sentence

if TYPE_CHECKING:
    from latentzoo.models.language.contract import Action


def verbs() -> dict[str, tuple[str, "Action"]]:
    """Return the model and the action of each such command, by its name."""
    found = {}
    for model in lz.names():
        for name, action in lz.get(model).actions.items():
            found[name.replace("_", "-")] = (model, action)
    return found


def command(name: str, model: str, action: "Action") -> click.Command:
    """Return the command of an action, whose argument is a field of the Spec, and whose options are its keywords."""
    chosen = options(action.run)
    subject = click.Argument([action.subject], metavar=action.subject.upper())
    out = click.Option(["-o", "--out"], type=Output("folder"), help="a folder to write the numbers and a picture into")
    saved = [out] if action.saves else []

    def run(**given: Any) -> None:
        folder: Path | None = given.get("out")
        zoo = lz.get(model, **{action.subject: given[action.subject]})
        found = action.run(zoo, **given_of(given, chosen))
        click.echo(str(found))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path, what in found.save(folder):
                click.echo(f"wrote {path}: {what}")

    spec = lz.get(model).model_room.Spec
    what = descriptions(spec, [action.subject]).get(action.subject, "")
    text = (inspect.getdoc(action.run) or "").split("\n\n")[0]
    params: list[click.Parameter] = [subject, *chosen, *saved]
    return click.Command(
        name,
        callback=run,
        params=params,
        help=f"{text}\n\n{action.subject.upper()}: {what}",
        short_help=sentence(action.run),
    )
