"""Rows that stay on disk: the same numbers as in memory, wherever they are asked for, and never all of them at once."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import latentzoo as lz
from latentzoo.inference.accumulate import CHUNK_ROWS, chunks
from latentzoo.models.language import contract, stream
from latentzoo.models.language.deep import check_features, default_noise
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.stream import Stream, blocks, extremes, floats, variance

RAW = np.random.default_rng(0).integers(0, 256, size=(50, 6), dtype=np.uint8)


def mapped(raw: np.ndarray, **options: Any) -> Stream:
    parts = (raw[start : start + 7].tobytes() for start in range(0, len(raw), 7))
    return Stream(stream.on_disk(parts, raw.dtype, raw.shape, Path("raw")), **options)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_NUMBERS", 60)


INDICES = st.integers(-50, 49)


@given(
    st.one_of(
        INDICES,
        st.slices(50),
        st.lists(INDICES).map(lambda rows: np.array(rows, dtype=int)),
        st.lists(st.tuples(INDICES, INDICES)).map(lambda rows: np.array(rows, dtype=int).reshape(-1, 2)),
        st.lists(st.booleans(), min_size=50, max_size=50).map(np.array),
    ),
    st.sampled_from([{}, {"unit": 255.0}, {"unit": 255.0, "threshold": 0.5}]),
)
def test_rows_are_those_of_the_array(rows: Any, options: dict[str, float]) -> None:
    found, wanted = mapped(RAW, **options)[rows], floats(RAW, **options)[rows]
    np.testing.assert_array_equal(found, wanted)
    assert type(found) is np.ndarray
    assert found.dtype == np.float32


def test_it_has_a_shape_as_an_array_has() -> None:
    held = mapped(RAW)
    assert np.shape(held) == (50, 6)
    assert np.ndim(held) == 2
    assert np.size(held) == 300
    assert len(held) == 50
    assert held.dtype == np.float32
    assert mapped(RAW.astype(np.float64)).dtype == np.float64
    assert repr(held) == "<Stream: 50 rows of 6 features on disk>"


def test_the_whole_is_never_in_memory() -> None:
    held = mapped(RAW)
    for convert in (np.asarray, np.array, contract.as_numpy, lambda x: x + np.ones(6)):
        with pytest.raises((UserError, TypeError)):
            convert(held)
    with pytest.raises(UserError, match="the rows stay on disk, as they would fill"):
        np.asarray(held)


def test_blocks_are_all_the_rows_in_order() -> None:
    for x in (mapped(RAW), RAW):
        starts, parts = zip(*blocks(x), strict=True)
        assert starts == (0, 10, 20, 30, 40)
        np.testing.assert_array_equal(np.concatenate(parts), RAW)
    ((start, whole),) = blocks(np.arange(1000))
    assert (start, len(whole)) == (0, 1000)


@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_what_is_found_block_by_block_is_that_of_the_whole(unit: float) -> None:
    held, whole = mapped(RAW, unit=unit), floats(RAW, unit)
    for x in (held, whole):
        assert extremes(x) == (whole.min(), whole.max())
        np.testing.assert_allclose(variance(x), whole.astype(np.float64).var(0), rtol=1e-12)
    assert default_noise(held) == default_noise(whole)


def test_data_that_stay_on_disk_are_data() -> None:
    zoo = lz.get("vae")
    data = zoo.check(zoo.Data(mapped(RAW, unit=255.0), np.arange(50)))
    assert isinstance(data.x, Stream)
    assert contract.num_rows(data) == 50
    taken = contract.take_rows(data, np.array([3, 1]))
    np.testing.assert_array_equal(taken.x, floats(RAW, 255.0)[[3, 1]])
    assert taken.label.tolist() == [3, 1]
    parts = list(chunks(data, 20))
    assert [len(part.x) for part in parts] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), floats(RAW, 255.0))
    whole = zoo.check(zoo.Data(floats(RAW, 255.0)))
    assert zoo.prior(data) == zoo.prior(whole)
    params = zoo.init(data)
    for path, leaf in contract.leaves(zoo.init(whole)).items():
        np.testing.assert_array_equal(contract.leaves(params)[path], leaf)
    assert zoo.elbo(params, data, zoo.prior(data)) == zoo.elbo(params, whole, zoo.prior(whole))


def test_accuracy_is_measured_on_rows_that_stay_on_disk() -> None:
    zoo = lz.get("semisupervised_vae", hidden=(3,))
    raw = np.resize(RAW, (CHUNK_ROWS + 50, 6))
    label = np.arange(len(raw)) % 3 - 1
    data, whole = (zoo.check(zoo.Data(x, label)) for x in (mapped(raw, unit=255.0), floats(raw, 255.0)))
    params, form = zoo.init(data), zoo.closed_form
    found = form.metrics(0.0, params, data, zoo.spec)
    assert found == form.metrics(0.0, params, whole, zoo.spec)
    assert found["num_labelled"] == np.count_nonzero(label >= 0)


@pytest.mark.parametrize("keep", [lambda x: mapped(x), lambda x: x])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "data.x[23, 4] is nan: it must be finite"),
        (np.inf, "data.x[23, 4] is inf: it must be finite"),
        (1.5, "data.x[23, 4] is 1.5: a Bernoulli value is from 0 to 1"),
        (-0.5, "data.x[23, 4] is -0.5: a Bernoulli value is from 0 to 1"),
    ],
)
def test_a_bad_value_is_named_with_its_row(keep: Any, value: float, words: str) -> None:
    raw = floats(RAW, 255.0).copy()
    raw[23, 4] = value
    raw[40, 0] = 7.0
    zoo = lz.get("vae")
    with pytest.raises(UserError) as raised:
        zoo.check(zoo.Data(keep(raw)))
    assert words in str(raised.value)


def test_the_first_of_two_bad_values_is_named() -> None:
    x = floats(RAW, 255.0).copy()
    x[12, 0] = x[31, 0] = 2.0
    with pytest.raises(UserError, match=r"data.x\[12, 0\] is 2"):
        check_features(x, "bernoulli")
    check_features(x, "gaussian")


def test_a_threshold_leaves_what_is_no_number() -> None:
    x = floats(np.array([0.2, np.nan, 0.5, 0.7]), threshold=0.5)
    np.testing.assert_array_equal(x, [0.0, np.nan, 0.0, 1.0])


def test_a_shape_that_does_not_fit_is_one_line() -> None:
    zoo = lz.get("vae", network="convolutional")
    with pytest.raises(UserError, match="6 numbers a row: a convolution needs square images"):
        zoo.check(zoo.Data(mapped(RAW, unit=255.0)))


def test_what_is_large_is_measured_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "free_memory", lambda: 1600)
    for dtype, most in [(np.uint8, 100), (np.float32, 100), (np.float64, 50), (np.int32, 50)]:
        assert not stream.is_large(most, np.dtype(dtype))
        assert stream.is_large(most + 1, np.dtype(dtype))
    monkeypatch.undo()
    assert 2**20 < stream.free_memory() < 2**50


def test_a_disk_without_room_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = stream.shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda folder: usage._replace(free=299))
    with pytest.raises(UserError, match=r"raw unpacks to .* which has less room: name another folder in TMPDIR"):
        mapped(RAW)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = mapped(RAW)
    np.testing.assert_array_equal(held[:], RAW)
    del held
    assert not list(tmp_path.iterdir())


def test_data_in_single_precision_run_in_pyro() -> None:
    """Parameters start in float64, which torch would not multiply with them; the numbers are those of wide data."""
    import pyro

    zoo = lz.get("vae", hidden=(3,))
    x, losses = floats(RAW, 255.0), []
    prior, params = zoo.prior(zoo.Data(x)), zoo.init(zoo.Data(x))
    for data in (zoo.Data(x, np.arange(50)), zoo.Data(x.astype(np.float64))):
        pyro.set_rng_seed(0)
        losses.append(zoo.loss.pyro().loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params))
    assert losses[0] == losses[1]
