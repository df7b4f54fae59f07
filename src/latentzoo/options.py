"""Options of the command line, made from annotations, defaults and docstrings."""

import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import click

SEED = click.IntRange(0, 2**32 - 1)
COUNT = click.IntRange(1, 2**31 - 1)


class Separated(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """Words or numbers separated by commas, as a tuple."""

    def __init__(self, kind: type):
        self.kind, self.name = kind, "name,..." if kind is str else f"{kind.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the words or numbers."""
        try:
            return tuple(self.kind(part.strip()) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers separated by commas", param, ctx)


class Assignment(click.ParamType):  # type: ignore[type-arg]
    """`NAME=VALUE`, as a pair."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name and the value, of which the first may hold no `=`."""
        if isinstance(value, tuple):
            return value
        name, equals, rest = value.partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r}: write NAME=VALUE", param, ctx)
        return name.strip(), rest.strip()


def _once_each(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, str] | None:
    """Return pairs as a dict; None where there are none."""
    for place, (name, _) in enumerate(pairs):
        if name in dict(pairs[:place]):
            raise click.BadParameter(f"{name} is given twice: give it once", ctx, param)
    return dict(pairs) or None


class Output(click.Path):
    """A file or a folder to write, refused at once where it could not be written after a long run."""

    def __init__(self, kind: Literal["file", "folder"]):
        super().__init__(file_okay=kind == "file", dir_okay=kind == "folder", writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; folders above a file must exist, those above a folder are made."""
        if not value:
            self.fail("it is empty", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        above = path.absolute().parents
        parent = above[0] if self.file_okay else next(folder for folder in above if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            self.fail(f"{parent} is not a folder that can be written to", param, ctx)
        return path


class Keyword(NamedTuple):
    """One keyword of a function or field of a Spec: its annotation, its default (None: it has none) and what it is.

    required: whether it must be given.
    """

    name: str
    hint: Any
    default: Any
    text: str
    required: bool = False

    @property
    def option(self) -> click.Option | None:
        """Its option, which is None where it is not given; None for what cannot be written on a command line."""
        kind = _click_type(self.hint)
        if kind is None:
            return None
        flag = f"--{self.name.replace('_', '-')}"
        if isinstance(kind, Assignment):
            again = f"{self.text} Again for each."
            return click.Option(
                [self.name, flag], type=kind, multiple=True, callback=_once_each, metavar="NAME=VALUE", help=again
            )
        flags = f"{flag}/--no-{flag[2:]}" if kind is click.BOOL else flag
        default = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        text = self.text if default is None else f"{self.text}  [default: {default}]"
        needed = {"required": True} if self.required else {"default": None}
        return click.Option([self.name, flags], type=kind, help=text, **needed)

    def row(self, ctx: click.Context) -> tuple[str, str]:
        """Return what a page of help says of it: the option, or the bare name, and the text."""
        option = self.option
        return (option and option.get_help_record(ctx)) or (self.name, self.text)


def _click_type(hint: Any) -> Any:
    """Return how a value of this type is written on a command line; None where it cannot be."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for choice in get_args(hint) if (kind := _click_type(choice)) is not None]
        return kinds[0] if len(kinds) == 1 else None
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if get_origin(hint) is Mapping:
        return Assignment()
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return Separated(get_args(hint)[0]) if get_args(hint)[0] in (int, float, str) else None
    return {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL}.get(hint)


def keywords(source: Callable[..., Any], leave_out: Iterable[str] = ()) -> list[Keyword]:
    """Return the fields of a dataclass, or the keyword-only parameters of a function."""
    found = inspect.signature(source).parameters.values()
    chosen = [p for p in found if (isinstance(source, type) or p.kind is p.KEYWORD_ONLY) and p.name not in leave_out]
    hints, texts = typing.get_type_hints(source), descriptions(source, [p.name for p in found])
    defaults = {p.name: None if p.default is p.empty else p.default for p in chosen}
    needed = {p.name for p in chosen if p.default is p.empty}
    return [
        Keyword(name, hints[name], default, texts.get(name, ""), name in needed) for name, default in defaults.items()
    ]


def options(source: Callable[..., Any], leave_out: Iterable[str] = ()) -> list[click.Option]:
    """Return an option for each keyword of a function or a dataclass that can be written on a command line."""
    return [option for keyword in keywords(source, leave_out) if (option := keyword.option)]


def given_of(given: Mapping[str, Any], options: Iterable[click.Option]) -> dict[str, Any]:
    """Return those of these options that the user has given."""
    return {str(o.name): given[str(o.name)] for o in options if given[str(o.name)] is not None}


def descriptions(documented: Any, names: Iterable[str]) -> dict[str, str]:
    """Return what a docstring says of each name: `a, b: text`, which goes on over lines until the next one.

    What a class does not say of a name, the classes that it extends do.
    """
    known, texts = set(names), dict[str, str]()
    for each in reversed(inspect.getmro(documented)) if isinstance(documented, type) else (documented,):
        texts |= _described(inspect.cleandoc(each.__doc__ or ""), known)
    return texts


def _described(text: str, known: set[str]) -> dict[str, str]:
    texts, current = dict[str, str](), list[str]()
    for line in text.splitlines():
        head, colon, rest = line.strip().partition(": ")
        heads = head.split(", ")
        if colon and known.issuperset(heads):
            current = heads
            texts |= dict.fromkeys(heads, rest)
        elif not line.strip():
            current = []
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in current}
    return texts


def sentence(documented: Any) -> str:
    """Return the first sentence of a docstring."""
    paragraph = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()), maxsplit=1)[0]
