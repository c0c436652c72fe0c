"""Energy engines: a registry behind one protocol.

An engine is a named way to make an ASE calculator, with what it can and cannot be trusted with. To add one, write a
function that takes the parameters and returns an `Engine`, and register it in `ENGINES`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segalflow.errors import EngineError, suggest

if TYPE_CHECKING:  # every start of the workflow checks its engines, and needs no ASE for it
    from ase import Atoms

GPAW_KPTS = {"density": 7.0, "gamma": True}
"""Default mesh of GPAW, points per 1/Angstrom: at 5 one run had L1_2 Cu3Au at -43, not -34 meV/atom."""


@dataclass(frozen=True)
class Engine:
    """One way to calculate energies.

    Attributes:
        name: its name in the registry.
        version: version of the program, for the record.
        elements: elements it can treat, or None for no restriction known.
        calculator: makes a fresh ASE calculator for a structure, which it does not change.
        reduce_cell: whether the structure is to be calculated in its Minkowski-reduced cell (k-point meshes of the
            skewed cells of an enumeration are uneven, and their energies noise).
    """

    name: str
    version: str
    elements: frozenset[str] | None
    calculator: Callable[[Atoms], Any]
    reduce_cell: bool = False


EMT_METALS = frozenset({"Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"})
"""ASE's table also lists H, C, N, O with made-up parameters "only for demonstration"."""


def _emt(parameters: Mapping[str, Any]) -> Engine:
    def calculator(atoms: Atoms) -> Any:
        from ase.calculators.emt import EMT  # late: every start of the workflow checks its engines

        return EMT(**parameters)

    return Engine("emt", f"ASE {_version('ase')}", EMT_METALS, calculator)


def _ase(parameters: Mapping[str, Any]) -> Engine:
    options = dict(parameters)
    path = options.pop("calculator", None)
    if not isinstance(path, str) or "." not in path:
        raise EngineError(
            f"parameters.calculator: engine 'ase' needs the import path of a calculator (package.module.Class), "
            f"found {path!r}"
        )
    module_name, _, attribute = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"parameters.calculator: '{path}' cannot be imported ({error}); is its package installed?"
        ) from None
    module = importlib.import_module(module_name.split(".")[0])
    return Engine("ase", f"{path} {getattr(module, '__version__', '')}".strip(), None, lambda atoms: kind(**options))


def _require(module: str, engine: str, how: str) -> Any:
    """Import an optional engine's package, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(
            f"engine: '{engine}' is not installed on this machine ({error}); {how}, or run snakemake with --sdm conda"
        ) from None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpaw(parameters: Mapping[str, Any]) -> Engine:
    options = dict(parameters)
    mode = options.pop("mode", {"name": "pw", "ecut": 500})
    kpts = options.pop("kpts", GPAW_KPTS)

    def calculator(atoms: Atoms) -> Any:
        gpaw = _require(
            "gpaw",
            "gpaw",
            "pip install 'segalflow[gpaw]' (needs the libraries libxc and OpenBLAS: "
            "apt-get install libxc-dev libopenblas-dev libopenmpi-dev)",
        )
        mesh = kpts
        if isinstance(kpts, Mapping) and "density" in kpts:
            from ase.calculators.calculator import kpts2sizeandoffsets

            # The mesh of the first cell is kept: found anew in every step, it would jump on the way.
            size, _ = kpts2sizeandoffsets(atoms=atoms, **kpts)
            mesh = {"size": [int(n) for n in size], "gamma": kpts.get("gamma")}
        return gpaw.GPAW(**{"mode": mode, "xc": "PBE", "txt": None, "kpts": mesh, **options})

    return Engine("gpaw", f"GPAW {_version('gpaw')}", None, calculator, reduce_cell=True)


def _chgnet(parameters: Mapping[str, Any]) -> Engine:
    def calculator(atoms: Atoms) -> Any:
        dynamics = _require("chgnet.model.dynamics", "chgnet", "pip install 'segalflow[chgnet]'")
        return dynamics.CHGNetCalculator(**{"use_device": "cpu", **parameters})

    return Engine("chgnet", f"CHGNet {_version('chgnet')}", None, calculator)


def _without_calculator(name: str, what: str) -> Callable[[Mapping[str, Any]], Engine]:
    def refuse(atoms: Atoms) -> Any:
        raise EngineError(f"engine: '{name}' {what}; it makes no ASE calculator")

    return lambda parameters: Engine(name, "", None, refuse)


ENGINES: dict[str, Callable[[Mapping[str, Any]], Engine]] = {
    "emt": _emt,
    "ase": _ase,
    "gpaw": _gpaw,
    "chgnet": _chgnet,
    "vasp": _without_calculator("vasp", "runs through input and output folders (key mode)"),
    "database": _without_calculator("database", "reads energies from a file (block database)"),
}

# What an engine is known to get qualitatively wrong: such a run is refused unless the config insists.
UNPHYSICAL: dict[tuple[str, frozenset[str]], str] = {
    ("emt", frozenset({"Ag", "Pd"})): (
        "EMT gives Ag-Pd the wrong sign of mixing: every formation energy is positive, "
        "where DFT finds -8 to -61 meV/atom"
    ),
}

# What an engine is known to get wrong in number but not in kind: said in the report.
KNOWN_FAULTS: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {
    ("emt", frozenset({"Cu", "Au"})): (
        "EMT underestimates ordering in Cu-Au: L1_0 CuAu has about -8 meV/atom where DFT finds -43, so every ordering "
        "temperature here is far below experiment (CuAu 683 K, Cu3Au 663 K, CuAu3 about 473 K).",
        "At a quarter of Au, EMT puts a D0_22-like structure 0.4 meV/atom below L1_2, where experiment and DFT find "
        "L1_2; CuAu3 comes out unstable, where experiment finds it ordered.",
        "EMT's mean formation energy is positive at every composition (its error against DFT is about 15 meV/atom, "
        "rank correlation 0.66): a miscibility gap at low temperature is an artefact of EMT, real Cu-Au orders or "
        "mixes at every composition.",
    ),
}


def create_engine(name: str, parameters: Mapping[str, Any]) -> Engine:
    """Return an engine by name.

    Raises:
        EngineError: if the engine is unknown, or its calculator cannot be imported.
    """
    if name not in ENGINES:
        raise EngineError(
            f"engine: unknown engine '{name}', expected one of {', '.join(ENGINES)}{suggest(name, ENGINES)}"
        )
    return ENGINES[name](parameters)


def check_engine(
    name: str, parameters: Mapping[str, Any], elements: Sequence[str], allow_unphysical: bool = False
) -> list[str]:
    """Return the sentences on what an engine is known to get wrong for these elements.

    Raises:
        EngineError: if the engine is unknown, cannot treat an element, or is qualitatively wrong for the alloy and
            `allow_unphysical` is not set.
    """
    engine = create_engine(name, parameters)
    if engine.elements is not None:
        for element in elements:
            if element not in engine.elements:
                raise EngineError(
                    f"engine: '{name}' cannot treat {element}, only {', '.join(sorted(engine.elements))}; "
                    "choose another engine or other species"
                )
    alloy = frozenset(elements)
    reason = UNPHYSICAL.get((name, alloy))
    if reason is not None:
        if not allow_unphysical:
            raise EngineError(
                f"engine: {reason}; choose another engine, or set allow_unphysical: true to run it all the same"
            )
        return [f"{reason}. The run was allowed by allow_unphysical: its diagram is not that of the alloy."]
    return list(KNOWN_FAULTS.get((name, alloy), ()))
