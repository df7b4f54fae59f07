"""Every model, in every variant of its Spec, in both libraries: the hand-derived numbers are the automatic ones."""

import pytest

import latentzoo as lz
from latentzoo.inference.verify import TOLERANCE
from latentzoo.models.language.contract import leaves, variants
from latentzoo.models.language.ppl import LIBRARIES

CASES = [
    pytest.param(name, vars(variant), library, id=f"{name}-{'-'.join(map(str, vars(variant).values()))}-{library}")
    for name in lz.names()
    for variant in variants(lz.get(name).spec)
    for library in LIBRARIES
]


@pytest.mark.parametrize(("name", "spec", "library"), CASES)
def test_hand_equals_automatic(name, spec, library):
    report = lz.verify(name, library=library, progress=False, **spec)
    assert report.ok, str(report)

    # Nothing was left out: the bound and every parameter at three points, the free local fields, and a minibatch.
    zoo = lz.get(name, **spec)
    data, _ = zoo.simulate(num_rows=5)
    wanted = {"elbo", *leaves(zoo.init(data))}
    whole = [row for row in report.rows if "free" not in row.variant and "minibatch" not in row.variant]
    assert len({row.point for row in whole}) == 3
    assert {row.quantity for row in whole} == wanted
    assert any("minibatch" in row.variant for row in report.rows)
    # No statistical check stands in for an exact one, and no allowance is above 1e-10 of the largest number.
    assert not any("z-test" in row.way for row in report.rows)
    assert all(
        row.error <= TOLERANCE * max(1.0, abs(row.automatic)) or row.error <= row.tolerance for row in report.rows
    )


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("weights", ["fixed", "dirichlet"])
def test_known_noise_has_the_zero_variance_certificate(weights, library):
    report = lz.verify("earthquakes", library=library, weights=weights, noise="known", num_points=1, progress=False)
    certificates = [row for row in report.rows if "zero-variance certificate" in row.way]
    assert len(certificates) == 1
    assert certificates[0].ok
    assert certificates[0].error < 1e-10 * abs(certificates[0].hand)
