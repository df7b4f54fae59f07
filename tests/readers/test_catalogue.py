"""The reader of earthquake catalogues: what it reads, what it refuses and what it says."""

import csv
import gzip
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.readers.catalogue import EARTH_RADIUS, Catalogue, read_catalogue, to_km, write_catalogue

HEADER = "longitude,latitude,count\n"
LONGITUDES = st.floats(-180, 360)
EVENTS = st.lists(st.tuples(LONGITUDES, st.floats(-90, 90), st.integers(0, 2**53)), min_size=1, max_size=30)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.csv"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("catalogue") / "events.csv"


def refusal(path: Path, content: str | bytes | None = None, **options: object) -> str:
    """Return the one line with which reading is refused."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_catalogue(path, **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert str(path) in line or options
    return line


def taken(path: Path, content: str | bytes, **options: object) -> Catalogue:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_catalogue(path, **options)  # type: ignore[arg-type]


# What is read


@settings(max_examples=50)
@given(events=EVENTS, chunk_rows=st.integers(1, 8), packed=st.booleans())
def test_what_is_written_is_read_back_bit_for_bit(
    scratch: Path, events: list[tuple[float, float, int]], chunk_rows: int, packed: bool
) -> None:
    path = scratch.with_suffix(".csv.gz") if packed else scratch
    values = np.array(events, dtype=np.float64)
    write_catalogue(path, values[:, :2], values[:, 2])
    location, strength, report = read_catalogue(path, chunk_rows=chunk_rows)
    assert location.tobytes() == values[:, :2].tobytes()
    assert strength.tobytes() == values[:, 2].tobytes()
    assert (report.num_rows, report.num_kept, report.left_out) == (len(events), len(events), {})


def test_the_arrays_are_writable_and_in_double_precision(file: Path) -> None:
    location, strength, _ = taken(file, HEADER + "1,2,3\n4,5,6\n")
    for array in (location, strength):
        assert array.dtype == np.float64
        assert array.flags.writeable
        assert array.flags.c_contiguous
    assert location.tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("Latitude,LONGITUDE,Count,nst", {}),  # a count is taken before ComCat's number of stations
        ("latitude, longitude ,nst,mag", {}),
        ("lat,lon,n,count", {"latitude": "lat", "longitude": "lon", "count": "n"}),
    ],
)
def test_columns_are_recognised_or_named(file: Path, header: str, options: dict[str, str]) -> None:
    location, strength, _ = taken(file, f"{header}\n-20,181,41,7\n", **options)
    assert location.tolist() == [[181, -20]]
    assert strength.tolist() == [41]


@pytest.mark.parametrize("cell", ["41", "41.0", "4.1e1", " 41 ", "+41", "0041"])
def test_a_whole_count_may_be_written_as_any_number(file: Path, cell: str) -> None:
    assert taken(file, f"{HEADER}1,2,{cell}\n").strength.tolist() == [41]


def test_a_mark_of_byte_order_carriage_returns_and_gzip_are_fine(file: Path) -> None:
    content = b'\xef\xbb\xbf"longitude",latitude,count\r\n1,2,3\r\n\r\n4,5,6'
    assert taken(file, content).strength.tolist() == [3, 6]
    assert taken(file.with_suffix(".gz"), gzip.compress(content)).strength.tolist() == [3, 6]


def test_events_of_every_type_are_kept_and_counted(file: Path) -> None:
    rows = "1,1,1,earthquake\n" * 3 + '2,2,2,"quarry\nblast"\n2,2,2,\n'
    report = taken(file, f"longitude,latitude,nst,type\n{rows}").report
    assert report.num_kept == 5
    assert report.kinds == {"earthquake": 3, "quarry blast": 1, "of no type": 1}
    assert str(report) == f"{file}: 5 of 5 events read; types: 3 earthquake, 1 quarry blast, 1 of no type"


# Rows that cannot be used

BAD = [
    (",0,1", "longitude missing"),
    ("NA,0,1", "longitude missing"),
    ("0,0", "count missing"),
    ("0,north,1", "latitude not a number"),
    ("0,0,1_000", "count not a number"),
    ("0,0,0x10", "count not a number"),
    ("inf,0,1", "longitude not finite"),
    ("0,0,1e999", "count not finite"),
    ("0,90.5,1", "latitude outside [-90, 90]"),
    ("360.5,0,1", "longitude outside [-180, 360]"),
    ("-181,0,1", "longitude outside [-180, 360]"),
    ("0,0,-1", "count negative"),
    ("0,0,41.5", "count fractional"),
    ("x,,1", "latitude missing"),  # the first reason that applies
    ("0,91,-1.5", "latitude outside [-90, 90]"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_row_that_cannot_be_used_is_refused_or_left_out(file: Path, row: str, reason: str) -> None:
    line = refusal(file, f"{HEADER}0,0,1\n{row}\n")
    assert f"1 of 2 rows cannot be used: 1 {reason} (line 3)" in line
    assert "on_bad='skip'" in line
    assert "--on-bad skip" in line
    _, strength, report = read_catalogue(file, on_bad="skip")
    assert strength.tolist() == [1]
    assert (report.num_rows, report.num_kept, report.left_out) == (2, 1, {reason: (3,)})
    assert f"1 of 2 events read; left out: 1 {reason} (line 3)" in str(report)


def test_a_row_has_one_reason_and_its_column_is_the_files(file: Path) -> None:
    rows = "".join(f"{row}\n" for row, _ in BAD)
    content = f"lon,lat,n\n5,5,5\n{rows}"
    report = taken(file, content, longitude="lon", latitude="lat", count="n", on_bad="skip", chunk_rows=4).report
    lines = [line for found in report.left_out.values() for line in found]
    assert sorted(lines) == list(range(3, 3 + len(BAD)))
    assert report.left_out["n missing"] == (5,)
    assert report.left_out["lat outside [-90, 90]"] == (11, 17)


def test_many_lines_are_counted_and_the_first_ones_shown(file: Path) -> None:
    line = refusal(file, HEADER + "1,1,1\n" + "1,1,\n" * 9)
    assert "9 count missing (line 3, 4, 5, ...)" in line


# Cells whose text holds line breaks, doubled quotes and separators, and lines without any.
TEXTS = st.text(st.sampled_from('ab"\n\r, é'), max_size=6)
BREAKS = st.sampled_from(["\n", "\r\n", "\n\n", "\r\n  \r\n", "\n\t\n"])


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(TEXTS, st.booleans(), BREAKS), min_size=1, max_size=12), chunk_rows=st.integers(1, 5))
def test_lines_are_those_of_the_file(scratch: Path, rows: list[tuple[str, bool, str]], chunk_rows: int) -> None:
    content, wrong = "\nplace,longitude,latitude,count\n0,0,0,0\n", []
    for text, good, ending in rows:
        breaks = (
            content.count("\r\n") + content.replace("\r\n", "").count("\n") + content.replace("\r\n", "").count("\r")
        )
        if not good:
            wrong.append(breaks + 1)
        quoted = text.replace('"', '""')
        content += f'"{quoted}",1,2,{3 if good else ""}{ending}'
    scratch.write_bytes(content.encode())
    report = read_catalogue(scratch, on_bad="skip", chunk_rows=chunk_rows).report
    assert report.left_out == ({"count missing": tuple(wrong)} if wrong else {})
    assert report.num_rows == len(rows) + 1


# Mistakes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (HEADER, "no rows"),
        (b"\0" * 100, "not text in UTF-8"),
        (bytes(range(256)), "not text in UTF-8"),
        (HEADER.encode("utf-16"), "not text in UTF-8"),
        ("place," + HEADER + "Cafe,1,2,3\n", None),
        (f"place,{HEADER}Café,1,2,3\n".encode("latin-1"), "not text in UTF-8"),
        (f"place,{HEADER}Café,1,2,3\n1,2,3,4,5\n".encode("latin-1"), "line 3 has 5 fields, the header 4"),
        (HEADER + "1,2,3,4\n1,2,3\n", "line 2 has 4 fields, the header 3"),
        (HEADER + '1,2,"3"\n\n"1\n",2,3,4,5\n', "line 4 has 5 fields, the header 3"),
        (HEADER + "1,2,3,\n", "line 2 has 4 fields, the header 3"),
        (HEADER + '1,2,3\n1,2,"3\n1,2,3\n', "a quote that opens on line 3 never closes"),
        (HEADER + '1,2,"3\n' + "1,2,3\n" * 40_000, "a quote that opens on line 2 never closes"),
        ("longitude,latitude,count,count\n1,2,3,4\n", "more than one column 'count'"),
        ("longitude,latitude,count,Count\n1,2,3,4\n", "say which with count='...'"),
        ("longitude;latitude;count\n1,5;2,5;3\n", "separated by ';'"),
        ("longitude\tlatitude\tcount\n1\t2\t3\n", "separated by '\\t'"),
        (HEADER + ",,\n", "none is left"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused_in_one_line(file: Path, content: str | bytes, said: str | None) -> None:
    if said is None:
        assert taken(file, content).strength.tolist() == [3]
    else:
        assert said in refusal(file, content)


def test_a_file_that_is_not_there_or_no_file_is_refused(file: Path) -> None:
    assert "No such file" in refusal(file)
    assert "directory" in refusal(file.parent)
    packed = file.with_suffix(".gz")
    assert "gzip" in refusal(packed, HEADER)
    assert "cannot read" in refusal(packed, gzip.compress(HEADER.encode() * 99, mtime=0)[:-20])


def test_a_file_without_a_row_to_keep_is_refused_though_skipping(file: Path) -> None:
    line = refusal(file, HEADER + ",,\n1,1,x\n", on_bad="skip")
    assert "2 of 2 rows" in line
    assert "longitude missing (line 2)" in line
    assert "count not a number (line 3)" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["'longitude'", "'rownames', 'lat', 'long', 'stations'", "longitude='long'", "--longitude long"]),
        ({"longitude": "long"}, ["'latitude'", "latitude='lat'"]),
        ({"longitude": "long", "latitude": "lat"}, ["'count' or 'nst'", "count='stations'"]),
        ({"longitude": "long", "latitude": "lat", "count": "statoins"}, ["count", "did you mean 'stations'?"]),
        ({"longitude": "long", "latitude": "long", "count": "stations"}, ["longitude and latitude", "'long'"]),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_option(
    file: Path, options: dict[str, str], said: list[str]
) -> None:
    line = refusal(file, "rownames,lat,long,stations\n1,-20,181,41\n", **options)
    assert str(file) in line
    assert not [words for words in said if words not in line]


def test_an_option_and_a_recognised_column_must_differ(file: Path) -> None:
    assert "longitude and count are both column 'longitude'" in refusal(file, HEADER + "1,2,3\n", count="longitude")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("chunk_rows", 0),
        ("chunk_rows", 1.5),
        ("centre_longitude", math.nan),
        ("centre_longitude", -math.inf),
        ("centre_longitude", 361),
        ("centre_longitude", "east"),
        ("on_bad", "ignore"),
        ("projection", "mercator"),
    ],
)
def test_an_option_out_of_range_is_named(file: Path, option: str, value: object) -> None:
    line = refusal(file, HEADER + "1,2,3\n", **{option: value})
    assert option in line
    assert str(value) in line


# Maps


@settings(max_examples=50)
@given(longitudes=st.lists(LONGITUDES, min_size=1), centre=st.floats(-360, 360))
def test_longitudes_lie_within_half_a_turn_of_the_centre(scratch: Path, longitudes: list[float], centre: float) -> None:
    original = np.array(longitudes)
    write_catalogue(scratch, np.stack([original, np.zeros_like(original)], axis=1), np.ones_like(original))
    mapped = read_catalogue(scratch, centre_longitude=centre).location[:, 0]
    assert ((centre - 180 <= mapped) & (mapped < centre + 180)).all()
    turns = (mapped - original) / 360
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
    inside = (centre - 179 < original) & (original < centre + 179)
    assert (mapped[inside] == original[inside]).all()


def test_events_on_both_sides_of_the_antimeridian_are_pointed_out(file: Path) -> None:
    fiji = HEADER + "179,-20,1\n-179,-20,2\n"
    location, _, report = taken(file, fiji)
    assert location[:, 0].tolist() == [179, -179]
    assert "centre_longitude=180" in str(report)
    location, _, report = read_catalogue(file, centre_longitude=180)
    assert location[:, 0].tolist() == [179, 181]
    assert "centre_longitude" not in str(report)
    for rows in ("179,0,1\n-169,0,1\n", "179,0,1\n181,0,1\n", "-179,0,1\n200,0,1\n", "10,0,1\n-10,0,1\n"):
        assert not taken(file, HEADER + rows).report.astride


def haversine(one: tuple[float, float], other: tuple[float, float]) -> float:
    (x, y), (x0, y0) = np.radians(one), np.radians(other)
    half = math.sin((y - y0) / 2) ** 2 + math.cos(y) * math.cos(y0) * math.sin((x - x0) / 2) ** 2
    return 2 * EARTH_RADIUS * math.asin(min(1.0, math.sqrt(half)))


def vector(longitude: float, latitude: float) -> np.ndarray:
    x, y = np.radians([longitude, latitude])
    return np.array([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])


@given(events=st.lists(st.tuples(LONGITUDES, st.floats(-89, 89)), min_size=1, max_size=8), centre=LONGITUDES)
def test_distances_and_directions_from_the_centre_are_exact(events: list[tuple[float, float]], centre: float) -> None:
    location, (x0, y0) = to_km(np.array(events), centre)
    # Local axes at the centre: the direction to an event is its vector along them.
    east, north = vector(x0 + 90, 0), vector(x0, y0 + 90)
    for event, (x, y) in zip(events, location, strict=True):
        assert math.hypot(x, y) == pytest.approx(haversine(event, (x0, y0)), abs=1e-3)
        aim = np.array([vector(*event) @ east, vector(*event) @ north])
        if np.hypot(*aim) > 1e-6:
            np.testing.assert_allclose([x, y], np.hypot(x, y) * aim / np.hypot(*aim), atol=1e-3)


def test_known_distances() -> None:
    # Along the equator a degree is R π / 180, and a sixth of a turn at the pole keeps its direction.
    location, centre = to_km(np.array([[181.0, 0.0], [-181.0, 0.0]]))
    assert centre == pytest.approx((180, 0)) or centre == pytest.approx((-180, 0))
    np.testing.assert_allclose(location, [[111.19508, 0], [-111.19508, 0]], atol=1e-4)


def test_the_antimeridian_is_no_edge_in_km(file: Path) -> None:
    split = taken(file, HEADER + "179,-20,1\n-179,-20,2\n178.5,-21,3\n", projection="km")
    whole = taken(file, HEADER + "179,-20,1\n181,-20,2\n178.5,-21,3\n", projection="km")
    np.testing.assert_allclose(split.location, whole.location, atol=1e-6)
    assert np.abs(split.location).max() < 200
    assert "km about longitude 179.5, latitude -20.3333" in str(split.report)
    assert not split.report.astride


def test_longitudes_without_a_mean_need_a_centre(file: Path) -> None:
    assert "centre_longitude" in refusal(file, HEADER + "0,0,1\n180,0,1\n", projection="km")
    location = read_catalogue(file, projection="km", centre_longitude=0).location
    np.testing.assert_allclose(np.hypot(*location.T), [0, math.pi * EARTH_RADIUS], rtol=1e-12)


# Writing


def test_writing_says_when_reading_will_not_take_it(file: Path) -> None:
    with pytest.warns(Note, match="2 of 3 events are no longitude"):
        write_catalogue(file, np.array([[0.0, 91.0], [0.0, 0.0], [1.0, 1.0]]), np.array([1.0, 1.5, 2.0]))
    report = read_catalogue(file, on_bad="skip").report
    assert report.left_out == {"latitude outside [-90, 90]": (2,), "count fractional": (3,)}


@pytest.mark.parametrize("shapes", [((3, 3), (3,)), ((3, 2), (2,)), ((0, 2), (0,)), ((2, 2), (2, 1)), ((), ())])
def test_writing_refuses_shapes_that_do_not_fit(file: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match="must be \\(events, 2\\)"):
        write_catalogue(file, np.zeros(shapes[0]), np.zeros(shapes[1]))
    assert not file.exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_catalogue(tmp_path / "no" / "events.csv", np.zeros((1, 2)), np.zeros(1))
    write_catalogue(tmp_path / "events.csv", np.zeros((1, 2)), np.zeros(1))
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]


def test_importing_the_reader_loads_nothing_heavy() -> None:
    code = "import sys, latentzoo.models.readers.catalogue; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "pandas", "scipy"} & set(loaded)


# Real catalogues


def real(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no real data: {path} is missing (name another folder with LATENTZOO_DATA)")
    return path


def test_the_fiji_quakes(data_folder: Path) -> None:
    path = real(data_folder, "quakes.csv")
    location, strength, report = read_catalogue(path, longitude="long", latitude="lat", count="stations")
    assert str(report) == f"{path}: 1000 of 1000 events read"
    assert (location[:, 0].min(), location[:, 0].max()) == (165.67, 188.13)
    assert (strength.min(), strength.max()) == (10, 132)
    refused = refusal(path)
    assert "longitude='long'" in refused


def test_a_month_of_comcat(data_folder: Path) -> None:
    path = real(data_folder, "comcat_2021-05.csv")
    kept, without, blasts = [], [], 0
    with path.open(newline="", encoding="utf-8") as opened:
        reader = csv.DictReader(opened)
        for row in reader:
            assert "\n" not in "".join(row.values())  # so that reader.line_num is the row's line
            if row["nst"]:
                kept.append([float(row["longitude"]), float(row["latitude"]), float(row["nst"])])
                blasts += row["type"] != "earthquake"
            else:
                without.append(reader.line_num)
    assert (len(kept) + len(without), len(without)) == (10387, 3135)

    assert "3135 of 10387 rows cannot be used: 3135 nst missing" in refusal(path)
    location, strength, report = read_catalogue(path, on_bad="skip", chunk_rows=1000)
    assert np.column_stack([location, strength]).tolist() == kept
    assert report.left_out == {"nst missing": tuple(without)}
    assert sum(report.kinds.values()) - report.kinds["earthquake"] == blasts
    assert sum(report.kinds.values()) == report.num_kept == len(kept)
