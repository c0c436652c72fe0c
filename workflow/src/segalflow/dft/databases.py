"""Databases of energies as a source of records: ASE databases, CLEASE databases, extended XYZ, CSV tables.

Energies are taken for what the config says they are (total, formation or mixing; a cell or an atom; which unit) and
become total energies a cell, with what was done to them in every record.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.artefacts import atomic_path
from segalflow.dft.calculation import COLLAPSED, CONVERGED, FAILED, UNCONVERGED
from segalflow.dft.gate import Limits, judge_deformation
from segalflow.dft.ingestion import Candidate, Gathered, gather
from segalflow.dft.matching import match_to_lattice
from segalflow.errors import ArtefactError, DatasetError, LatticeError, SettingsError
from segalflow.lattice import ParentLattice
from segalflow.provenance import file_sha256

FORMATS = ("ase-db", "clease", "extxyz", "csv")
UNITS = {"eV": 1.0, "meV": 1e-3, "Ha": 27.211386245988, "Ry": 13.605693122994, "kJ/mol": 0.010364269656262175}
"""Energy units in eV (CODATA 2018)."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of a database: where it stands, its structure, its energy as stored, and a reason not to use it."""

    place: str
    atoms: Atoms | None
    energy: float | None
    fault: str = ""
    status: str = FAILED


def is_fetched(database: Mapping[str, Any]) -> bool:
    """Return whether a database is to be fetched: by ``url`` and ``sha256``, where no local file comes before it."""
    path = database.get("path")
    return bool(database.get("url") and database.get("sha256")) and not (path and Path(path).is_file())


def name_of(database: Mapping[str, Any]) -> str:
    """Return the name of the file that is fetched: the last part of ``member``, or else of ``url``."""
    return str(database.get("member") or database["url"]).rsplit("/", 1)[-1].split("?")[0]


def keep_fetched(download: Path, database: Mapping[str, Any], target: Path) -> None:
    """Keep what was fetched from ``url`` (or its ``member``) if it is what ``sha256`` says.

    Args:
        download: the file as fetched.
        database: settings with ``url``, ``sha256`` and, for an archive, ``member``.
        target: where the database is kept.

    Raises:
        ArtefactError: if the member is not in the archive, or the file has another checksum; nothing is kept then.
    """
    url, member, expected = database["url"], database.get("member"), database["sha256"].lower()
    with atomic_path(target) as temporary:
        if member:
            temporary.write_bytes(_member_of(download, member, url))
        else:
            shutil.copyfile(download, temporary)
        found = file_sha256(temporary)
        if found != expected:
            what = f"its member {member}" if member else "the file"
            raise ArtefactError(f"{url}: expected SHA-256 {expected} (database.sha256), {what} has {found}")


def locate(database: Mapping[str, Any], fetched: Path | None = None) -> Path:
    """Return the file of a database: ``path`` where that exists, else what was fetched from ``url``.

    Args:
        database: settings with ``path``, or ``url`` and ``sha256``, or all of them.
        fetched: the file that `keep_fetched` kept.

    Raises:
        SettingsError: if neither is given, or a URL without its checksum.
        ArtefactError: if the file is missing or has another checksum.
    """
    path, url, expected = (database.get(k) for k in ("path", "url", "sha256"))
    local = Path(path) if path and Path(path).is_file() else fetched
    if local is None and path:
        advice = f"; fetch it from {url}, or give its SHA-256 as database.sha256 to have it fetched" if url else ""
        raise ArtefactError(f"{path}: the file does not exist (database.path){advice}")
    if local is None and url:
        raise SettingsError(f"database.sha256: '{url}' needs the SHA-256 of the file")
    if local is None:
        raise SettingsError("database: expected 'path' (a local file) or 'url' with 'sha256'")
    if expected and (found := file_sha256(local)) != expected.lower():
        raise ArtefactError(f"{local}: expected SHA-256 {expected} (database.sha256), found {found}")
    return local


def _member_of(archive: Path, member: str, url: str) -> bytes:
    """Content of a file in a zip or tar archive (of whatever compression)."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return opened.read(member)
        with tarfile.open(archive) as opened:
            file = opened.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError:
        raise ArtefactError(f"{url}: the archive holds no file '{member}' (database.member)") from None
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ArtefactError(f"{url}: expected a zip or tar archive (database.member is given): {error}") from None


def format_of(database: Mapping[str, Any], path: Path) -> str:
    """Return the format of a database: as stated, or by its suffix.

    Raises:
        SettingsError: if the suffix tells nothing.
    """
    stated = database.get("format")
    if stated:
        return stated
    kinds = {".db": "ase-db", ".json": "ase-db", ".xyz": "extxyz", ".extxyz": "extxyz", ".csv": "csv"}
    if path.suffix not in kinds:
        raise SettingsError(f"database.format: {path.name} tells no format, expected one of {', '.join(FORMATS)}")
    return kinds[path.suffix]


def _wanted(values: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether an entry's values are those asked for (a value or a list of values for each key)."""
    for key, choice in where.items():
        choices = choice if isinstance(choice, list) else [choice]
        if not any(str(values.get(key)) == str(c) or values.get(key) == c for c in choices):
            return False
    return True


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _ase_entries(path: Path, key: str, where: Mapping[str, Any], clease: bool) -> Iterator[Entry]:
    from ase.db import connect

    connection = connect(str(path), type="json" if path.suffix == ".json" else "db")
    rows = list(connection.select())
    by_id = {row.id: row for row in rows}
    for row in rows:
        values = {**row.key_value_pairs, **row.data}
        if clease and values.get("struct_type") != "initial":
            continue
        if not _wanted(values, where):
            continue
        place = f"{path}#{row.id}"
        source = row
        if clease:
            # The decoration is that of the initial entry, the energy that of the relaxed one.
            final = values.get("final_struct_id")
            source = by_id.get(int(final)) if final is not None else row
            if source is None:
                yield Entry(place, row.toatoms(), None, f"no entry: its final structure {final} is not in the database")
                continue
            if values.get("converged") in (False, 0, "False"):
                yield Entry(place, row.toatoms(), None, "not converged: the database says so", UNCONVERGED)
                continue
        energy = source.get("energy") if key == "energy" else {**source.key_value_pairs, **source.data}.get(key)
        yield Entry(place, row.toatoms(), _number(energy))


def _xyz_entries(path: Path, key: str, where: Mapping[str, Any]) -> Iterator[Entry]:
    from ase.io import iread

    for number, atoms in enumerate(iread(path, index=":", format="extxyz")):
        values = {**atoms.info, **(atoms.calc.results if atoms.calc is not None else {})}
        if _wanted(values, where):
            yield Entry(f"{path}#{number}", atoms, _number(values.get(key)))


def _csv_entries(
    path: Path, key: str, where: Mapping[str, Any], database: Mapping[str, Any], pool: Mapping[str, Atoms]
) -> Iterator[Entry]:
    from ase.io import read

    columns = {"energy": key, **database.get("columns", {})}
    ways = [w for w in ("file", "frame", "structure") if w in columns]
    if len(ways) != 1:
        raise SettingsError(
            "database.columns: expected one of 'file' (path of a structure), 'frame' (number in database.structures) "
            f"or 'structure' (id in the pool), found {', '.join(ways) or 'none'}"
        )
    way = ways[0]
    table = pd.read_csv(path, comment="#", skip_blank_lines=True)
    for column in dict.fromkeys([columns["energy"], columns[way], *where]):
        if column not in table:
            raise ArtefactError(f"{path}: expected column '{column}', found {', '.join(map(str, table.columns))}")
    frames: list[Atoms] = []
    if way == "frame":
        if not database.get("structures"):
            raise SettingsError("database.structures: the column 'frame' counts in a file that must be named here")
        frames = read(database["structures"], index=":")
    for number, row in enumerate(table.to_dict("records")):
        if not _wanted(row, where):
            continue
        place, fault, atoms = f"{path}#{number}", "", None
        try:
            if way == "file":
                atoms = read(path.parent / str(row[columns[way]]))
            elif way == "frame":
                atoms = frames[int(row[columns[way]])]
            else:
                atoms = pool[str(row[columns[way]])].copy()
        except Exception as error:  # one bad row is a reject
            fault = f"no structure: {way} {row[columns[way]]!r} cannot be read ({type(error).__name__}: {error})"
        yield Entry(place, atoms, _number(row[columns["energy"]]), fault)


def read_entries(path: Path, database: Mapping[str, Any], pool: Mapping[str, Atoms] | None = None) -> list[Entry]:
    """Return the entries of a database that its ``where`` asks for.

    Args:
        path: local file.
        database: settings: format, energy.key, where, and for CSV columns and structures.
        pool: structures by id, for a CSV table that names them by id.

    Raises:
        ArtefactError: if the file cannot be read at all.
        SettingsError: if the format is unknown or the columns say too little.
    """
    key, where = database["energy"]["key"], database.get("where", {})
    kind = format_of(database, path)
    try:
        if kind in ("ase-db", "clease"):
            return list(_ase_entries(path, key, where, kind == "clease"))
        if kind == "extxyz":
            return list(_xyz_entries(path, key, where))
        return list(_csv_entries(path, key, where, database, pool or {}))
    except (ArtefactError, SettingsError):
        raise
    except Exception as error:  # readers raise many kinds on a damaged file
        raise ArtefactError(f"{path}: not a readable {kind} file ({type(error).__name__}: {error})") from None


def total_energy(stored: float, atoms: Atoms, energy: Mapping[str, Any], end_members: Mapping[str, float]) -> float:
    """Return the total energy of a cell, eV, from the number in the database.

    Args:
        stored: the number.
        atoms: its structure.
        energy: ``kind``, ``per`` and ``unit`` of the numbers.
        end_members: energies of the pure species, eV/atom, that formation and mixing energies refer to.
    """
    total = stored * UNITS[energy["unit"]] * (len(atoms) if energy["per"] == "atom" else 1)
    if energy["kind"] != "total":
        total += sum(end_members[s] for s in atoms.get_chemical_symbols())
    return total


def _judge(entry: Entry, lattice: ParentLattice, energy: Mapping[str, Any], pure: Mapping[str, float], limits: Limits):
    formula = entry.atoms.get_chemical_formula(mode="metal") if entry.atoms is not None else ""
    if entry.fault:
        return Candidate(entry.place, entry.status, entry.fault, formula=formula)
    try:
        match = match_to_lattice(entry.atoms, lattice)
    except LatticeError as error:
        return Candidate(entry.place, COLLAPSED, f"not on its parent lattice: {error}", formula=formula)
    if entry.energy is None:
        return Candidate(entry.place, FAILED, f"energy: no finite '{energy['key']}'", match, formula=formula)
    total = total_energy(entry.energy, entry.atoms, energy, pure)
    extra = {"n_steps": None, "max_force": None, "stored_energy": entry.energy}
    status, reason = judge_deformation(match.deformation, limits)
    symbols = set(entry.atoms.get_chemical_symbols())
    if status == CONVERGED and energy["kind"] == "mixing" and len(symbols) == 1:
        away = total / len(entry.atoms) - pure[symbols.pop()]
        if abs(away) > 1e-6:
            status, reason = FAILED, f"energy: a mixing energy of {away:.6f} eV/atom for a pure element, expected 0"
    return Candidate(entry.place, status, reason, match, None, total, extra, formula)


def ingest_database(
    path: Path, lattice: ParentLattice, settings: Mapping[str, Any], pool: Mapping[str, Atoms] | None = None
) -> Gathered:
    """Return the records of a database.

    Args:
        path: local file (see `locate`).
        lattice: parent lattice; its constant does not count for the match.
        settings: of the calculation: database, max_strain, max_displacement.
        pool: structures by id, for a CSV table that names them by id.

    Raises:
        ArtefactError, SettingsError: see `read_entries`.
        DatasetError: if a reference energy is given for an unknown species.
    """
    database = settings["database"]
    energy, given = database["energy"], dict(database.get("end_members", {}))
    for species in given:
        if species not in lattice.elements:
            raise DatasetError(f"database.end_members: {species} is not a species of the lattice")
    # Formation and mixing energies are zero for the pure species; whatever is given only shifts the totals.
    reference = {s: float(given.get(s, 0.0)) for s in lattice.elements} if energy["kind"] != "total" else given
    limits = Limits(settings["max_strain"], settings["max_displacement"])
    candidates = [_judge(e, lattice, energy, reference, limits) for e in read_entries(path, database, pool)]
    if not candidates:
        raise DatasetError(f"{path}: no entry fits database.where = {dict(database.get('where', {}))}")
    source = {
        "file": path.name,
        "sha256": file_sha256(path),
        "url": database.get("url"),
        "energy": dict(energy),
        "reference": reference,
    }
    common = {"engine": "database", "engine_version": format_of(database, path), "settings": {"database": source}}
    # A formation energy may refer to elements in other crystals: pure entries of this lattice then come first.
    known = reference if energy["kind"] != "total" or given else {}
    if energy["kind"] == "formation":
        found = {c.ideal.get_chemical_symbols()[0] for c in candidates if c.status == CONVERGED and _is_pure(c)}
        known = {s: e for s, e in reference.items() if s not in found}
    return gather(candidates, lattice, common, None, database.get("max_formation", 2.0), known)


def _is_pure(candidate: Candidate) -> bool:
    return len(set(candidate.ideal.get_chemical_symbols())) == 1
