"""The graph of the loss after reparametrisation, found from the programs themselves.

A draw of a guide's site is a function of noise, of parameters and of what else its distribution was made of; the terms
of the ELBO are functions of those. What depends on what is not written down but traced: NumPyro follows every input
through the computation of every log density.
"""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from latentzoo.inference.automatic import Pair, backend
from latentzoo.inference.pictures.dot import Graph
from latentzoo.models.language import contract

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

NUM_ROWS = 20  # of data that are made for the trace
DATA, PARAMETER, PRIOR, SITE = "data", "parameter", "prior", "site"
STYLES = {
    DATA: 'shape=box style=filled fillcolor="#dddddd"',
    PARAMETER: 'shape=box style=rounded color="#332288"',
    PRIOR: 'shape=plaintext fontcolor="#666666"',
    SITE: "shape=ellipse",
    "noise": 'shape=diamond color="#117733" fontcolor="#117733"',
    "sum": 'shape=ellipse style=dashed color="#882255"',
    "term": 'shape=box style=filled fillcolor="#f4f0f4" color="#882255"',
    "loss": 'shape=doubleoctagon color="#882255"',
}


class Dependencies(NamedTuple):
    """What the log density of each site depends on, by names of inputs; the sites of the guide and of the model.

    discrete: the sites that are summed out.
    """

    guide: Mapping[str, frozenset[str]]
    model: Mapping[str, frozenset[str]]
    discrete: frozenset[str]


def loss_graph(zoo: "Entry") -> Graph:
    """Return the graph of minus the ELBO of one draw, whose sites are pushed noise or summed out."""
    return Graph(_dot(dependencies(zoo)))


def dependencies(zoo: "Entry") -> Dependencies:
    """Trace both programs on data of their own making."""
    from numpyro.ops.provenance import eval_provenance

    auto = backend("numpyro")
    data, _ = zoo.simulate(seed=0, num_rows=NUM_ROWS)
    prior = zoo.prior(data)
    params = zoo.init(data, prior)
    with auto.precision():
        arrays = {
            role: auto.ppl.arrays(tree) for role, tree in {"data": data, "prior": prior, "params": params}.items()
        }
        pair = Pair(zoo.model.numpyro, zoo.guide.numpyro, (data, prior, params))
        drawn = auto.latents(pair, contract.leaves(params), {}, seed=0)
        discrete = {name for name, site in drawn.items() if site.discrete}
        hidden = _hidden(zoo, arrays)
        values = {name: site.value for name, site in drawn.items()} | hidden
        inputs = {
            f"{role}/{path}": leaf for role, tree in arrays.items() for path, leaf in contract.leaves(tree).items()
        }
        inputs |= {f"{SITE}/{name}": value for name, value in values.items()}

        def densities(**given: Any) -> dict[str, dict[str, Any]]:
            trees = [_filled(arrays[role], role, given) for role in ("data", "prior", "params")]
            at = {name: given[f"{SITE}/{name}"] for name in values}
            return {
                "guide": _log_probs(zoo.guide.numpyro, trees, at),
                "model": _log_probs(zoo.model.numpyro, trees, at),
            }

        found = eval_provenance(densities, **inputs)
    named = {side: {site: frozenset(map(_group, of)) for site, of in each.items()} for side, each in found.items()}
    return Dependencies(named["guide"], named["model"], frozenset(discrete | set(hidden)))


def _hidden(zoo: "Entry", arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of the sites that the model sums out by itself: those that the guide does not draw."""
    from numpyro import handlers

    trace = handlers.trace(handlers.seed(zoo.model.numpyro, 0)).get_trace(*arrays.values())
    free = {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
    return {name: site["value"] for name, site in free.items() if site["fn"].has_enumerate_support}


def _filled(tree: Any, role: str, given: Mapping[str, Any]) -> Any:
    return contract.map_leaves(lambda path, _: given[f"{role}/{path}"], tree)


def _log_probs(program: Any, args: list[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log density of each site of a program, its latent sites at these values."""
    from numpyro import handlers

    data, prior, params = args
    fixed = handlers.substitute(handlers.seed(program, 0), data=dict(values))
    leaves = contract.leaves(params)
    trace = handlers.trace(handlers.substitute(fixed, data=leaves)).get_trace(data, prior, params)
    drawn = {name: site for name, site in trace.items() if site["type"] == "sample"}
    return {name: site["fn"].log_prob(site["value"]).sum() for name, site in drawn.items()}


def _group(name: str) -> str:
    """Return the node of an input: a site, a field of the data or the prior, a network as a whole."""
    role, _, path = name.partition("/")
    return f"{role}/{'.'.join(path.split('.')[:2])}" if role == "params" else f"{role}/{path.split('.')[0]}"


# --- the drawing ------------------------------------------------------------------------------------------------------


def _dot(found: Dependencies) -> str:
    """Return the graph in DOT: inputs above, the sites, the terms, and the loss below."""
    nodes: dict[str, str] = {}
    arcs: dict[tuple[str, str], None] = {}

    def add(name: str, text: str, style: str) -> str:
        nodes[name] = f'[label="{escape(text)}" {STYLES[style]}]'
        return name

    def from_inputs(names: frozenset[str], to: str) -> None:
        for name in sorted(names):
            if name != to:
                arcs[_node(name, found, add), to] = None

    loss = add("loss", "- ELBO", "loss")
    for site, names in found.guide.items():
        if f"{SITE}/{site}" not in names:  # a factor: a term of its own
            continue
        to = _node(f"{SITE}/{site}", found, add)
        if site not in found.discrete:
            arcs[add(f"noise/{site}", f"noise of {site}", "noise"), to] = None
        from_inputs(names - {to}, to)
    for sign, side in (("", found.model), ("- ", found.guide)):
        for site, names in side.items():
            letter = "q" if sign else "p"
            term = add(f"{letter}/{site}", f"{sign}log {letter}({site})", "term")
            from_inputs(names, term)
            arcs[term, loss] = None
    lines = [f'  "{escape(name)}" {style};' for name, style in nodes.items()]
    lines += [f'  "{escape(a)}" -> "{escape(b)}";' for a, b in arcs]
    head = '  node [fontname="Helvetica" fontsize=10]; edge [arrowsize=0.6];'
    return "\n".join(["digraph {", head, *lines, "}", ""])


def _node(name: str, found: Dependencies, add: Any) -> str:
    """Add the node of an input or a site; return its name."""
    role, _, path = name.partition("/")
    if role == SITE:
        summed = path in found.discrete
        return str(add(name, f"{path}, summed over its states" if summed else path, "sum" if summed else SITE))
    kinds = {"data": DATA, "prior": PRIOR, "params": PARAMETER}
    return str(add(name, path, kinds[role]))
