"""A Bayesian network as a graph in DOT, each node with the probabilities of its states as bars."""

from collections.abc import Mapping
from html import escape

from latentzoo.inference.pictures import ACCENT, COLOURS, INK
from latentzoo.models.language.graph import Network

MOST_STATES = 8  # of a node that are drawn
LONGEST = 24  # letters of a name
BAR = 70  # points of a probability of one
SEEN, GUESSED = ACCENT, COLOURS[6]


def dot(network: Network, marginals: Mapping[str, Mapping[str, float]], evidence: Mapping[str, str]) -> str:
    """Return the graph of a network, its nodes as tables of states with bars; those of evidence in another colour."""
    number = network.place
    lines = [
        f"  n{number[node]} [label=<{_label(node, marginals[node], node in evidence)}>];" for node in network.nodes
    ]
    arcs = [f"  n{number[parent]} -> n{number[node]};" for node in network.nodes for parent in network.parents_of(node)]
    style = f'node [shape=plain fontname="Helvetica" fontsize=10]; edge [color="{INK}" arrowsize=0.6];'
    return "\n".join(["digraph {", f"  {style}", *lines, *arcs, "}", ""])


def _label(node: str, probs: Mapping[str, float], seen: bool) -> str:
    """Return the table of a node in the language of DOT's labels."""
    shown = list(probs.items())
    left_out = 0
    if len(shown) > MOST_STATES:
        shown = sorted(shown, key=lambda each: -each[1])[: MOST_STATES - 1]
        left_out = len(probs) - len(shown)
    head = f'<TR><TD COLSPAN="3"><B>{_word(node)}</B>{" (seen)" if seen else ""}</TD></TR>'
    rows = [head, *(_row(state, prob, seen) for state, prob in shown)]
    if left_out:
        rows.append(f'<TR><TD COLSPAN="3">{left_out} more</TD></TR>')
    colour = SEEN if seen else INK
    return f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="1" CELLPADDING="1" COLOR="{colour}">{"".join(rows)}</TABLE>'


def _row(state: str, prob: float, seen: bool) -> str:
    """Return a state with its bar: a cell of its width beside one of what is left."""
    width, colour = round(BAR * prob), SEEN if seen else GUESSED
    cells = [f'<TD FIXEDSIZE="TRUE" WIDTH="{w}" HEIGHT="8"{c}></TD>' for w, c in _widths(width, colour) if w]
    bar = f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0"><TR>{"".join(cells)}</TR></TABLE>'
    return f'<TR><TD ALIGN="LEFT">{_word(state)}</TD><TD>{bar}</TD><TD ALIGN="RIGHT">{100.0 * prob:.1f}%</TD></TR>'


def _widths(width: int, colour: str) -> list[tuple[int, str]]:
    return [(width, f' BGCOLOR="{colour}"'), (BAR - width, ' BGCOLOR="#eeeeee"')]


def _word(name: str) -> str:
    return escape(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")
