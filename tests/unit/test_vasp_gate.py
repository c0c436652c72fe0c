"""The gate for VASP outputs: real files, and every way of being broken that is known."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fake_vasp import PAPER, vasprun, write_run

from segalflow.dft.gate import Limits, VaspRequest, examine, functional, judge_run
from segalflow.dft.vasp_outputs import UnreadableOutput, output_files, read_output
from segalflow.lattice import ParentLattice, parent_lattice
from segalflow.structures.enumeration import enumerate_pool

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
REQUEST = VaspRequest(incar=PAPER, density=64)
SILICON = ParentLattice(
    "diamond", 5.47 * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]), [[0, 0, 0], [0.25] * 3], [["Si"]] * 2
)


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 4)


@pytest.fixture(scope="module")
def l1_2(pool):
    """The L1_2 Cu3Au structure, cubic."""
    return next(
        s
        for s in pool
        if s.get_chemical_formula() == "AuCu3" and np.ptp(s.cell.lengths()) < 0.01 and np.allclose(s.cell.angles(), 90)
    )


def real(reference, name):
    return reference / "vasp" / name


def static(encut=300.0, **other):
    return VaspRequest({"ENCUT": encut, "EDIFF": 1e-6, "NSW": 0, "IBRION": -1, "ISPIN": 1, **other})


@pytest.mark.reference
def test_real_files_are_classified(reference) -> None:
    as_made = {
        "exit_codes-converged": (static(), "converged", ""),
        "exit_codes-elec-unconverged": (static(), "unconverged", "electrons: not converged in the NELM = 8"),
        "exit_codes-ionic-unconverged": (
            VaspRequest({"ENCUT": 300, "IBRION": 1, "NSW": 5, "ISIF": 2}),
            "unconverged",
            "ions: the required accuracy was not reached in 5 of NSW = 5",
        ),
        "converged-metal-isif3": (
            VaspRequest({"ENCUT": 680, "ISIF": 3, "IBRION": 2, "NSW": 99, "METAGGA": "R2SCAN", "EDIFFG": -0.02}),
            "converged",
            "",
        ),
        "converged-pbe-520": (
            VaspRequest({"ENCUT": 520, "ISIF": 3, "IBRION": 2, "NSW": 99, "EDIFFG": 0.001}, density=64),
            "converged",
            "",
        ),
    }
    for name, (request, status, words) in as_made.items():
        output = read_output(output_files(real(reference, name)))
        found = judge_run(output, request)
        assert (found[0], words in found[1]) == (status, True), (name, found)
    with pytest.raises(UnreadableOutput, match="cut short"):
        read_output(output_files(real(reference, "exit_codes-unfinished")))
    # The whole gate, with the lattice: silicon of the exit codes sits 0.46 A off its sites, the other is diamond.
    limits = Limits()
    good = examine(real(reference, "converged-pbe-520"), as_made["converged-pbe-520"][0], limits, SILICON)
    assert good.status == "converged"
    assert good.output.energy == pytest.approx(-10.84147246)
    strict = Limits(max_displacement=0.3)
    off = examine(real(reference, "exit_codes-converged"), static(), strict, SILICON)
    assert (off.status, "an atom moved 0.46 A" in off.reason) == ("collapsed", True)
    assert examine(real(reference, "exit_codes-unfinished"), static(), limits, SILICON).status == "failed"


@pytest.mark.reference
def test_nothing_of_the_real_files_passes_the_papers_request(reference) -> None:
    """None of them was made with the paper's settings: each is a mismatch (or worse), whatever it converged to."""
    reasons = {}
    for folder in sorted(p for p in (reference / "vasp").iterdir() if p.is_dir()):
        found = examine(folder, REQUEST, Limits(), SILICON)
        assert found.status != "converged"
        reasons[folder.name] = found.reason
    assert reasons["converged-metal-isif3"] == "composition: Al is not among the species Si"
    assert "expected PBE+D3, found PBE" in reasons["converged-pbe-520"]
    assert "cut short" in reasons["exit_codes-unfinished"]


@pytest.mark.reference
def test_an_outcar_alone_is_enough(reference, tmp_path) -> None:
    expected = {
        "exit_codes-converged": "converged",
        "exit_codes-elec-unconverged": "unconverged",
        "exit_codes-ionic-unconverged": "mismatch",
    }
    for name, status in expected.items():
        output = read_output([real(reference, name) / "OUTCAR"])
        assert output.energy == pytest.approx(read_output(output_files(real(reference, name))).energy)
        assert judge_run(output, static())[0] == status
    with pytest.raises(UnreadableOutput, match="no closing timing"):
        read_output([real(reference, "exit_codes-unfinished") / "OUTCAR"])
    whole = (real(reference, "exit_codes-converged") / "OUTCAR").read_text()
    (tmp_path / "OUTCAR").write_text(
        whole.replace("ions per type =               2", "ions per type =              **")
    )
    assert examine(tmp_path, static(), Limits(), SILICON).reason.startswith("unparsable")


@pytest.mark.reference
def test_energy_zero_in_the_last_block_of_a_good_run_is_mended(reference) -> None:
    """VASP 5.4 writes e_0_energy = 0 in the last block of this r2SCAN run; its electronic steps have the energy."""
    assert read_output(output_files(real(reference, "converged-metal-isif3"))).energy == pytest.approx(-3.74599651)


def test_a_good_run_passes(pool, l1_2, tmp_path) -> None:
    write_run(tmp_path, l1_2)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, found.reason) == ("converged", "")
    assert found.match.ideal.info["structure"] == l1_2.info["structure"]
    assert len(found.files) == 2
    # Rotated, scaled, another order of atoms: the same structure.
    turned = l1_2[[3, 1, 0, 2]]
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turned.set_cell(turned.cell * 1.03, scale_atoms=True)
    write_run(tmp_path, turned)
    assert examine(tmp_path, REQUEST, Limits(), FCC, l1_2).status == "converged"


def bain(atoms):
    """The same decoration after fcc has become bcc along one cubic axis (L1_0 becomes B2)."""
    squeezed = atoms.copy()
    axis = np.diag([1.0, 1.0, 2**-0.5]) * 2 ** (1 / 6)
    squeezed.set_cell(np.array(atoms.cell) @ axis, scale_atoms=True)
    return squeezed


RUNS = {
    "static run passed off": ({"settings": {"NSW": 0, "IBRION": -1}, "ionic_steps": 1}, "mismatch", "a static run"),
    "one step of NSW 0 with IBRION 2": ({"settings": {"NSW": 0}, "ionic_steps": 1}, "mismatch", "a static run"),
    "cell held": ({"settings": {"ISIF": 2}}, "mismatch", "ISIF: expected 3, found 2"),
    "cut-off": ({"settings": {"ENCUT": 400.0}}, "mismatch", "ENCUT: expected 520.0 eV, found 400"),
    "no dispersion": ({"settings": {"IVDW": 0}}, "mismatch", "expected PBE+D3, found PBE"),
    "PBEsol": ({"settings": {"GGA": "PS"}}, "mismatch", "expected PBE+D3, found PBEsol+D3"),
    "meta-GGA": ({"settings": {"METAGGA": "SCAN"}}, "mismatch", "found SCAN"),
    "EDIFF": ({"settings": {"EDIFF": 1e-3}}, "mismatch", "EDIFF: expected 1e-06"),
    "other POTCAR": ({"titles": {"Cu": "PAW_PBE Cu_pv 06Sep2000"}}, "mismatch", "expected 'PAW_PBE Cu' for Cu"),
    "LDA POTCAR": ({"titles": {"Cu": "PAW Cu 06Sep2000"}}, "mismatch", "found 'PAW Cu'"),
    "coarse mesh": ({"mesh": (3, 3, 3)}, "mismatch", "KPOINTS: expected a mesh of at least"),
    "NELM": ({"electronic_steps": 100}, "unconverged", "electrons: not converged in the NELM = 100"),
    "forces left": ({"force": 0.05}, "unconverged", "the largest force is 0.0500"),
    "pressure left": ({"pressure": 40.0}, "unconverged", "a pressure of 40.0 kbar is left"),
    "NSW": ({"settings": {"NSW": 2}}, "unconverged", "ions: the required accuracy was not reached"),
    "energy 0 in the last block": ({"block_e0": 0.0, "settings": {"IVDW": 11}}, "failed", "two energies"),
    "energy 0": ({"energy": 0.0}, "failed", "energy"),
    "energy absurd": ({"energy": -5000.0}, "failed", "outside -30.0 to 0.0"),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_fault_has_its_verdict(name, l1_2, tmp_path) -> None:
    options, status, words = RUNS[name]
    tmp_path.joinpath("vasprun.xml").write_text(vasprun(l1_2, **options))
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, words in found.reason) == (status, True), found.reason


def test_checks_can_be_left_out_by_name(l1_2, tmp_path) -> None:
    tmp_path.joinpath("vasprun.xml").write_text(vasprun(l1_2, mesh=(3, 3, 3), settings={"ISIF": 2, "ENCUT": 400.0}))
    lenient = VaspRequest(PAPER, density=64, unchecked=frozenset({"KPOINTS", "ISIF", "ENCUT"}))
    assert examine(tmp_path, lenient, Limits(), FCC, l1_2).status == "converged"


def damaged(text: str) -> dict[str, tuple[bytes, str]]:
    middle = text.index("<scstep>", text.index("<calculation>") + 200) + 60
    return {
        "truncated mid-SCF": (text[:middle].encode(), "cut short"),
        "truncated before its last line": (text.replace("</modeling>", "").encode(), "cut short"),
        "corrupted after the end": ((text + "\n<calculation>\x01garbage").encode(), "after its end"),
        "a second file after the end": ((text + text).encode(), "unparsable"),
        "NUL bytes": (text.encode() + b"\0" * 512, "NUL bytes"),
        "empty": (b"", "empty"),
        "overflown integer": (text.replace('name="NELM">   100', 'name="NELM">******'), "unparsable"),
        "overflown energy": (text.replace(f"{-14.0:16.8f}", "****************"), "unparsable"),
        "overflown force": (text.replace(f"{0.001:16.8f}", "****************"), "unparsable"),
        "not XML": (b"slurmstepd: error: Detected 1 oom-kill event", "cut short"),
    }


@pytest.mark.parametrize("name", list(damaged(vasprun(enumerate_pool(FCC, 1)[0]))))
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_rejects_not_crashes(name, packed, l1_2, tmp_path) -> None:
    content, words = damaged(vasprun(l1_2))[name]
    content = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / ("vasprun.xml.gz" if packed else "vasprun.xml")
    path.write_bytes(gzip.compress(content) if packed else content)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, words in found.reason) == ("failed", True), found.reason
    assert found.files == (str(path),)


def test_gz_is_read_and_a_cut_gz_is_a_reject(l1_2, tmp_path) -> None:
    packed = gzip.compress(vasprun(l1_2).encode())
    path = tmp_path / "vasprun.xml.gz"
    path.write_bytes(packed)
    assert examine(tmp_path, REQUEST, Limits(), FCC, l1_2).status == "converged"
    path.write_bytes(packed[: len(packed) // 2])
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, "compressed file is damaged" in found.reason) == ("failed", True)
    path.write_bytes(b"no gzip")
    assert examine(tmp_path, REQUEST, Limits(), FCC, l1_2).status == "failed"


def test_no_output_is_missing(l1_2, tmp_path) -> None:
    assert examine(tmp_path, REQUEST, Limits(), FCC, l1_2).status == "missing"


def test_wrong_composition_and_wrong_decoration(pool, l1_2, tmp_path) -> None:
    other = next(s for s in pool if s.get_chemical_formula() == "Au3Cu")
    write_run(tmp_path, other)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, found.reason.split(":")[0]) == ("mismatch", "composition")
    sibling = next(
        s for s in pool if s.get_chemical_formula() == "AuCu3" and s.info["structure"] != l1_2.info["structure"]
    )
    write_run(tmp_path, sibling)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, "the run started from" in found.reason) == ("mismatch", True)
    foreign = l1_2.copy()
    foreign.symbols[0] = "Pd"
    write_run(tmp_path, foreign)
    found = examine(tmp_path, REQUEST, Limits(), FCC)
    assert (found.status, "Pd is not among the species" in found.reason) == ("mismatch", True)


def test_l1_0_relaxed_to_b2_is_collapsed(pool, tmp_path) -> None:
    layered = next(s for s in pool if len(s) == 2)
    write_run(tmp_path, layered, final=bain(layered))
    found = examine(tmp_path, REQUEST, Limits(), FCC, layered)
    assert (found.status, "left its parent lattice: strain" in found.reason) == ("collapsed", True)
    # Also where the run started from the collapsed cell (a restart), so that it moved by nothing itself.
    write_run(tmp_path, bain(layered))
    assert examine(tmp_path, REQUEST, Limits(), FCC, layered).status == "collapsed"


def test_a_relaxed_volume_far_from_the_elements_is_collapsed(l1_2, tmp_path) -> None:
    swollen = l1_2.copy()
    swollen.set_cell(1.25 * np.array(l1_2.cell), scale_atoms=True)
    write_run(tmp_path, l1_2, final=swollen)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, "its volume is +" in found.reason) == ("collapsed", True)
    assert examine(tmp_path, REQUEST, Limits(max_volume_change=1.2), FCC, l1_2).status == "converged"


def test_an_atom_far_from_its_site_is_collapsed(l1_2, tmp_path) -> None:
    moved = l1_2.copy()
    moved.positions[0] += (1.0, 0.2, 0.0)
    write_run(tmp_path, l1_2, final=moved)
    found = examine(tmp_path, REQUEST, Limits(), FCC, l1_2)
    assert (found.status, "an atom moved" in found.reason) == ("collapsed", True)


def test_outcar_and_vasprun_must_agree(l1_2, tmp_path) -> None:
    write_run(tmp_path, l1_2)
    good = (tmp_path / "OUTCAR").read_text()
    for spoilt, status, words in (
        (good.replace("General timing", ""), "failed", "no closing timing"),
        (good.replace("-14.0", "-19.5"), "failed", "OUTCAR ends at"),
        (good.replace(" reached required accuracy", ""), "unconverged", "accuracy was not reached"),
        (good.replace(" General", " soft stop encountered!\n General"), "failed", "STOPCAR"),
        (good.replace("22Jun2005", "01Jan1999"), "failed", "has the POTCARs"),
        (good + good, "failed", "more than one run"),
        (good.replace("   1   3", "   2   3").replace("   3   1", "   3   2"), "failed", "5 atoms"),
        (good.replace(" reached", " EDIFF was not reached\n reached"), "unconverged", "EDIFF was not"),
        ("", "failed", "OUTCAR: the file is empty"),
    ):
        (tmp_path / "OUTCAR").write_text(spoilt)
        found = examine(tmp_path, VaspRequest({**PAPER, "IVDW": 11}), Limits(), FCC, l1_2)
        assert (found.status, words in found.reason) == (status, True), (words, found.reason)


@pytest.mark.reference
def test_no_cut_of_a_real_run_passes(reference, tmp_path) -> None:
    """A good r2SCAN run cut anywhere, or with any byte spoilt, is never an exception and never a wrong energy."""
    good = (real(reference, "converged-metal-isif3") / "vasprun.xml").read_bytes()
    lattice = parent_lattice("fcc", 4.04, ["Al", "Cu"])
    request = VaspRequest(
        {"ENCUT": 680, "ISIF": 3, "IBRION": 2, "NSW": 99, "METAGGA": "R2SCAN", "EDIFFG": -0.02, "EDIFF": 1e-5}
    )
    path = tmp_path / "vasprun.xml"
    path.write_bytes(good)
    assert examine(tmp_path, request, Limits(), lattice).status == "converged"
    for cut in np.linspace(0, len(good) - 12, 30).astype(int):
        path.write_bytes(good[:cut])
        assert examine(tmp_path, request, Limits(), lattice).status == "failed"
    rng = np.random.default_rng(5)
    for _ in range(15):
        spoilt = bytearray(good)
        where = int(rng.integers(len(good) - 300))
        spoilt[where : where + 200] = rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
        path.write_bytes(bytes(spoilt))
        found = examine(tmp_path, request, Limits(), lattice)
        assert found.status != "converged" or found.output.energy == pytest.approx(-3.74599651)


@pytest.mark.reference
def test_no_cut_of_a_real_outcar_passes(reference, tmp_path) -> None:
    good = gzip.decompress((real(reference, "converged-pbe-520") / "OUTCAR.gz").read_bytes())
    request = VaspRequest({"ENCUT": 520, "ISIF": 3, "IBRION": 2, "NSW": 99, "EDIFFG": 0.001})
    path = tmp_path / "OUTCAR"
    path.write_bytes(good)
    assert examine(tmp_path, request, Limits(), SILICON).status == "converged"
    for cut in np.linspace(0, good.index(b"General timing"), 15).astype(int):
        path.write_bytes(good[:cut])
        assert examine(tmp_path, request, Limits(), SILICON).status == "failed"
    path.write_bytes(good + bytes(range(128, 256)))
    assert "no text after its end" in examine(tmp_path, request, Limits(), SILICON).reason


def test_functionals_have_names() -> None:
    assert functional({}, "PAW_PBE") == "PBE"
    assert functional({"GGA": "--", "IVDW": 12}, "PAW_PBE") == "PBE+D3(BJ)"
    assert functional({"METAGGA": "R2scan"}, "PAW_PBE") == "R2SCAN"
    assert functional({"LDAU": True}, "PAW") == "LDA+U"
    assert functional({"GGA": "PE", "LHFCALC": True}, "PAW_PBE") == "PBE hybrid"
