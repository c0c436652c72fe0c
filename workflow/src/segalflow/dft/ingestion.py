"""From runs and databases that exist to records: one for each structure, and a row with its reason for each reject.

The same files give the same records, in whatever order they are found; nothing is kept between two ingestions.
"""

from __future__ import annotations

import glob
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.artefacts import read_table, to_builtin, write_json
from segalflow.dft.calculation import CONVERGED, FAILED
from segalflow.dft.dataset import RECORDS_SCHEMA
from segalflow.dft.gate import DUPLICATE, MISMATCH, MISSING, Examined, Limits, examine
from segalflow.dft.matching import Match
from segalflow.dft.missing import kind_of_reason
from segalflow.dft.vasp_inputs import request_of
from segalflow.dft.vasp_outputs import output_files
from segalflow.errors import DatasetError, SegalflowError, SettingsError
from segalflow.lattice import ParentLattice

REJECT_COLUMNS = ["structure", "formula", "status", "reason", "file"]
SUMMARY_COLUMNS = ["status", "reason", "runs", "example"]


@dataclass(eq=False)
class Gathered:
    """What an ingestion found.

    Attributes:
        structures: ideal structures, each once, by number of atoms and id.
        records: one record for each of `structures` (see `segalflow.dft.calculation.run_calculation`), with ``file``.
        rejects: one row for each run or entry that is not used: structure (where known), formula, status, reason, file.
        summary: number of runs by status and kind of reason.
        end_members: energies of pure species known without a structure, eV/atom.
    """

    structures: list[Atoms]
    records: list[dict[str, Any]]
    rejects: pd.DataFrame
    summary: pd.DataFrame
    end_members: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One run or entry on its way to a record.

    Attributes:
        file: where it comes from.
        status, reason: its verdict.
        match: the structure on the parent lattice, where it could be placed.
        expected: ideal structure that it should be of, where known.
        energy: eV a cell, where known.
        extra: further entries of the record.
        formula: for the table of rejects.
    """

    file: str
    status: str
    reason: str
    match: Match | None = None
    expected: Atoms | None = None
    energy: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    formula: str = ""

    @property
    def ideal(self) -> Atoms | None:
        """The ideal structure it counts for."""
        if self.expected is not None:
            return self.expected
        return self.match.ideal if self.match is not None else None

    @property
    def structure(self) -> str:
        """Id of that structure, or an empty text."""
        return self.ideal.info["structure"] if self.ideal is not None else ""


def _record(candidate: Candidate, lattice: ParentLattice, common: Mapping[str, Any]) -> dict[str, Any]:
    ideal = candidate.ideal
    record: dict[str, Any] = {
        "structure": candidate.structure,
        "symbols": ideal.get_chemical_symbols(),
        "occupation": [int(v) for v in ideal.get_array("occupation")],
        "lattice": lattice.name,
        **common,
        **candidate.extra,
        "file": candidate.file,
    }
    if candidate.energy is not None and candidate.match is not None:
        actual = candidate.match.actual
        # A run may have used a larger or smaller cell of the same decoration than the pool does.
        energy = candidate.energy * len(ideal) / len(actual)
        record.update(
            energy=energy,
            energy_per_atom=energy / len(ideal),
            cell=np.array(actual.cell).tolist(),
            positions=actual.positions.tolist(),
            deformation=candidate.match.deformation,
        )
    return to_builtin({**record, "status": candidate.status, "reason": candidate.reason})


def _reject(candidate: Candidate) -> dict[str, str]:
    formula = candidate.formula or (
        candidate.ideal.get_chemical_formula(mode="metal") if candidate.ideal is not None else ""
    )
    return {
        "structure": candidate.structure,
        "formula": formula,
        "status": candidate.status,
        "reason": candidate.reason,
        "file": candidate.file,
    }


def summarise(rejects: pd.DataFrame, n_used: int) -> pd.DataFrame:
    """Return the number of runs by status and kind of reason (what stands before the colon), with an example."""
    rows = [{"status": "used", "reason": "", "runs": n_used, "example": ""}]
    kinds = rejects.assign(kind=rejects["reason"].map(kind_of_reason))
    for (status, kind), group in kinds.groupby(["status", "kind"], sort=True):
        first = group.iloc[0]
        rows.append(
            {"status": status, "reason": kind, "runs": len(group), "example": f"{first['file']}: {first['reason']}"}
        )
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _without_absurd(
    candidates: Sequence[Candidate], max_formation: float, known: Mapping[str, float]
) -> list[Candidate]:
    """Mark candidates whose formation energy no alloy has; pure elements come from the candidates or from `known`."""
    pure: dict[str, float] = dict(known)
    for c in candidates:
        if c.status == CONVERGED and len(set(c.ideal.get_chemical_symbols())) == 1:
            per_atom = c.energy / len(c.match.actual)
            symbol = c.ideal.get_chemical_symbols()[0]
            pure[symbol] = min(per_atom, pure.get(symbol, np.inf)) if symbol not in known else known[symbol]
    marked = []
    for c in candidates:
        if c.status == CONVERGED and set(c.ideal.get_chemical_symbols()) <= set(pure):
            symbols = c.match.actual.get_chemical_symbols()
            formation = c.energy / len(symbols) - float(np.mean([pure[s] for s in symbols]))
            if not abs(formation) <= max_formation:
                reason = f"energy: a formation energy of {formation:.3f} eV/atom, allowed -+{max_formation}"
                c = replace(c, status=FAILED, reason=reason)
        marked.append(c)
    return marked


def gather(
    candidates: Iterable[Candidate],
    lattice: ParentLattice,
    common: Mapping[str, Any],
    pool: Sequence[Atoms] | None = None,
    max_formation: float = 2.0,
    end_members: Mapping[str, float] | None = None,
) -> Gathered:
    """Return records and rejects of candidates; of several runs of one structure the lowest in energy is used.

    Args:
        candidates: judged runs or entries.
        lattice: parent lattice.
        common: entries that every record carries (engine, engine_version, settings).
        pool: structures that are wanted; without it those that are found.
        max_formation: largest sane formation energy by amount, eV/atom.
        end_members: energies of pure species known from elsewhere, eV/atom.
    """
    known = dict(end_members or {})
    ordered = sorted(candidates, key=lambda c: c.file)
    ordered = _without_absurd(ordered, max_formation, known)
    groups: dict[str, list[Candidate]] = defaultdict(list)
    rejected: list[Candidate] = []
    for candidate in ordered:
        (groups[candidate.structure] if candidate.structure else rejected).append(candidate)
    ideals = {a.info["structure"]: a for a in pool or []}
    chosen: dict[str, Candidate] = {}
    for name, group in groups.items():
        good = [c for c in group if c.status == CONVERGED]
        if good:
            best = min(good, key=lambda c: (c.energy / len(c.match.actual), c.file))
            for c in group:
                if c is not best and c.status == CONVERGED:
                    above = 1000 * (c.energy / len(c.match.actual) - best.energy / len(best.match.actual))
                    reason = f"duplicate: the same structure as {best.file}, {above:.3f} meV/atom above it"
                    rejected.append(replace(c, status=DUPLICATE, reason=reason))
        else:
            best = group[0]
        rejected += [c for c in group if c.status != CONVERGED]
        if pool is not None and name not in ideals:
            if best.status == CONVERGED:
                rejected.append(replace(best, status=MISMATCH, reason="structure: it is not in the pool"))
            continue
        chosen[name] = best
        ideals.setdefault(name, best.ideal)
    if pool is not None:
        for name, ideal in ideals.items():
            if name not in chosen:
                lost = Candidate("", MISSING, "no run: there is no folder of this structure", expected=ideal)
                chosen[name] = lost
                rejected.append(lost)
    structures, records = [], []
    for name in sorted(chosen, key=lambda n: (len(ideals[n]), n)):
        ideal = ideals[name]
        candidate = replace(chosen[name], expected=ideal)
        structures.append(ideal)
        records.append(_record(candidate, lattice, common))
    rows = sorted((_reject(c) for c in rejected), key=lambda r: (r["file"], r["structure"], r["reason"]))
    rejects = pd.DataFrame(rows, columns=REJECT_COLUMNS)
    used = sum(r["status"] == CONVERGED for r in records)
    return Gathered(structures, records, rejects, summarise(rejects, used), known)


def limits_of(settings: Mapping[str, Any]) -> Limits:
    """Return the limits of a calculation's settings (limits of the lattice, vasp.max_pressure/energy_range)."""
    vasp = settings.get("vasp", {})
    usual = Limits()
    return Limits(
        settings["max_strain"],
        settings["max_displacement"],
        settings["max_volume_change"],
        vasp.get("max_pressure", usual.max_pressure),
        tuple(vasp.get("energy_range", usual.energy_range)),
    )


def find_runs(runs: Mapping[str, Any]) -> list[tuple[Path, str | None]]:
    """Return the runs that a block ``runs`` names, each with the structure it should be of, where that is stated.

    Args:
        runs: ``folders`` (a glob of folders or of vasprun.xml/OUTCAR files, ``**`` for any depth), or ``manifest`` (CSV
            with a column ``folder``, relative to the manifest, and optionally ``structure``).

    Raises:
        SettingsError: if neither or both are given, or the glob finds nothing.
        ArtefactError: if the manifest cannot be read.
    """
    pattern, manifest = runs.get("folders"), runs.get("manifest")
    if bool(pattern) == bool(manifest):
        raise SettingsError("runs: expected either 'folders' (a glob) or 'manifest' (a CSV file)")
    if manifest:
        table = read_table(manifest, ["folder"])
        ids = table["structure"] if "structure" in table else [None] * len(table)
        base = Path(manifest).parent
        return [
            (base / str(folder), None if pd.isna(name) or name is None else str(name))
            for folder, name in zip(table["folder"], ids, strict=True)
        ]
    found: dict[tuple[Path, ...], Path] = {}
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        is_output = any(kind in path.name for kind in ("vasprun.xml", "OUTCAR"))
        if not path.is_dir() and not is_output:
            continue
        files = tuple(output_files(path))
        if not files and "**" in pattern:
            continue  # a folder on the way to others
        found.setdefault(files or (path,), path)
    if not found:
        raise SettingsError(f"runs.folders: '{pattern}' matches no folder and no vasprun.xml or OUTCAR")
    return [(path, None) for path in found.values()]


def run_files(runs: Mapping[str, Any], of_manifest: bool = True) -> list[str]:
    """Return every output file of a block ``runs`` that is there now: what an ingestion depends on.

    A source that is not there yet, or cannot be read, gives an empty list: the ingestion itself says what is wrong.

    Args:
        runs: see `find_runs`.
        of_manifest: whether the manifest counts as one of the files.
    """
    try:
        found = find_runs(runs)
    except SegalflowError:
        return []
    files = [str(f) for path, _ in found for f in output_files(path)]
    return [*files, str(runs["manifest"])] if of_manifest and runs.get("manifest") else files


def candidate_of(path: Path, found: Examined, expected: Atoms | None = None) -> Candidate:
    """Return the candidate that the gate's verdict on a run makes."""
    extra: dict[str, Any] = {"files": list(found.files)}
    formula = ""
    output = found.output
    if output is not None:
        formula = output.final.get_chemical_formula(mode="metal")
        extra.update(engine_version=f"VASP {output.version}".strip(), n_steps=output.ionic_steps, max_force=None)
        extra["potcar"] = list(output.titles)
        if output.forces is not None and len(output.forces):
            extra["max_force"] = float(np.linalg.norm(output.forces, axis=1).max())
    energy = output.energy if output is not None and found.match is not None else None
    return Candidate(str(path), found.status, found.reason, found.match, expected, energy, extra, formula)


def _one_potcar_each(candidates: list[Candidate]) -> list[Candidate]:
    """Energies made with different POTCARs of one element (by date) do not belong together: the majority stays."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for c in candidates:
        if c.status == CONVERGED:
            for title in c.extra.get("potcar", ()):
                votes[title.split()[1]][title] += 1
    usual = {symbol: min(count, key=lambda t: (-count[t], t)) for symbol, count in votes.items()}
    checked = []
    for c in candidates:
        # The gate has checked the form of the titles of what converged.
        titles = c.extra.get("potcar", ()) if c.status == CONVERGED else ()
        other = [t for t in titles if usual.get(t.split()[1], t) != t]
        if other:
            wanted = usual[other[0].split()[1]]
            c = replace(c, status=MISMATCH, reason=f"settings: POTCAR: '{other[0]}', the other runs have '{wanted}'")
        checked.append(c)
    return checked


def ingest_vasp(
    runs: Sequence[tuple[Path, str | Atoms | None]],
    lattice: ParentLattice,
    settings: Mapping[str, Any],
    pool: Sequence[Atoms] | None = None,
) -> Gathered:
    """Return the records of VASP runs that exist.

    Args:
        runs: folders (or output files), each with the structure (or its id) it should be of, or None.
        lattice: parent lattice.
        settings: of the calculation: vasp, max_strain, max_displacement, max_volume_change.
        pool: structures that are wanted; without it those that are found.
    """
    limits, vasp = limits_of(settings), settings["vasp"]
    judged = []
    for path, wanted in runs:
        name = wanted.info["structure"] if isinstance(wanted, Atoms) else wanted
        found = examine(path, request_of(vasp, name), limits, lattice, wanted)
        if name is None and found.match is not None and found.match.ideal.info["structure"] in vasp["structures"]:
            # The structure has settings of its own, which could not be known before it was recognised.
            own = request_of(vasp, found.match.ideal.info["structure"])
            found = examine(path, own, limits, lattice, wanted)
        judged.append(candidate_of(path, found, wanted if isinstance(wanted, Atoms) else None))
    if "POTCAR" not in vasp["unchecked"]:
        judged = _one_potcar_each(judged)
    common = {
        "engine": "vasp",
        "engine_version": "VASP",
        "settings": {k: settings[k] for k in ("max_displacement", "max_strain", "max_volume_change", "vasp")},
    }
    return gather(judged, lattice, common, pool, vasp["max_formation"])


def write_records(path: str | Path, gathered: Gathered) -> None:
    """Write the records of an ingestion as one JSON file."""
    write_json(path, {"end_members": gathered.end_members, "records": gathered.records}, RECORDS_SCHEMA)


def require_some(gathered: Gathered, what: str) -> None:
    """Stop with a sentence if nothing at all is usable.

    Raises:
        DatasetError: with the most frequent reason.
    """
    if any(r["status"] == CONVERGED for r in gathered.records):
        return
    said = gathered.summary[gathered.summary["status"] != "used"].sort_values("runs", ascending=False)
    example = f"; most often: {said.iloc[0]['reason']} ({said.iloc[0]['example']})" if len(said) else ""
    raise DatasetError(f"{what}: none of {len(gathered.rejects)} calculations is usable{example}")
