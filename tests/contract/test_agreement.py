"""Every model, in every variant of its Spec, in both libraries: the hand-derived numbers are the automatic ones."""

import pytest

import latentzoo as lz
from latentzoo.inference.checks import TOLERANCE
from latentzoo.models.language.contract import leaves, variants
from latentzoo.models.language.ppl import LIBRARIES

CASES = [
    pytest.param(name, vars(variant), id=f"{name}-{'-'.join(map(str, vars(variant).values()))}")
    for name in lz.names()
    for variant in variants(lz.get(name).spec)
]


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_hand_equals_automatic(name, spec):
    report = lz.verify(name, progress=False, **spec)
    assert report.ok, str(report)

    # Nothing was left out: the bound and every parameter at three points, the free local fields, and a minibatch.
    zoo = lz.get(name, **spec)
    data, _ = zoo.simulate(num_rows=5, library="pyro")
    wanted = {"elbo", *leaves(zoo.init(data))}
    local = {f"phi.{field}" for field in zoo.guide_room.LOCAL}
    for library in LIBRARIES:
        rows = [row for row in report.rows if row.library == library and "random point" in row.point]
        whole = [row for row in rows if "free" not in row.variant and "minibatch" not in row.variant]
        assert len({row.point for row in whole}) == 3
        assert {row.quantity for row in whole} == wanted
        assert local <= {row.quantity for row in rows}
        assert any("minibatch" in row.variant for row in rows)

    # No statistical check stands in for an exact one, and nothing is allowed more than 1e-10 of its largest number.
    assert not any("z-test" in row.way for row in report.rows)
    assert all(row.tolerance <= TOLERANCE * 1e5 for row in report.rows)
    assert all(row.error <= 1e-10 * abs(row.automatic) for row in report.rows if row.quantity == "elbo")

    # With known noise no two blocks interact: at their optimum every single draw is the bound.
    certificates = [row for row in report.rows if "zero-variance certificate" in row.way]
    assert len(certificates) == (len(LIBRARIES) if spec.get("noise") == "known" else 0)
    assert all(row.error < 1e-10 * abs(row.hand) for row in certificates)
