"""The contract between a model, its guide and its closed form: trees of arrays, and what their fields may hold.

`Data`, `Prior`, `Theta` and `Phi` are NamedTuples of arrays, possibly nested. Each field is annotated with its shape
(jaxtyping) and, through `Annotated`, with what its values may be and whether it may be None; `check` reads those
annotations, so a model declares its data once and every mistake of a user is one line.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.stream import Stream, blocks


class Params(NamedTuple):
    """What inference moves: `theta`, point parameters of the model, and `phi`, parameters of the guide."""

    theta: Any = None
    phi: Any = None


class Reading(NamedTuple):
    """What a reader returns: the data, one line on what was read, and how many rows were left out.

    test: data that the source itself keeps apart to measure a fit on; None where it has none.
    """

    data: Any
    summary: str
    num_left_out: int
    test: Any = None


class Action(NamedTuple):
    """A verb that a model alone has, such as a network's `query`: a method of its entry, and a command.

    run: called with the entry, then with keywords, which are the options of the command; str() of what it returns is
    printed. subject: the field of the Spec that is the argument of the command. saves: whether what it returns has
    `save(folder)`, which writes files and yields each path with a line on it.
    """

    run: Callable[..., Any]
    subject: str
    saves: bool = False


# --- trees ---------------------------------------------------------------------------------------------------------


def map_leaves(function: Callable[[str, Any], Any], tree: Any, path: str = "") -> Any:
    """Apply `function(path, leaf)` to every array of nested NamedTuples and dicts; None stays None."""
    if tree is None:
        return None
    prefix = f"{path}." if path else ""
    if isinstance(tree, dict):
        return {key: map_leaves(function, value, f"{prefix}{key}") for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = zip(tree._fields, tree, strict=True)
        return type(tree)(*(map_leaves(function, value, f"{prefix}{field}") for field, value in fields))
    return function(path, tree)


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the arrays of a tree by their dotted paths, in the order of the fields."""
    found: dict[str, Any] = {}
    map_leaves(found.__setitem__, tree, path)
    return found


def map_trees(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Apply `function(leaf, ...)` to the leaves of trees that are alike, one of each at a time."""
    rest = [leaves(tree) for tree in others]
    return map_leaves(lambda path, leaf: function(leaf, *(tree[path] for tree in rest)), first)


def flat(tree: Any) -> Any:
    """Return the numbers of a tree as one vector, in float64."""
    return np.concatenate([np.ravel(leaf) for leaf in leaves(tree).values()]).astype(np.float64)


def from_flat(numbers: Any, like: Any) -> Any:
    """Return the tree, like another one, that `flat` made this vector of."""
    ends = np.cumsum([np.size(leaf) for leaf in leaves(like).values()])
    parts = iter(np.split(numbers, ends[:-1]))
    return map_leaves(lambda _, leaf: next(parts).reshape(np.shape(leaf)), like)


def num_numbers(tree: Any) -> int:
    """Return how many numbers the arrays of a tree hold."""
    return sum(int(np.size(leaf)) for leaf in leaves(tree).values())


def from_leaves(kind: Any, arrays: Mapping[str, Any], name: str) -> Any:
    """Return the tree of this kind (a NamedTuple class, nested ones, or a dict) that has these dotted leaves.

    Raises
    ------
    UserError: a leaf that the kind must have is missing, or it has no place for one; `name` says of what.
    """
    if set(arrays) == {""}:
        return arrays[""]
    if _is_table(kind):  # whatever its names are: a point in one of them is no branch
        return dict(arrays)
    branches: dict[str, dict[str, Any]] = {}
    for path, leaf in arrays.items():
        head, _, rest = path.partition(".")
        branches.setdefault(head, {})[rest] = leaf
    below_dict = get_args(kind)[1] if get_origin(kind) is dict else None  # such as the layers of a network
    hints = get_type_hints(kind) if hasattr(kind, "_fields") else dict.fromkeys(branches, below_dict)
    check_keywords(branches, hints, f"field of {name}")
    built = {head: from_leaves(hints[head], below, f"{name}.{head}") for head, below in branches.items()}
    missing = [field for field in hints if field not in built and field not in getattr(kind, "_field_defaults", {})]
    if missing:
        raise UserError(f"{name}.{missing[0]} is missing")
    return kind(**built) if hasattr(kind, "_fields") else built


def as_numpy(value: Any) -> np.ndarray:
    """Return an array of any library as one of NumPy, which may share its memory."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `UserError` that names the argument when it is not a whole number, at least `least` and below 2^32."""
    if not is_whole(value) or not least <= value < 2**32:
        raise UserError(f"{name} is {value!r}: it must be a whole number, at least {least} and below {2**32}")


def check_number(name: str, value: Any, least: float = -np.inf, above: float = -np.inf) -> None:
    """Raise `UserError` that names the argument when it is no number, at least `least`, above `above`, below 2^32."""
    good = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not good or not least <= value < 2**32 or not above < value:
        lowest = f"at least {least:g}" if above == -np.inf else f"above {above:g}"
        raise UserError(f"{name} is {value!r}: it must be a number, {lowest} and below {2**32}")


def num_rows(data: Any) -> int | None:
    """Return the leading length of the first observed field, None when nothing is observed."""
    shared = _shared_by(data)
    return next((np.shape(leaf)[0] for name, leaf in leaves(data).items() if name not in shared), None)


def take_rows(data: Any, rows: Any) -> Any:
    """Return the rows of every observed field: a minibatch or a chunk is itself `Data`."""
    return map_rows(lambda leaf: leaf[rows], data)


def draw_rows(data: Any, most: int, rng: np.random.Generator) -> Any:
    """Return so many of the rows, drawn at random and in their order; the data themselves where they are no more."""
    total = num_rows(data) or 0
    drawn = np.sort(rng.choice(total, min(total, most), replace=False))
    return data if total <= most else take_rows(data, drawn)


def map_rows(function: Callable[[Any], Any], data: Any) -> Any:
    """Apply `function(leaf)` to every observed field that has rows."""
    shared = _shared_by(data)
    return map_leaves(lambda name, leaf: leaf if name in shared else function(leaf), data)


def without_rows(data: Any) -> Any:
    """Return the data with nothing observed: only what all rows share is left."""
    shared = _shared_by(data)
    return map_leaves(lambda name, leaf: leaf if name in shared else None, data)


def with_holes(data: Any, part: float, rng: np.random.Generator) -> Any:
    """Return data with a part of the cells missing, drawn at random; the same data where none may be."""
    marked = [
        name for name, field in fields(data).items() if missing in field.marks and getattr(data, name) is not None
    ]
    if not marked:
        return data
    holed = {}
    for name in marked:
        cells = as_numpy(getattr(data, name))
        nothing = -1 if cells.dtype.kind == "i" else np.nan
        holed[name] = np.where(rng.random(cells.shape) < part, nothing, cells)
    return data._replace(**holed)


# --- what values may be -----------------------------------------------------------------------------------------------


class Constraint(NamedTuple):
    """What the values of a field may be: a mask of the good ones, and the words for it."""

    words: str
    good: Callable[[np.ndarray], np.ndarray]


finite = Constraint("finite", np.isfinite)
finite_or_missing = Constraint("finite, or NaN where it is missing", lambda x: ~np.isinf(x))
positive = Constraint("positive and finite", lambda x: np.isfinite(x) & (x > 0))
state_or_missing = Constraint("a state, counted from 0, or -1 where it is missing", lambda x: x >= -1)
count = Constraint("a whole number, 0 or more", lambda x: np.isfinite(x) & (x >= 0) & (np.floor(x) == x))
simplex = Constraint(
    "positive, and sum to one",
    lambda x: np.isfinite(x) & (x > 0) & (np.abs(x.sum(-1, keepdims=True) - 1.0) < 1e-6),
)

# Marks a field that may be None: which are, and when, the model says.
optional = "optional"
# Marks a field whose cells may be missing: NaN, or -1 where they are states.
missing = "missing"
# Marks a field of Data that has no rows, but is the same for all of them.
shared = "shared"


class Field(NamedTuple):
    """The declaration of one field: its dimensions by name, its constraints, and how it is marked.

    table: whether it holds arrays by their names, each of which is such.
    """

    dims: tuple[str, ...]
    integer: bool
    marks: frozenset[str]
    constraints: tuple[Constraint, ...]
    table: bool = False

    @property
    def optional(self) -> bool:
        """Whether it may be None."""
        return optional in self.marks


def _is_table(hint: Any) -> bool:
    """Return whether this is the type of a dict of arrays, or of none."""
    return _of_table(hint) is not None


def _of_table(hint: Any) -> Any:
    """Return the type of the arrays in a dict of arrays; None for another type."""
    if get_origin(hint) in (Union, UnionType):
        hint = next((each for each in get_args(hint) if get_origin(each) is dict), None)
    return get_args(hint)[1] if get_origin(hint) is dict and hasattr(get_args(hint)[1], "dim_str") else None


def _declaration(hint: Any) -> Field | None:
    """Read `Annotated[Float[Any, "events 2"], count]`, or one of a `dict[str, Float[Any, "..."]]`.

    None for a field that is not an array (a nested tree).
    """
    constraints: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *constraints = get_args(hint)  # type: ignore[assignment]
    if table := _is_table(hint):
        hint = _of_table(hint)
    if not hasattr(hint, "dim_str"):
        return None
    integer = all("int" in str(dtype) for dtype in hint.dtypes)
    marks = frozenset(mark for mark in constraints if isinstance(mark, str))
    checked = tuple(constraint for constraint in constraints if isinstance(constraint, Constraint))
    basic = finite if missing not in marks else state_or_missing if integer else finite_or_missing
    return Field(tuple(hint.dim_str.split()), integer, marks, (basic, *checked), table)


def fields(tree: Any) -> dict[str, Field]:
    """Return the declarations of the array fields of a NamedTuple (the class or an instance)."""
    kind: Any = tree if isinstance(tree, type) else type(tree)
    return _fields(kind)


@functools.cache
def _fields(kind: Any) -> dict[str, Field]:
    found = {name: _declaration(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return {name: field for name, field in found.items() if field is not None}


def _shared_by(data: Any) -> frozenset[str]:
    kind: Any = type(data)
    return _shared(kind)


@functools.cache
def _shared(kind: Any) -> frozenset[str]:
    """Return the fields of a class of data that have no rows."""
    return frozenset(name for name, field in _fields(kind).items() if shared in field.marks)


def check(values: Any, spec: Any, role: str, sizes: dict[str, int] | None = None) -> Any:
    """Return the tree with every field as an array, checked against its declaration.

    Parameters
    ----------
    values: a `Data`, `Prior`, `Theta` or `Phi`.
    spec: the static description; a dimension that bears the name of one of its fields has that size.
    role: "data", "prior" ...: how the message names the tree.
    sizes: sizes of named dimensions that are known already; those met on the way are added.

    Raises
    ------
    UserError: names the field (and the row), and says what would be right.
    """
    sizes = {} if sizes is None else sizes
    declared = fields(values)
    arrays = [
        _checked(value, declared[name], f"{role}.{name}", spec, sizes)
        if name in declared
        else _checked_tree(value, spec, f"{role}.{name}")
        for name, value in zip(values._fields, values, strict=True)
    ]
    return type(values)(*arrays)


def _checked_tree(value: Any, spec: Any, role: str) -> Any:
    """Return a nested tree, checked: each of its parts has sizes of its own."""
    if isinstance(value, dict):
        return {key: _checked_tree(below, spec, f"{role}.{key}") for key, below in value.items()}
    return check(value, spec, role) if hasattr(value, "_fields") else value


def sizes(tree: Any) -> dict[str, int]:
    """Return the sizes of the dimensions of a tree of arrays, by their names."""
    found: dict[str, int] = {}
    for name, field in fields(tree).items() if tree is not None else ():
        if (value := getattr(tree, name)) is not None and field.dims != ("...",) and not field.table:
            found |= {dim: size for dim, size in zip(field.dims, np.shape(value), strict=True) if not dim.isdigit()}
    return found


def _checked(value: Any, field: Field, name: str, spec: Any, sizes: dict[str, int]) -> Any:
    if value is None:
        if field.optional:
            return None
        raise UserError(f"{name} is missing: {_words(field)}")
    if field.table:
        if not isinstance(value, dict):
            raise UserError(f"{name} is a {type(value).__name__}: give a dict of arrays")
        one = field._replace(table=False)
        return {key: _checked(array, one, f"{name}.{key}", spec, sizes) for key, array in value.items()}
    array = value if isinstance(value, Stream) else _array(value, field, name)
    _check_shape(array.shape, field, name, spec, sizes)
    for constraint in field.constraints:
        _check_values(array, constraint, name)
    # An array of another library stays one: the closed forms take their namespace from it.
    return value if hasattr(value, "__array_namespace__") and not isinstance(value, np.ndarray) else array


def _check_values(array: np.ndarray | Stream, constraint: Constraint, name: str) -> None:
    """Raise `UserError` that names the first value which does not fulfil a constraint."""
    if constraint is finite and isinstance(array, Stream) and np.isfinite(array.extremes).all():
        return  # found once, and kept
    for start, block in blocks(array):
        good = constraint.good(block)
        if not np.all(good):
            where = tuple(int(i) for i in np.argwhere(~np.broadcast_to(good, block.shape))[0])
            place = (start + where[0], *where[1:]) if where else ()
            at = f"[{', '.join(map(str, place))}]" if where else ""
            raise UserError(f"{name}{at} is {block[where]:g}: it must be {constraint.words}")


def _array(value: Any, field: Field, name: str) -> np.ndarray:
    """Convert to a NumPy array of floats (their precision kept) or of integers."""
    try:
        array = as_numpy(value)
        wanted = np.int64 if field.integer else (array.dtype if array.dtype.kind == "f" else np.float64)
        with np.errstate(invalid="ignore"):  # NaN is no whole number, which is told below
            converted = array.astype(wanted, copy=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers: {_words(field)}") from error
    if field.integer and not np.array_equal(converted, array):
        raise UserError(f"{name} must hold whole numbers")
    return converted


def _check_shape(shape: tuple[int, ...], field: Field, name: str, spec: Any, sizes: dict[str, int]) -> None:
    if field.dims == ("...",):
        return
    if len(shape) != len(field.dims):
        raise UserError(f"{name} has shape {shape}: {_words(field)}")
    for dim, size in zip(field.dims, shape, strict=True):
        wanted = int(dim) if dim.isdigit() else getattr(spec, dim, None) or sizes.setdefault(dim, size)
        if size != wanted:
            known = "" if dim.isdigit() else f" with {dim} = {wanted}"
            raise UserError(f"{name} has shape {shape}: {_words(field)}{known}")
        if size == 0:
            raise UserError(f"{name} is empty: give at least one of {dim}")


def _words(field: Field) -> str:
    shape = (
        f"an array of shape ({', '.join(field.dims)}{',' if len(field.dims) == 1 else ''})"
        if field.dims
        else "a number"
    )
    return f"give {shape}"


# --- what a static description may be -------------------------------------------------------------------------------


def make_spec(spec_class: type, given: Mapping[str, Any]) -> Any:
    """Return the Spec with the given fields: names and choices (Literal) are checked here, the rest by the Spec."""
    hints = get_type_hints(spec_class)
    check_keywords(given, hints, "option")
    for field, value in given.items():
        if get_origin(hints[field]) is Literal:
            choose(value, get_args(hints[field]), field)
        elif hints[field] is int and not is_whole(value):
            raise UserError(f"{field} is {value!r}: it must be a whole number")
    return spec_class(**given)


def variants(spec: Any) -> Iterator[Any]:
    """Yield the Spec with every combination of its choices (its Literal fields)."""
    choices = {name: get_args(hint) for name, hint in get_type_hints(type(spec)).items() if get_origin(hint) is Literal}
    for values in itertools.product(*choices.values()):
        yield dataclasses.replace(spec, **dict(zip(choices, values, strict=True)))


def check_keywords(given: Mapping[str, Any], allowed: Any, what: str) -> None:
    """Raise `UserError` with the nearest match when a keyword is not one of the allowed names."""
    for name in given:
        choose(name, allowed, what)
