"""VASP's output files for tests, written by hand: what a run leaves behind, without VASP.

Run as a program in a folder with POSCAR and INCAR it stands in for VASP (energies by EMT on the given positions):
``python fake_vasp.py [converged | unconverged | killed | then-converged]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write

PAPER = {
    "PREC": "Accurate",
    "GGA": "PE",
    "IVDW": 11,
    "ENCUT": 520.0,
    "EDIFF": 1e-6,
    "EDIFFG": -0.01,
    "IBRION": 2,
    "ISIF": 3,
    "NSW": 100,
    "NELM": 100,
    "ISPIN": 1,
}


def _entry(tag: str, value: object) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{tag}"> {"T" if value else "F"}  </i>'
    if isinstance(value, int):
        return f'<i type="int" name="{tag}">{value:6d}</i>'
    if isinstance(value, float):
        return f'<i name="{tag}">{value:16.8f}</i>'
    return f'<i type="string" name="{tag}">{value}</i>'


def _rows(name: str, rows: np.ndarray) -> str:
    lines = "\n".join("<v> " + " ".join(f"{v:16.8f}" for v in row) + " </v>" for row in rows)
    return f'<varray name="{name}" >\n{lines}\n</varray>'


def _structure(atoms: Atoms, name: str = "") -> str:
    attribute = f' name="{name}"' if name else ""
    return (
        f"<structure{attribute} >\n<crystal>\n{_rows('basis', np.array(atoms.cell))}\n"
        f'<i name="volume"> {atoms.get_volume():.8f} </i>\n{_rows("rec_basis", np.array(atoms.cell.reciprocal()))}\n'
        f"</crystal>\n{_rows('positions', atoms.get_scaled_positions(wrap=False))}\n</structure>"
    )


def vasprun(
    initial: Atoms,
    final: Atoms | None = None,
    energy: float | None = None,
    settings: dict | None = None,
    titles: dict | None = None,
    mesh: tuple[int, int, int] = (30, 30, 30),
    ionic_steps: int = 2,
    electronic_steps: int = 6,
    force: float = 0.001,
    pressure: float = 0.5,
    block_e0: float | None = None,
) -> str:
    """Text of a vasprun.xml."""
    final = initial if final is None else final
    energy = -3.5 * len(final) if energy is None else energy
    incar = {**PAPER, **(settings or {})}
    species = list(dict.fromkeys(initial.get_chemical_symbols()))
    titles = {s: f"PAW_PBE {s} 22Jun2005" for s in species} | (titles or {})
    echo = "\n".join(_entry(k, v) for k, v in incar.items())
    known = {**incar, "ENMAX": incar["ENCUT"], "LHFCALC": False, "LDAU": False, "LUSE_VDW": False}
    parameters = "\n".join(_entry(k, v) for k, v in known.items() if k not in ("ENCUT", "IVDW", "METAGGA"))
    atoms = "\n".join(f"<rc><c>{s:2s}</c><c>{species.index(s) + 1:4d}</c></rc>" for s in initial.get_chemical_symbols())
    types = "\n".join(
        f"<rc><c>{initial.get_chemical_symbols().count(s):4d}</c><c>{s:2s}</c><c>60.0</c><c>11.0</c>"
        f"<c>  {titles[s]:40s}</c></rc>"
        for s in species
    )
    forces = np.zeros((len(final), 3))
    forces[0, 0] = force
    steps = []
    for step in range(ionic_steps):
        last = step == ionic_steps - 1
        shift = 0.0 if last else 0.02 / (step + 1)
        loops = "\n".join(
            "<scstep>\n<energy>\n"
            + "\n".join(
                f'<i name="{name}"> {energy + shift + (0.0 if last_loop else 10.0 ** -(k + 1)):16.8f} </i>'
                for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy")
            )
            + "\n</energy>\n</scstep>"
            for k in range(electronic_steps)
            for last_loop in [k >= electronic_steps - 2]
        )
        e_0 = energy + shift if block_e0 is None or not last else block_e0
        e_fr = e_0 if block_e0 is not None and last else energy + shift
        steps.append(
            f"<calculation>\n{loops}\n{_structure(final if last else initial)}\n{_rows('forces', forces)}\n"
            f"{_rows('stress', pressure * np.eye(3))}\n<energy>\n"
            f'<i name="e_fr_energy"> {e_fr:16.8f} </i>\n<i name="e_wo_entrp"> {e_0:16.8f} </i>\n'
            f'<i name="e_0_energy"> {e_0:16.8f} </i>\n</energy>\n</calculation>'
        )
    divisions = "       ".join(str(n) for n in mesh)
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<generator>
<i name="program" type="string">vasp </i>
<i name="version" type="string">6.4.2  </i>
</generator>
<incar>
{echo}
</incar>
<kpoints>
<generation param="Gamma">
<v type="int" name="divisions">       {divisions} </v>
<v name="usershift">      0.00000000       0.00000000       0.00000000 </v>
<v name="genvec1">      0.1 0.0 0.0 </v>
<v name="genvec2">      0.0 0.1 0.0 </v>
<v name="genvec3">      0.0 0.0 0.1 </v>
<v name="shift">      0.00000000       0.00000000       0.00000000 </v>
</generation>
<varray name="kpointlist" >
<v>       0.00000000       0.00000000       0.00000000 </v>
</varray>
<varray name="weights" >
<v>       1.00000000 </v>
</varray>
</kpoints>
<parameters>
<separator name="general" >
{parameters}
</separator>
</parameters>
<atominfo>
<atoms>  {len(initial):6d} </atoms>
<types>  {len(species):6d} </types>
<array name="atoms" >
<dimension dim="1">ion</dimension>
<field type="string">element</field>
<field type="int">atomtype</field>
<set>
{atoms}
</set>
</array>
<array name="atomtypes" >
<dimension dim="1">type</dimension>
<field type="int">atomspertype</field>
<field type="string">element</field>
<field>mass</field>
<field>valence</field>
<field type="string">pseudopotential</field>
<set>
{types}
</set>
</array>
</atominfo>
{_structure(initial, "initialpos")}
{chr(10).join(steps)}
{_structure(final, "finalpos")}
</modeling>
"""


def outcar(final: Atoms, energy: float, ionic_steps: int = 2, electronic_steps: int = 6, reached: bool = True) -> str:
    """The lines of an OUTCAR that are read beside a vasprun.xml (not its structures)."""
    species = list(dict.fromkeys(final.get_chemical_symbols()))
    head = [" vasp.6.4.2 20Jul23 complex"]
    head += [f"   TITEL  = PAW_PBE {s} 22Jun2005" for s in species]
    counts = [f"{final.get_chemical_symbols().count(s):4d}" for s in species]
    head += ["   ions per type =             " + "".join(counts), "   NELM   =    100;   NELMIN=  2"]
    body = []
    for step in range(1, ionic_steps + 1):
        for loop in range(1, electronic_steps + 1):
            body.append(f"----- Iteration {step:6d}({loop:4d})  -----")
        body += [
            f"  free  energy   TOTEN  = {energy:18.8f} eV",
            "",
            f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}",
        ]
    if reached:
        body.append(" reached required accuracy - stopping structural energy minimisation")
    body += [" General timing and accounting informations for this job:", "   Elapsed time (sec):       18.865"]
    return "\n".join(head + body) + "\n"


def write_run(folder: Path, initial: Atoms, reached: bool = True, **options) -> None:
    """Write vasprun.xml and OUTCAR of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vasprun.xml").write_text(vasprun(initial, **options))
    energy = options.get("energy", -3.5 * len(initial))
    final = options.get("final") or initial
    (folder / "OUTCAR").write_text(outcar(final, energy, options.get("ionic_steps", 2), reached=reached))


def main(manner: str) -> int:
    """Stand in for VASP in the current folder."""
    atoms = read("POSCAR", format="vasp")
    again = Path("WAS_HERE").exists()
    Path("WAS_HERE").write_text("")
    atoms.calc = EMT()
    energy = float(atoms.get_potential_energy()) - 3.5 * len(atoms)
    reached = manner == "converged" or (manner == "then-converged" and again)
    write("CONTCAR", atoms, format="vasp", direct=True)
    if manner == "killed":
        Path("vasprun.xml").write_text(vasprun(atoms, energy=energy)[:3000])
        return 1
    write_run(Path(), atoms, reached=reached, energy=energy, ionic_steps=2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "converged"))
