"""What a VASP run left behind, read with suspicion.

Parsers call broken runs converged (see the tests): everything a judgement needs is taken out here as plain values, from
vasprun.xml, from OUTCAR, or from both, which must then agree. Files may be compressed (``.gz``).
"""

from __future__ import annotations

import contextlib
import gzip
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms


class UnreadableOutput(Exception):
    """A file that cannot be read whole; the message is the reason for a person."""


@dataclass(eq=False)
class VaspOutput:
    """One run.

    Attributes:
        files: the files read.
        version: of VASP.
        settings: INCAR tags as VASP understood them (upper case), where the output states them.
        titles: POTCAR titles (TITEL), one a species in the order of the structure's species.
        mesh: divisions of the k-point mesh, or None where the output does not state them.
        initial, final: structures the run started from and ended with.
        energy: energy extrapolated to zero smearing, dispersion included, eV a cell.
        forces: of the last ionic step, shape (n_atoms, 3), eV/Angstrom, or None.
        pressure: of the last ionic step, kbar, or None.
        ionic_steps: number of ionic steps.
        electronic_steps: electronic steps of the last ionic step.
        electronic_change: change of the energy in the last electronic step, eV, or None.
        ionic_change: change of the energy in the last ionic step, eV, or None for a single step.
        accuracy_reached: whether OUTCAR says that the relaxation reached its accuracy; None without an OUTCAR.
        loop_failed: whether OUTCAR says that the last electronic loop did not converge.
        unfinished: why the run counts as not finished, or an empty text.
        contradictions: what the files say against each other or themselves.
    """

    files: tuple[str, ...]
    version: str
    settings: dict[str, Any]
    titles: tuple[str, ...]
    mesh: tuple[int, int, int] | None
    initial: Atoms
    final: Atoms
    energy: float
    forces: np.ndarray | None
    pressure: float | None
    ionic_steps: int
    electronic_steps: int
    electronic_change: float | None
    ionic_change: float | None
    accuracy_reached: bool | None = None
    loop_failed: bool = False
    unfinished: str = ""
    contradictions: list[str] = field(default_factory=list)


@dataclass
class _Outcar:
    """What OUTCAR says by itself."""

    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    titles: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    energy: float | None = None
    free_energies: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    pressure: float | None = None
    ionic_steps: int = 0
    electronic_steps: int = 0
    accuracy_reached: bool = False
    loop_failed: bool = False
    unfinished: str = ""
    contradictions: list[str] = field(default_factory=list)


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?"
_TAGS = {
    "ENCUT": (r"^\s+ENCUT\s*=\s*(\S+)\s+eV", float),
    "EDIFF": (rf"^\s+EDIFF\s*=\s*({_NUMBER})", float),
    "EDIFFG": (rf"^\s+EDIFFG\s*=\s*({_NUMBER})", float),
    "NSW": (r"^\s+NSW\s*=\s*(-?\d+)", int),
    "NELM": (r"^\s+NELM\s*=\s*(\d+)", int),
    "IBRION": (r"^\s+IBRION\s*=\s*(-?\d+)", int),
    "ISIF": (r"^\s+ISIF\s*=\s*(-?\d+)", int),
    "ISPIN": (r"^\s+ISPIN\s*=\s*(\d+)", int),
    "GGA": (r"^\s+GGA\s*=\s*(\S+)", str),
    "METAGGA": (r"^\s+METAGGA\s*=\s*(\S+)", str),
    "IVDW": (r"^\s+IVDW\s*=\s*(-?\d+)", int),
    "LHFCALC": (r"^\s+LHFCALC\s*=\s*(\S+)", lambda t: t.upper().startswith("T")),
    "LDAU": (r"^\s+LDAU\s*=\s*(\S+)", lambda t: t.upper().startswith(("T", ".T"))),
    "LUSE_VDW": (r"^\s+LUSE_VDW\s*=\s*(\S+)", lambda t: t.upper().startswith("T")),
}


def read_text(path: Path) -> str:
    """Return the text of a plain or gzipped file.

    Raises:
        UnreadableOutput: if it is missing, empty, cut short (gz) or holds bytes that are no text.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise UnreadableOutput("the file does not exist") from None
    except (OSError, EOFError, gzip.zlib.error) as error:
        raise UnreadableOutput(f"the compressed file is damaged ({error})") from None
    if not data.strip():
        raise UnreadableOutput("the file is empty")
    if b"\0" in data:
        raise UnreadableOutput("the file holds NUL bytes: damaged on the disk or in transfer")
    return data.decode("utf-8", errors="replace")


def _last(pattern: str, text: str, kind: Any) -> Any:
    found = re.findall(pattern, text, re.MULTILINE)
    if not found:
        return None
    with contextlib.suppress(ValueError):
        return kind(found[-1])
    raise UnreadableOutput(f"unparsable: expected a number, found '{found[-1]}'")


def _read_outcar(path: Path) -> _Outcar:
    text = read_text(path)
    if "vasp." not in text[:2000].lower() and "TITEL" not in text:
        raise UnreadableOutput("this is no OUTCAR")
    found = _Outcar()
    version = re.search(r"vasp\.(\S+)", text)
    found.version = version.group(1) if version else ""
    # Settings are stated after the POTCARs; what stands before them is an echo of the INCAR.
    for tag, (pattern, kind) in _TAGS.items():
        value = _last(pattern, text, kind)
        if value is not None:
            found.settings[tag] = value
    found.titles = tuple(" ".join(t.split()) for t in re.findall(r"^\s+TITEL\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    counts = re.findall(r"^\s+ions per type =\s*(.*)$", text, re.MULTILINE)
    if counts:
        try:
            found.counts = tuple(int(n) for n in counts[-1].split())
        except ValueError:
            raise UnreadableOutput(f"unparsable: ions per type = {counts[-1].strip()}") from None
    iterations = re.findall(r"Iteration\s+(\d+|\*+)\(\s*(\d+|\*+)\)", text)
    if iterations:
        try:
            found.ionic_steps, found.electronic_steps = int(iterations[-1][0]), int(iterations[-1][1])
        except ValueError:
            raise UnreadableOutput(f"unparsable: Iteration {'('.join(iterations[-1])})") from None
    # Two spaces: the electronic loop prints "free energy" with one.
    energies = re.findall(r"^\s+free  energy\s+TOTEN\s+=\s*(\S+)\s+eV", text, re.MULTILINE)
    extrapolated = re.findall(r"energy\s+without entropy\s*=.*energy\(sigma->0\)\s*=\s*(\S+)", text)
    changes = re.findall(r"total energy-change \(2\. order\)\s*:\s*(\S+)", text)
    try:
        found.free_energies = [float(e) for e in energies]
        found.energy = float(extrapolated[-1]) if extrapolated else None
        found.changes = [float(c.replace("(", "")) for c in changes[-1:]]
        found.pressure = _last(r"external pressure =\s*(\S+)\s*kB", text, float)
    except ValueError as error:
        raise UnreadableOutput(f"unparsable: {error}") from None
    found.accuracy_reached = "reached required accuracy" in text
    endings = text.count("General timing and accounting")
    if endings == 0:
        found.unfinished = "OUTCAR has no closing timing: the run was killed or is still going on"
    elif re.search(r"soft stop encountered|hard stop encountered", text):
        found.unfinished = "the run was stopped by a STOPCAR file"
    elif "\ufffd" in text.rsplit("General timing", 1)[-1]:
        found.contradictions.append("OUTCAR has bytes that are no text after its end")
    elif endings > 1 or len(re.findall(r"^ (?:running on|vasp\.\d)", text, re.MULTILINE)) > 2:
        found.contradictions.append("OUTCAR holds more than one run")
    # VASP 6 says so; VASP 5 writes "EDIFF is reached" even where it was not.
    found.loop_failed = "EDIFF was not reached" in text.rsplit("Iteration", 1)[-1]
    return found


def _to_ase(structure: Any) -> Atoms:
    return Atoms(
        [site.specie.symbol for site in structure],
        scaled_positions=structure.frac_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )


def _read_vasprun(path: Path) -> VaspOutput:
    from pymatgen.io.vasp.outputs import Vasprun

    text = read_text(path)
    if not text.rstrip().endswith("</modeling>"):
        where = "has something after its end" if "</modeling>" in text else "is cut short: the run was killed"
        raise UnreadableOutput(f"vasprun.xml {where}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
            steps = run.ionic_steps
            last = steps[-1]
            loop = last["electronic_steps"]
            energies = [float(s.get("e_fr_energy", s.get("e_0_energy", np.nan))) for s in loop]
            settings = {str(k).upper(): v for k, v in {**run.parameters, **run.incar}.items()}
            if "ENMAX" in settings:
                settings["ENCUT"] = settings["ENMAX"] if "ENCUT" not in run.incar else run.incar["ENCUT"]
            # Where EDIFF and the like are concerned, VASP's own list wins over the echo of the INCAR.
            settings.update({k: run.parameters[k] for k in ("NSW", "IBRION", "ISIF", "NELM") if k in run.parameters})
            free = [float(s["e_fr_energy"]) for s in steps]
            mesh = None
            if run.kpoints is not None and run.kpoints.style.name in ("Gamma", "Monkhorst"):
                mesh = tuple(int(n) for n in run.kpoints.kpts[0])
            stress = np.array(last["stress"], dtype=float) if last.get("stress") is not None else None
            output = VaspOutput(
                files=(str(path),),
                version=run.vasp_version,
                settings=settings,
                titles=tuple(" ".join(str(t).split()) for t in run.potcar_symbols),
                mesh=mesh,
                initial=_to_ase(run.initial_structure),
                final=_to_ase(run.final_structure),
                energy=float(run.final_energy),
                forces=np.array(last["forces"], dtype=float) if last.get("forces") is not None else None,
                pressure=None if stress is None else float(np.trace(stress) / 3),
                ionic_steps=int(run.nionic_steps),
                electronic_steps=len(loop),
                electronic_change=abs(energies[-1] - energies[-2]) if len(energies) > 1 else None,
                ionic_change=abs(free[-1] - free[-2]) if len(free) > 1 else None,
            )
    except Exception as error:  # pymatgen and lxml raise many kinds on a damaged file
        said = " ".join(str(error).split())
        raise UnreadableOutput(f"unparsable: {type(error).__name__}: {said[:200]}") from None
    dispersion = settings.get("IVDW") not in (None, 0)
    allowed = 1.0 * len(output.final) if dispersion else 1e-3
    if not abs(free[-1] - energies[-1]) <= allowed:
        output.contradictions.append(
            f"vasprun.xml gives the last step two energies, {energies[-1]:.6f} and {free[-1]:.6f} eV"
        )
    return output


def _from_outcar(path: Path, outcar: _Outcar) -> VaspOutput:
    """A run of which only OUTCAR is left."""
    from ase.io import read

    if outcar.unfinished:
        raise UnreadableOutput(outcar.unfinished)
    if outcar.contradictions:
        raise UnreadableOutput(f"contradiction: {outcar.contradictions[0]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = read(path, index=":", format="vasp-out")
        forces = images[-1].get_forces(apply_constraint=False)
    except Exception as error:  # ASE raises many kinds on a damaged file
        said = " ".join(str(error).split())
        raise UnreadableOutput(f"unparsable: {type(error).__name__}: {said[:200]}") from None
    if outcar.energy is None or not outcar.free_energies:
        raise UnreadableOutput("OUTCAR holds no energy")
    free = outcar.free_energies
    return VaspOutput(
        files=(str(path),),
        version=outcar.version,
        settings=dict(outcar.settings),
        titles=outcar.titles,
        mesh=None,
        initial=images[0],
        final=images[-1],
        energy=outcar.energy,
        forces=forces,
        pressure=outcar.pressure,
        ionic_steps=outcar.ionic_steps,
        electronic_steps=outcar.electronic_steps,
        electronic_change=abs(outcar.changes[-1]) if outcar.changes else None,
        ionic_change=abs(free[-1] - free[-2]) if len(free) > 1 else None,
        accuracy_reached=outcar.accuracy_reached,
        loop_failed=outcar.loop_failed,
    )


def _cross_check(output: VaspOutput, outcar: _Outcar, path: Path) -> None:
    """Put what OUTCAR says beside vasprun.xml's word."""
    output.files = (*output.files, str(path))
    output.accuracy_reached = outcar.accuracy_reached
    output.loop_failed = outcar.loop_failed
    output.unfinished = output.unfinished or outcar.unfinished
    said = output.contradictions
    said.extend(outcar.contradictions)
    if not outcar.free_energies or outcar.energy is None:
        said.append("OUTCAR holds no energy where vasprun.xml has one")
    # The last line on energy(sigma->0) leaves the dispersion out in some versions: the tolerance follows.
    elif not abs(outcar.energy - output.energy) <= (
        1e-3 if output.settings.get("IVDW") in (None, 0) else 1.0 * len(output.final)
    ):
        said.append(f"OUTCAR ends at {outcar.energy:.6f} eV, vasprun.xml at {output.energy:.6f} eV")
    if outcar.ionic_steps and outcar.ionic_steps != output.ionic_steps:
        said.append(f"OUTCAR has {outcar.ionic_steps} ionic steps, vasprun.xml {output.ionic_steps}")
    if outcar.counts and sum(outcar.counts) != len(output.final):
        said.append(f"OUTCAR has {sum(outcar.counts)} atoms, vasprun.xml {len(output.final)}")
    if outcar.titles and output.titles and set(outcar.titles) != set(output.titles):
        said.append(f"OUTCAR has the POTCARs {', '.join(outcar.titles)}, vasprun.xml {', '.join(output.titles)}")


_KINDS = ("vasprun.xml", "OUTCAR")


def output_files(path: Path) -> list[Path]:
    """Return the output files of one run, vasprun.xml first.

    Args:
        path: a folder, or one of its files: ``name_vasprun.xml.gz`` goes with ``name_OUTCAR.gz``.
    """
    if path.is_dir():
        found = []
        for kind in _KINDS:
            found += [p for p in (path / kind, path / f"{kind}.gz") if p.is_file()][:1]
        return found
    for kind in _KINDS:
        if kind in path.name:
            names = [path.name.replace(kind, other).removesuffix(".gz") for other in _KINDS]
            beside = [[path.with_name(n), path.with_name(f"{n}.gz")] for n in names]
            return [next(p for p in pair if p.is_file()) for pair in beside if any(p.is_file() for p in pair)]
    return [path] if path.is_file() else []


def read_output(files: Iterable[Path]) -> VaspOutput:
    """Read one run from its files (vasprun.xml, OUTCAR, or both; see `output_files`).

    Raises:
        UnreadableOutput: with the reason, if there is no file or one cannot be read whole.
    """
    vasprun, outcar = None, None
    for path in files:
        if "OUTCAR" in path.name:
            outcar = path
        else:
            vasprun = path
    if vasprun is None and outcar is None:
        raise UnreadableOutput("there is neither a vasprun.xml nor an OUTCAR")
    if vasprun is None:
        return _from_outcar(outcar, _read_outcar(outcar))
    output = _read_vasprun(vasprun)
    if outcar is not None:
        try:
            _cross_check(output, _read_outcar(outcar), outcar)
        except UnreadableOutput as error:
            raise UnreadableOutput(f"{outcar.name}: {error}") from None
    return output
