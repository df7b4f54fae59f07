"""Every model, in every variant of its Spec, in both libraries: the hand-derived numbers are the automatic ones."""

import itertools

import pytest

import latentzoo as lz
from latentzoo.inference.checks import TOLERANCE
from latentzoo.models.language.contract import leaves, variants
from latentzoo.models.language.ppl import LIBRARIES

# Whose like is proved anyway; `make test-all` and `make bench` prove them, too.
LONG = ("tied", "spherical", "convolutional", "gaussian", "learned_gaussian")
CASES = [
    pytest.param(
        name,
        vars(variant),
        id=f"{name}-{'-'.join(map(str, vars(variant).values()))}",
        marks=[pytest.mark.slow] if set(LONG) & set(map(str, vars(variant).values())) else [],
    )
    for name in lz.names()
    for variant in variants(lz.get(name).spec)
]


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_hand_equals_automatic(name, spec):
    report = lz.verify(name, progress=False, **spec)
    assert report.ok, str(report)

    # Nothing was left out: the bound and every parameter at three points, the free local fields, and a minibatch, of
    # each objective that the methods of the model climb.
    zoo = lz.get(name, **spec)
    data, _ = zoo.simulate(num_rows=5, library="pyro")
    local = {f"phi.{field}" for field in zoo.guide_room.LOCAL}
    for library, method in itertools.product(LIBRARIES, {zoo.objective(each): each for each in zoo.methods}.values()):
        wanted = {"elbo", *leaves(zoo.init(data, method=method))}
        of = f"{zoo.objective(method)}; " if zoo.Theta._fields else ""
        rows = [row for row in report.rows if row.library == library and row.variant.startswith(of)]
        rows = [row for row in rows if "random point" in row.point]
        whole = [row for row in rows if "free" not in row.variant and "minibatch" not in row.variant]
        assert len({row.point for row in whole}) == 3
        assert {row.quantity for row in whole} == wanted
        assert local <= {row.quantity for row in rows}
        assert any("minibatch" in row.variant for row in rows) == zoo.has_rows

    # No statistical check stands in for an exact one, and nothing is allowed more than 1e-10 of its largest number.
    assert not any("z-test" in row.way for row in report.rows)
    assert all(row.tolerance <= TOLERANCE * 1e5 for row in report.rows)
    assert all(row.error <= 1e-10 * abs(row.automatic) for row in report.rows if row.quantity == "elbo")

    # Where no two blocks of q interact, every single draw is the bound at their optimum. A known noise is such a case,
    # and so is a noise in one block with the centre.
    separates = "cavi" in zoo.methods and spec.get("noise", "known") == "known"
    certificates = [row for row in report.rows if "zero-variance certificate" in row.way]
    assert len(certificates) == (len(LIBRARIES) if separates else 0)
    assert all(row.error < 1e-10 * abs(row.hand) for row in certificates)
