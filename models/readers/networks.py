"""Networks by name: those that are built in, and files in BIF."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network, Node
from latentzoo.models.readers.bif import read_bif

BINARY = ("yes", "no")


def six_nodes() -> Network:
    """Return a -> b, a -> c, c -> d, d -> e, d -> f, with tables of its own making."""
    low, high, three = ("low", "high"), ("off", "on"), ("small", "medium", "large")
    return Network.of(
        "six_nodes",
        [
            Node("a", low, (), [0.6, 0.4]),
            Node("b", high, ("a",), [[0.7, 0.3], [0.2, 0.8]]),
            Node("c", three, ("a",), [[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]]),
            Node("d", low, ("c",), [[0.9, 0.1], [0.6, 0.4], [0.25, 0.75]]),
            Node("e", high, ("d",), [[0.8, 0.2], [0.35, 0.65]]),
            Node("f", three, ("d",), [[0.6, 0.3, 0.1], [0.15, 0.25, 0.6]]),
        ],
    )


def asia() -> Network:
    """Return the chest clinic of Lauritzen & Spiegelhalter (1988), "asia"."""
    return Network.of(
        "asia",
        [
            Node("asia", BINARY, (), [0.01, 0.99]),
            Node("tub", BINARY, ("asia",), [[0.05, 0.95], [0.01, 0.99]]),
            Node("smoke", BINARY, (), [0.5, 0.5]),
            Node("lung", BINARY, ("smoke",), [[0.1, 0.9], [0.01, 0.99]]),
            Node("bronc", BINARY, ("smoke",), [[0.6, 0.4], [0.3, 0.7]]),
            Node("either", BINARY, ("lung", "tub"), [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]),
            Node("xray", BINARY, ("either",), [[0.98, 0.02], [0.05, 0.95]]),
            Node("dysp", BINARY, ("bronc", "either"), [[[0.9, 0.1], [0.8, 0.2]], [[0.7, 0.3], [0.1, 0.9]]]),
        ],
    )


BUILT_IN: dict[str, Callable[[], Network]] = {"six_nodes": six_nodes, "asia": asia}


def find_network(network: Any) -> Network:
    """Return a network: itself, a built-in one by its name, a file in BIF by its path, or the fields of a saved one.

    Raises
    ------
    UserError: it is none of these, or the file cannot be read as a network.
    """
    if isinstance(network, Network):
        return network
    if isinstance(network, Mapping):
        return _saved(network)
    if not isinstance(network, str | Path):
        raise UserError(f"network is a {type(network).__name__}: give a name, the path of a file in BIF, or a Network")
    if str(network) in BUILT_IN:
        return BUILT_IN[str(network)]()
    if not Path(network).expanduser().exists():
        near = get_close_matches(str(network), BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"no network {str(network)!r}: {hint}built in are {', '.join(BUILT_IN)}, and no file is so called"
        )
    return read_bif(network)


def _saved(fields: Mapping[str, Any]) -> Network:
    """Return the network that JSON has made lists of."""
    try:
        nested = {name: tuple(tuple(each) for each in fields[name]) for name in ("states", "parents", "tables")}
        return Network(name=str(fields["name"]), nodes=tuple(fields["nodes"]), **nested)
    except (KeyError, TypeError) as error:
        raise UserError("network has not the fields of a saved one: name, nodes, states, parents, tables") from error
