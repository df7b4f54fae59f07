"""Earthquake catalogues in CSV: where each event lies and how strong it was, as a count.

What the reader shares with those of other tables, such as how a file is opened, is in `csv_file`.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from numbers import Integral, Real
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from latentzoo.models.language.errors import Note, UserError, choose
from latentzoo.models.readers.csv_file import (
    check_left_out,
    first_reasons,
    line_numbers,
    listed,
    numbers,
    one_line_errors,
    open_csv,
    place_of,
    unusable_cells,
    write_csv,
)

EARTH_RADIUS = 6371.0088  # km: the mean radius of the GRS 80 ellipsoid (Moritz, 2000)
# The names that need no option, best first: those of `write_catalogue`, and of USGS ComCat.
RECOGNISED = {"longitude": ["longitude"], "latitude": ["latitude"], "count": ["count", "nst"]}
# Names that a message proposes for a column; none is taken without being asked for.
SIMILAR = {"longitude": ["longitude", "lon"], "latitude": ["latitude", "lat"], "count": ["count", "stations"]}


@dataclass(frozen=True)
class CatalogueReport:
    """What was read and what was left out; `str` gives it in one line.

    path: the file.
    num_rows, num_kept: the rows of the file without its header, and those in the catalogue.
    left_out: for each reason, the lines of the rows left out, counted from 1 as an editor does.
    kinds: the events kept of each type, where the file has ComCat's column `type`; none is left out for its type.
    centre: longitude and latitude of the origin of coordinates in km; None for degrees.
    astride: events within 10 degrees of the antimeridian lie on both its sides, a whole turn apart.
    """

    path: Path
    num_rows: int
    num_kept: int
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    centre: tuple[float, float] | None = None
    astride: bool = False

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_kept} of {self.num_rows} events read"]
        if self.left_out:
            parts.append(f"left out: {listed(self.left_out)}")
        if self.kinds:
            kinds = [f"{count} {kind}" for kind, count in self.kinds.items()]
            parts.append("types: " + ", ".join(kinds[:5]) + (f" and {len(kinds) - 5} more" if kinds[5:] else ""))
        if self.centre:
            parts.append("km about longitude {:.6g}, latitude {:.6g}".format(*self.centre))
        if self.astride:
            parts.append("events lie on both sides of the antimeridian: centre_longitude=180 keeps clusters whole")
        return "; ".join(parts)


class Catalogue(NamedTuple):
    """Events, and the report on the file they come from.

    location: longitude and latitude in degrees, or x (east) and y (north) in km.
    strength: the count of each event.
    """

    location: Float[np.ndarray, "events 2"]
    strength: Float[np.ndarray, "events"]
    report: CatalogueReport


def read_catalogue(
    path: str | PathLike[str],
    *,
    longitude: str | None = None,
    latitude: str | None = None,
    count: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    centre_longitude: float | None = None,
    projection: Literal["degrees", "km"] = "degrees",
    chunk_rows: int = 100_000,
) -> Catalogue:
    """Read a catalogue from a CSV file in UTF-8, or one packed as `.gz`.

    longitude, latitude, count: the columns' names in the file; without them, `longitude`, `latitude` and `count` or
        ComCat's `nst`, in any case of letters. Latitudes lie in [-90, 90], longitudes in [-180, 360] degrees; a count
        is a whole number from 0 on.
    on_bad: "error" refuses a file with rows that cannot be used; "skip" leaves them out, and the report says which.
    centre_longitude: map longitudes to [c - 180, c + 180); None keeps them as they are, those past 180 too. With
        projection="km" it is the longitude of the origin.
    projection: "degrees", or "km" on a plane about the centre of the catalogue: see `to_km`.
    chunk_rows: the rows that are held as text at once; beyond them, memory is three float64 for each event.

    Raises
    ------
    UserError: the file cannot be read as such a catalogue, no row of it can be used, or an option is out of range.
    """
    _check_options(on_bad, centre_longitude, projection, chunk_rows)
    path = Path(expanduser(path))  # as pandas does
    with one_line_errors(path, "a catalogue"):
        rows = _read_rows(path, {"longitude": longitude, "latitude": latitude, "count": count}, chunk_rows)
        left_out = line_numbers(path, rows.left_out)
    num_kept = rows.values.shape[1]
    check_left_out(path, left_out, rows.num_rows, num_kept, on_bad)

    location, strength = np.ascontiguousarray(rows.values[:2].T), rows.values[2].copy()
    centre, astride = None, False
    if projection == "km":
        location, centre = to_km(location, centre_longitude)
    elif centre_longitude is not None:
        location[:, 0] = _within_half_a_turn(location[:, 0], centre_longitude)
    else:
        astride = _is_astride(location[:, 0])
    report = CatalogueReport(path, rows.num_rows, num_kept, left_out, rows.kinds, centre, astride)
    return Catalogue(location, strength, report)


def write_catalogue(
    path: str | PathLike[str], location: Float[np.ndarray, "events 2"], strength: Float[np.ndarray, "events"]
) -> None:
    """Write the columns longitude, latitude and count; `read_catalogue` reads back the same numbers, bit for bit.

    The file appears whole or not at all. Events that `read_catalogue` could not use, such as simulated ones beyond the
    poles, are written all the same, with a `Note`. A name that ends in `.gz` packs the file.

    Raises
    ------
    UserError: the shapes do not fit, there are no events, or the file cannot be written.
    """
    location, strength = np.asarray(location, dtype=np.float64), np.asarray(strength, dtype=np.float64)
    if location.shape != (strength.size, 2) or strength.ndim != 1 or not strength.size:
        shapes = f"{location.shape} and {strength.shape}"
        raise UserError(f"location and strength have the shapes {shapes}: they must be (events, 2) and (events,)")
    values = np.stack([*location.T, strength])
    num_bad = sum(rows.size for _, rows in first_reasons(_reasons(list(RECOGNISED), values, np.isnan(values))))
    if num_bad:
        why = "are no longitude in [-180, 360], latitude in [-90, 90] and whole count: reading will refuse or skip them"
        warnings.warn(Note(f"{path}: {num_bad} of {strength.size} events {why}"), stacklevel=2)
    lines = (f"{x!r},{y!r},{int(s) if s.is_integer() else s!r}\n" for x, y, s in values.T.tolist())
    write_csv(path, "longitude,latitude,count\n" + "".join(lines))


def to_km(
    location: Float[np.ndarray, "events 2"], centre_longitude: float | None = None
) -> tuple[Float[np.ndarray, "events 2"], tuple[float, float]]:
    """Project longitudes λ and latitudes φ in degrees to x (east) and y (north) in km; return them and the centre.

    The azimuthal equidistant projection of a sphere of radius R (Snyder 1987, Map Projections - A Working Manual,
    section 25, equations 5-3, 25-2, 22-4 and 22-5) about λ0, φ1:

        cos c = sin φ1 sin φ + cos φ1 cos φ cos(λ - λ0)
        k     = c / sin c
        x     = R k cos φ sin(λ - λ0)
        y     = R k (cos φ1 sin φ - sin φ1 cos φ cos(λ - λ0))

    Distances and directions from the centre are exact; others are stretched, the more the farther they are from it.
    The centre is `centre_longitude`, or the circular mean of the longitudes, and the mean latitude.

    Raises
    ------
    UserError: the longitudes balance around the whole globe, so that they have no mean.
    """
    turn, phi = np.radians(location).T
    if centre_longitude is None:
        mean = np.exp(1j * turn).mean()
        if abs(mean) < 1e-9:
            raise UserError("the events' longitudes have no mean to put the centre at: pass centre_longitude")
        centre_longitude = float(np.degrees(np.angle(mean)))
    centre = (float(centre_longitude), float(location[:, 1].mean()))
    turn0, phi1 = np.radians(centre)

    east = np.cos(phi) * np.sin(turn - turn0)
    north = np.cos(phi1) * np.sin(phi) - np.sin(phi1) * np.cos(phi) * np.cos(turn - turn0)
    towards = np.sin(phi1) * np.sin(phi) + np.cos(phi1) * np.cos(phi) * np.cos(turn - turn0)
    # sin c is the length of (east, north): arctan2 keeps the digits that arccos loses near the centre.
    distance = EARTH_RADIUS * np.arctan2(np.hypot(east, north), towards)
    azimuth = np.arctan2(east, north)
    return np.stack([distance * np.sin(azimuth), distance * np.cos(azimuth)], axis=1), centre


class _Rows(NamedTuple):
    """A file's contents: longitudes, latitudes and counts, and for each reason the rows left out, counted from 0."""

    values: Float[np.ndarray, "3 kept"]
    num_rows: int
    left_out: dict[str, list[int]]
    kinds: dict[str, int]


def _check_options(on_bad: str, centre_longitude: float | None, projection: str, chunk_rows: int) -> None:
    choose(on_bad, ["error", "skip"], "on_bad")
    choose(projection, ["degrees", "km"], "projection")
    if not isinstance(chunk_rows, Integral) or chunk_rows < 1:
        raise UserError(f"chunk_rows is {chunk_rows!r}: it must be a whole number from 1 on")
    # The comparison is false of NaN too.
    if centre_longitude is not None and not (isinstance(centre_longitude, Real) and abs(centre_longitude) <= 360):
        raise UserError(f"centre_longitude is {centre_longitude!r}: it must be a number of degrees in [-360, 360]")


def _read_rows(path: Path, named: Mapping[str, str | None], chunk_rows: int) -> _Rows:
    kept, left_out, kinds, num_rows = [np.empty((3, 0))], dict[str, list[int]](), Counter[str](), 0
    with open_csv(path, chunk_rows) as (header, chunks):
        columns = _columns(path, header, named)
        kind = next((i for i, name in enumerate(header) if name.lower() == "type" and i not in columns), None)
        for chunk in chunks:
            cells = [numbers(chunk[column]) for column in columns]
            values, missing = np.stack([value for value, _ in cells]), np.stack([mask for _, mask in cells])
            keep = np.ones(len(chunk), dtype=bool)
            for reason, rows in first_reasons(_reasons([header[column] for column in columns], values, missing)):
                keep[rows] = False
                left_out.setdefault(reason, []).extend((num_rows + rows).tolist())
            kept.append(values[:, keep])
            if kind is not None:
                kinds.update(" ".join(name.split()) or "of no type" for name in chunk[kind][keep])
            num_rows += len(chunk)
    return _Rows(np.concatenate(kept, axis=1), num_rows, left_out, dict(kinds.most_common()))


def _columns(path: Path, header: list[str], named: Mapping[str, str | None]) -> list[int]:
    """Return the places of longitude, latitude and count in the header."""
    places = {role: _place(path, header, role, name) for role, name in named.items()}
    for one, other in combinations(places, 2):
        if places[one] == places[other]:
            raise UserError(f"{path}: {one} and {other} are both column {header[places[one]]!r}: they must differ")
    return list(places.values())


def _place(path: Path, header: list[str], role: str, named: str | None) -> int:
    """Return the place of the column that the user named, or else of one whose name is recognised."""
    if named is not None:
        return place_of(path, header, named, role)
    lower = [name.lower() for name in header]
    for name in RECOGNISED[role]:
        if lower.count(name) > 1:
            raise UserError(f"{path} has more than one column {name!r}: say which with {role}='...'")
        if name in lower:
            return lower.index(name)
    near = [match for name in SIMILAR[role] for match in get_close_matches(name, lower, n=1)]
    example = header[lower.index(near[0])] if near else "..."
    has = f"has no column {' or '.join(map(repr, RECOGNISED[role]))}; it has {', '.join(map(repr, header))}"
    raise UserError(f"{path} {has}: name the right one with {role}={example!r} (--{role} {example})")


def _reasons(
    names: list[str], values: Float[np.ndarray, "3 rows"], missing: Bool[np.ndarray, "3 rows"]
) -> dict[str, Bool[np.ndarray, "rows"]]:
    """Return every reason not to use rows, the plainest first, with the rows to which it applies."""
    x, y, count = values
    return unusable_cells(names, values, missing) | {
        f"{names[1]} outside [-90, 90]": np.abs(y) > 90,
        f"{names[0]} outside [-180, 360]": (x < -180) | (x > 360),
        f"{names[2]} negative": count < 0,
        f"{names[2]} fractional": count != np.floor(count),
    }


def _within_half_a_turn(longitude: Float[np.ndarray, "events"], centre: float) -> Float[np.ndarray, "events"]:
    """Map longitudes to [centre - 180, centre + 180); those inside keep every bit."""
    wrapped = longitude - 360.0 * np.floor((longitude - (centre - 180.0)) / 360.0)
    # Rounding can put a longitude next to the seam on its far side.
    return np.where((wrapped < centre - 180.0) | (wrapped >= centre + 180.0), centre - 180.0, wrapped)


def _is_astride(longitude: Float[np.ndarray, "events"]) -> bool:
    return bool(np.any((longitude > 170) & (longitude < 190)) and np.any(longitude < -170))
