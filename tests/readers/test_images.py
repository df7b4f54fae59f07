"""The readers of images: IDX, NPZ and folders, what they make of rows and labels, and the files that they refuse."""

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import latentzoo as lz
from latentzoo.cli import main
from latentzoo.models.language import stream
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.stream import Stream
from latentzoo.models.readers.rows import some_labels

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}
NAMES = ["vae", "two_latent_vae", "mixture_vae", "discrete_vae", "semisupervised_vae"]


def as_idx(array: np.ndarray, dtype: str = "u1", shape: tuple[int, ...] | None = None) -> bytes:
    """Return a file of an array; its header may say another shape."""
    shape = array.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, CODES[dtype], len(shape), *shape)
    return header + array.astype(dtype).tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, size=(12, 3, 4), dtype=np.uint8)
LABELS = np.arange(12) % 3
ROWS = (IMAGES.reshape(12, 12) / 255.0).astype(np.float32)


@pytest.fixture
def zoo() -> Any:
    return lz.get("vae")


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the rows are kept, whose numbers are the same."""
    if request.param == "disk":
        monkeypatch.setattr(stream, "PART", 0.0)
    return request.param


def numbers(x: Any, place: str) -> np.ndarray:
    """Return all rows, which are where they should be."""
    assert isinstance(x, Stream if place == "disk" else np.ndarray)
    return x[:]


def mnist(folder: Path, pattern: str = "{part}-{what}-idx{dims}-ubyte", packed: bool = False, **parts: str) -> Path:
    """Write a folder of images and labels; of the part `test` only the first five rows."""
    folder.mkdir(exist_ok=True)
    for part, name in ({"train": "train", "test": "t10k"} | parts).items():
        rows = slice(None) if part == "train" else slice(5)
        for what, array, dims in (("images", IMAGES, 3), ("labels", LABELS, 1)):
            content, file = as_idx(array[rows]), pattern.format(part=name, what=what, dims=dims)
            (folder / (file + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


# --- IDX and folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_images_become_rows_with_the_labels_beside_them(zoo: Any, tmp_path: Path, place: str, packed: bool) -> None:
    folder = mnist(tmp_path, packed=packed)
    reading = zoo.reading(folder / ("train-images-idx3-ubyte" + ".gz" * packed))
    assert numbers(reading.data.x, place).dtype == np.float32
    np.testing.assert_array_equal(numbers(reading.data.x, place), ROWS)
    np.testing.assert_array_equal(reading.data.label, LABELS)
    assert reading.test is None
    for words in ("12 images of 3 x 4 read", "divided by 255", "train-labels-idx1-ubyte"):
        assert words in reading.summary
    assert ("stay on disk" in reading.summary) == (place == "disk")
    data = zoo.check(reading.data)
    assert zoo.prior(data).noise_scale == pytest.approx(0.5 * np.sqrt(ROWS.astype(float).var(0).mean()), rel=1e-12)


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("{part}-{what}-idx{dims}-ubyte", {}),
        ("{part}-{what}.idx{dims}-ubyte", {}),
        ("emnist-letters-{part}-{what}-idx{dims}-ubyte", {"test": "test"}),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_keeps_its_test_rows_apart(
    zoo: Any, tmp_path: Path, pattern: str, parts: dict[str, str], packed: bool
) -> None:
    folder = mnist(tmp_path / "set", pattern, packed, **parts)
    (folder / "README").write_text("of these images")
    reading = zoo.reading(folder)
    np.testing.assert_array_equal(reading.data.x, ROWS)
    np.testing.assert_array_equal(reading.test.x, ROWS[:5])
    np.testing.assert_array_equal(reading.test.label, LABELS[:5])
    other = zoo.reading(folder, part="test")
    np.testing.assert_array_equal(other.data.x, ROWS[:5])
    assert other.test is None


def test_labels_are_optional(zoo: Any, tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(as_idx(IMAGES))
    assert zoo.read(file).label is None
    plain = tmp_path / "pictures"
    plain.write_bytes(as_idx(IMAGES))
    assert zoo.read(plain).label is None
    other = lz.get("semisupervised_vae").read(plain)
    np.testing.assert_array_equal(other.label, np.full(12, -1))


@settings(max_examples=25)
@given(
    st.sampled_from(list(CODES)).flatmap(
        lambda code: arrays.arrays(
            np.dtype(code),
            arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
            elements={} if code[-2] != "f" else {"allow_nan": False, "allow_infinity": False},
        )
    ),
    st.booleans(),
)
def test_every_type_of_number_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    code = next(code for code in CODES if np.dtype(code) == array.dtype)
    file.write_bytes(gzip.compress(as_idx(array, code)) if packed else as_idx(array, code))
    x = lz.get("vae").read(file).x
    unit = 255.0 if array.dtype == np.uint8 and array.max() > 1 else 1.0
    np.testing.assert_allclose(x, array.reshape(len(array), -1).astype(np.float64) / unit, rtol=1e-7)
    assert x.dtype == (np.float64 if code in (">i4", ">f8") else np.float32)


def test_bytes_that_are_bits_are_not_scaled(zoo: Any, tmp_path: Path, place: str) -> None:
    file = tmp_path / "bits"
    file.write_bytes(as_idx(IMAGES % 2))
    reading = zoo.reading(file)
    np.testing.assert_array_equal(numbers(reading.data.x, place), IMAGES.reshape(12, 12) % 2)
    assert "divided" not in reading.summary


def test_what_is_read_is_the_users_to_change(zoo: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=ROWS)
    assert zoo.read(tmp_path / "set.npz").x.flags.writeable
    (tmp_path / "set").write_bytes(gzip.compress(as_idx(ROWS, ">f8")))
    assert zoo.read(tmp_path / "set").x.flags.writeable


def test_a_threshold_makes_bits(zoo: Any, tmp_path: Path, place: str) -> None:
    file = tmp_path / "images"
    file.write_bytes(as_idx(IMAGES))
    x = numbers(zoo.read(file, threshold=0.5).x, place)
    np.testing.assert_array_equal(x, IMAGES.reshape(12, 12) > 127)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n0.2,0.5\n0.6,7\n")
    assert zoo.read(table, threshold=0.5).x.tolist() == [[0, 0], [1, 1]]


HEADER = as_idx(IMAGES)[:16]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_idx(IMAGES)[:-1], "too short"),
        (as_idx(IMAGES) + b"\0", "goes on after the 12 x 3 x 4 numbers"),
        (as_idx(IMAGES, shape=(2**20, 2**20, 2**20)), "too short"),
        (as_idx(IMAGES, shape=(2**31, 2**31, 2**31, 2**31)), "too short"),
        (HEADER[:9], "ends within its header"),
        (HEADER[:3], "begins with the bytes 00 00 08:"),
        (b"\0\0\x07\x03" + HEADER[4:], "begins with the bytes 00 00 07 03"),
        (b"\0\0\x08\x00" + HEADER[4:], "begins with the bytes 00 00 08 00"),
        (as_idx(IMAGES[:0]), "holds nothing"),
        (as_idx(LABELS), "name the file of images"),
        (gzip.compress(as_idx(IMAGES)[:-1]), "too short"),
        (gzip.compress(as_idx(IMAGES) + b"\0"), "goes on after"),
        (gzip.compress(as_idx(IMAGES) + bytes(10**7)), "goes on after"),
        (gzip.compress(as_idx(IMAGES, shape=(2**20, 2**20))), "too short"),
        (gzip.compress(as_idx(IMAGES, shape=(2**32 - 1,) * 8)), "too short"),
        (gzip.compress(as_idx(IMAGES))[:-9], "damaged"),
        (gzip.compress(as_idx(IMAGES))[:-8] + bytes(8), "damaged"),
        (b"\x89PNG" + bytes(20), "begins with the bytes 89 50 4e 47"),
    ],
)
def test_a_damaged_or_hostile_file_is_one_line(
    zoo: Any, tmp_path: Path, content: bytes, words: str, place: str
) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        zoo.read(file)
    line = str(raised.value)
    assert words in line
    assert str(file) in line
    assert "\n" not in line


def test_labels_that_do_not_fit_are_refused(zoo: Any, tmp_path: Path) -> None:
    folder = mnist(tmp_path)
    beside = folder / "train-labels-idx1-ubyte"
    for content, words in [
        (as_idx(LABELS[:-1]), "labels of shape (11,), and there are 12 rows"),
        (as_idx(IMAGES), "labels of shape (12, 3, 4)"),
        (as_idx(LABELS, ">f4").replace(struct.pack(">f", 2), struct.pack(">f", 0.5)), "label 2 is 0.5"),
        (as_idx(np.where(LABELS == 1, -2, LABELS), "i1"), "label 1 is -2"),
    ]:
        beside.write_bytes(content)
        with pytest.raises(UserError) as raised:
            zoo.read(folder)
        assert words in str(raised.value)
        assert str(beside) in str(raised.value)
    beside.write_bytes(as_idx(LABELS))
    with pytest.raises(UserError, match="row 2 has label 2: with num_classes=2 a label is from 0 to 1"):
        lz.get("semisupervised_vae").read(folder)


def test_a_folder_that_holds_no_such_set_is_one_line(zoo: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no file of images that is named as MNIST's are"):
        zoo.read(tmp_path)
    for name in ("digits", "letters"):
        mnist(tmp_path, f"emnist-{name}-{{part}}-{{what}}-idx{{dims}}-ubyte", test="test")
    with pytest.raises(UserError, match="holds 2 data sets"):
        zoo.read(tmp_path)
    only = mnist(tmp_path / "only")
    (only / "t10k-images-idx3-ubyte").unlink()
    assert zoo.reading(only).test is None
    with pytest.raises(UserError, match="has no images of part 'test': there is train"):
        zoo.read(only, part="test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ("a",)}, "columns is for a table or an NPZ file"),
        ({"x": "a"}, "x is for an NPZ file, and"),
        ({"label": "kind"}, "label is for a table or an NPZ file"),
        ({"part": "test"}, "part is for a folder"),
        ({"part": "tests"}, "did you mean 'test'"),
        ({"threshold": np.nan}, "threshold is nan"),
    ],
)
def test_an_option_of_another_kind_of_file_is_one_line(
    zoo: Any, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    file = tmp_path / "images"
    file.write_bytes(as_idx(IMAGES))
    with pytest.raises(UserError) as raised:
        zoo.read(file, **options)
    assert words in str(raised.value)


def test_mnist(data_folder: Path) -> None:
    zoo = lz.get("semisupervised_vae", num_classes=10)
    reading = zoo.reading(data_folder / "mnist", num_labelled=100)
    assert reading.data.x.shape == (60000, 784)
    assert np.bincount(reading.test.label).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(reading.data.label + 1).tolist() == [59900, *[10] * 10]
    row = reading.data.x[0].reshape(28, 28)
    assert (row[5, 12:16] * 255).round().tolist() == [3, 18, 18, 18]  # the first image as it is often printed
    assert reading.data.x.max() == 1.0


# --- NPZ --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_found_by_their_names(zoo: Any, tmp_path: Path, place: str, save: Any) -> None:
    file = tmp_path / "set.npz"
    for names, options in [
        (("x", "label"), {}),
        (("images", "labels"), {}),
        (("pictures", "y"), {}),  # the only table
        (("pictures", "kinds"), {"x": "pictures", "label": "kinds"}),
    ]:
        save(file, **dict(zip(names, (IMAGES, LABELS), strict=True)))
        data = zoo.read(file, **options)
        np.testing.assert_array_equal(numbers(data.x, place), ROWS)
        np.testing.assert_array_equal(data.label, LABELS)
    save(file, IMAGES.astype(np.float64) / 255.0)
    data = zoo.read(file)
    np.testing.assert_array_equal(numbers(data.x, place), IMAGES.reshape(12, 12) / 255.0)
    assert data.label is None


def test_arrays_that_lie_column_by_column(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "set.npz"
    np.savez(file, x=np.asfortranarray(IMAGES))
    np.testing.assert_array_equal(zoo.read(file).x, ROWS)
    monkeypatch.setattr(stream, "PART", 0.0)
    with pytest.raises(UserError, match="column by column: save it row by row"):
        zoo.read(file)


def test_what_is_what_its_first_bytes_say(zoo: Any, tmp_path: Path) -> None:
    file = tmp_path / "set.csv"
    with file.open("wb") as opened:
        np.savez(opened, x=IMAGES)
    np.testing.assert_array_equal(zoo.read(file).x, ROWS)
    file.write_bytes(as_idx(IMAGES))
    np.testing.assert_array_equal(zoo.read(file).x, ROWS)
    file.write_bytes(gzip.compress(b"a,b\n0,1\n"))
    assert zoo.read(file.rename(tmp_path / "rows.csv.gz")).x.tolist() == [[0, 1]]
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(UserError, match=r"single array: save it by its name, numpy.savez"):
        zoo.read(tmp_path / "one.npy")


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, held in files.items():
            opened.writestr(f"{name}.npy", held)
    return content.getvalue()


def npz(save: Any = np.savez, **held: Any) -> bytes:
    content = io.BytesIO()
    save(content, **held)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


PROMISES = npy(IMAGES).replace(b"(12, 3, 4), }" + b" " * 12, b"(1099511627776, 3, 4), } ")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (npz(x=np.array([{}, None], dtype=object)), {}, "holds Python objects"),
        (npz(x=np.full((2, 2), "a")), {}, "holds text"),
        (npz(x=np.ones((2, 2), dtype=complex)), {}, "holds complex numbers"),
        (npz(x=np.ones((2, 0))), {}, "is empty"),
        (npz(x=np.ones(3)), {}, "is no table"),
        (npz(a=ROWS, b=ROWS), {}, "name that of the rows with x=...; there is a (12, 12), b (12, 12)"),
        (npz(a=LABELS), {}, "name that of the rows with x=...; there is a (12,)"),
        (npz(), {}, "no array 'x'"),
        (npz(images=ROWS), {"x": "image"}, "did you mean 'images'"),
        (npz(x=ROWS), {"label": "kind"}, "no array (label=...) 'kind'"),
        (npz(x=ROWS, label=LABELS[:3]), {}, "labels of shape (3,), and there are 12 rows"),
        (npz(x=ROWS), {"columns": ("a",)}, "its features have no names"),
        (npz(x=ROWS, columns=np.frombuffer(b"a\nb", dtype=np.uint8)), {}, "has 2 names, and the rows 12 features"),
        (npz(x=ROWS, columns=np.frombuffer(b"\xff", dtype=np.uint8)), {}, "no text in UTF-8"),
        (npz(x=ROWS)[:-30], {}, "damaged"),
        (archive(x=npy(ROWS).replace(b"<f4", b"<f9")), {}, "damaged"),
        (archive(x=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(10**6)), {}, "of version (2, 0)"),
        (archive(x=npy(ROWS).replace(b"<f4", b"<f8")), {}, "and it holds others"),
        (npz(x=IMAGES).replace(IMAGES.tobytes(), bytes(144)), {}, "damaged"),
        (archive(x=PROMISES), {}, "says shape (1099511627776, 3, 4), which takes"),
        (archive(x=npy(IMAGES) + b"\0"), {}, "and it holds others"),
        (archive(x=npy(IMAGES)[:-1]), {}, "and it holds others"),
        (archive(x=b"\x93NUMPY\x01\x00\x76\x00" + b"[" * 118), {}, "damaged"),
        (archive(x=b"nothing of the kind"), {}, "damaged"),
        (archive(**{"x.txt/": b"words"}).replace(b".npy", b".doc"), {}, "files that are no arrays"),
        (b"PK\x03\x04", {}, "damaged"),
        (b"", {}, "damaged"),
    ],
)
def test_a_damaged_or_hostile_archive_is_one_line(
    zoo: Any, tmp_path: Path, content: bytes, options: dict[str, Any], words: str
) -> None:
    file = tmp_path / "set.npz"
    file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        zoo.read(file, **options)
    line = str(raised.value)
    assert words in line
    assert "\n" not in line
    assert str(file) in line


def test_an_archive_that_packs_one_block_for_many_is_refused(zoo: Any, tmp_path: Path) -> None:
    """Each entry of its list points to the same bytes; what the list says of one of them is a lie, too."""
    content = bytearray(npz(np.savez, x=ROWS, label=LABELS))
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 0)  # where the second array lies
    file = tmp_path / "set.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        zoo.read(file)


WHOLE = [npz(x=IMAGES, label=LABELS), npz(np.savez_compressed, x=IMAGES, label=LABELS)]
WHOLE += [as_idx(IMAGES), gzip.compress(as_idx(IMAGES))]


def outcome(file: Path) -> str:
    """Return what is said of a file: it is read, or refused as a user's mistake."""
    try:
        return lz.get("vae").reading(file).summary
    except UserError as error:
        return str(error)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_bytes_change_the_answer_is_one_line_or_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(content)
    assert "\n" not in outcome(file)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_what_is_written_is_read_back(name: str, ending: str, tmp_path: Path) -> None:
    zoo = lz.get(name)
    label = np.array([0, -1, 1])
    x = np.random.default_rng(1).random((3, 4), dtype=np.float32)
    data = zoo.check(zoo.Data(x, label, lz.get("vae").Data(x).columns))
    file = tmp_path / f"rows.{ending}"
    zoo.write(data, file)
    back = zoo.read(file)
    np.testing.assert_array_equal(back.x, x)
    np.testing.assert_array_equal(back.label, label)
    assert back.x.dtype == (np.float32 if ending == "npz" else np.float64)
    again = tmp_path / "again.npz"
    zoo.write(back, again)
    found, wanted = leaves(zoo.read(again)), leaves(back)
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_array_equal(found[path], leaf)
        assert found[path].dtype == leaf.dtype
    named = zoo.read(again, columns=("x3", "x1")) if ending == "csv" else None
    if named is not None:
        np.testing.assert_array_equal(named.x, x[:, [2, 0]])
        with pytest.raises(UserError, match=r"no column .* .x9."):
            zoo.read(again, columns=("x9",))
        np.testing.assert_array_equal(zoo.read(file, like=named).x, x[:, [2, 0]])


def test_a_table_has_labels_only_where_it_has_such_a_column(zoo: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b,kind\n0,1,7\n1,0,\n")
    assert zoo.read(file, columns=("a", "b")).label is None
    found = zoo.read(file, label="kind")
    assert found.label.tolist() == [7, -1]
    assert found.x.tolist() == [[0, 1], [1, 0]]
    file.write_text("a,label\n0,cat\n1,dog\n")
    assert zoo.read(file).label is None
    with pytest.raises(UserError, match="holds no labels"):
        zoo.read(file, label="label")
    file.write_text("a,label\n0,1\n1,0.5\n")
    with pytest.raises(UserError, match=r"label no whole number from 0 \(line 3\)"):
        zoo.read(file)


# --- labels that are kept, and the data that the models bring ---------------------------------------------------------


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.integers(0, 5), st.data())
def test_labels_that_are_kept_are_spread_evenly(labels: list[int], seed: int, data: st.DataObject) -> None:
    label = np.array(labels)
    known = int((label >= 0).sum())
    number = data.draw(st.integers(0, known))
    kept = some_labels(label, number, seed)
    assert (kept >= 0).sum() == number
    assert (kept[kept >= 0] == label[kept >= 0]).all()
    counts, most = (np.bincount(each[each >= 0], minlength=5) for each in (kept, label))
    spare = counts < most  # a class of which more could have been kept has no fewer than any other
    assert not spare.any() or counts.max() <= counts[spare].min() + 1
    np.testing.assert_array_equal(some_labels(label, number, seed), kept)
    with pytest.raises(UserError, match=f"{known} rows have a label"):
        some_labels(label, known + 1, seed)


def test_another_seed_keeps_other_labels() -> None:
    label = np.arange(200) % 2
    assert (some_labels(label, 20, 0) != some_labels(label, 20, 1)).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_digits_come_with_the_models(name: str) -> None:
    zoo = lz.get(name)
    reading = zoo.reading(threshold=0.5)
    assert set(np.unique(reading.data.x)) == {0.0, 1.0}
    data = zoo.check(zoo.reading().data)
    assert data.x.dtype == np.float32
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    if name == "semisupervised_vae":
        test = zoo.check(zoo.reading().test)
        assert (len(data.x), len(test.x)) == (324, 36)  # zeros and ones
        assert np.bincount(data.label + 1).tolist() == [224, 50, 50]
        labels = np.concatenate([zoo.reading(num_labelled=None).data.label, test.label])
        assert np.bincount(labels).tolist() == [178, 182]
    else:
        assert data.x.shape == (1797, 64)
        assert set(data.label) == set(range(10))


def test_what_the_digits_have_not_is_one_line(zoo: Any) -> None:
    with pytest.raises(UserError, match="columns is for a file"):
        zoo.reading(columns=("a",))
    with pytest.raises(UserError, match="threshold is nan"):
        zoo.reading(threshold=np.nan)
    with pytest.raises(UserError, match="digits have 10 classes"):
        lz.get("semisupervised_vae", num_classes=11).reading()


def test_all_labels_of_other_data_are_read(tmp_path: Path) -> None:
    zoo = lz.get("semisupervised_vae", num_classes=3)
    folder = mnist(tmp_path)
    reading = zoo.reading(folder, num_labelled=3)
    assert (reading.data.label >= 0).sum() == 3
    assert "of which 3 are kept" in reading.summary
    np.testing.assert_array_equal(reading.test.label, LABELS[:5])
    held_out = zoo.reading(folder / "t10k-images-idx3-ubyte", like=reading.data, num_labelled=3)
    np.testing.assert_array_equal(held_out.data.label, LABELS[:5])


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_folder_is_fitted_and_other_readers_refuse_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mnist(tmp_path / "set")
    command = ["fit", "vae", "--data", str(folder), "--hidden", "3", "--num-steps", "2", "--threshold", "0.5"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    assert "12 images of 3 x 4 read" in capsys.readouterr().out
    for name in lz.names():
        if lz.get(name).has_rows and name not in NAMES:
            assert main(["fit", name, "--data", str(folder), "-o", str(tmp_path / "out")]) == 2, name
            (line,) = capsys.readouterr().err.splitlines()
            assert "set" in line
