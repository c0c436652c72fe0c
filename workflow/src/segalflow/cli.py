"""The ``segalflow`` command line: check a config, print its keys, evaluate energies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

import segalflow
from segalflow.errors import ArtefactError, SegalflowError

SCHEMA_FILE = Path("workflow") / "schemas" / "config.schema.yaml"


def _schema(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            f"{path}: the file does not exist; run segalflow in the project's folder or name --schema"
        ) from None


def print_keys(arguments: argparse.Namespace) -> None:
    """Print the table of all config keys as Markdown."""
    from segalflow.settings import describe_keys

    print("| key | meaning | unit | default | re-runs |\n|---|---|---|---|---|")
    for row in describe_keys(_schema(arguments.schema)):
        default = f"`{row['default']}`" if row["default"] not in ("", "(required)") else row["default"]
        print(f"| `{row['key']}` | {row['meaning']} | {row['unit']} | {default} | {row['reruns']} |")


def check_config(arguments: argparse.Namespace) -> None:
    """Check a config without running anything."""
    from segalflow.study import prepare_study

    try:
        config = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{arguments.config}: the file does not exist") from None
    except yaml.YAMLError as error:
        raise ArtefactError(f"{arguments.config}: not readable YAML: {' '.join(str(error).split())}") from None
    try:
        prepared = prepare_study(config or {}, _schema(arguments.schema))
    except SegalflowError as error:
        raise type(error)(f"{arguments.config}: {error}") from None
    if arguments.show:
        yaml.safe_dump(prepared, sys.stdout, sort_keys=False)
    else:
        print(f"{arguments.config}: study '{prepared['study']}' is in order")


def print_energies(arguments: argparse.Namespace) -> None:
    """Write total energies of decorations: one row a configuration."""
    import pandas as pd
    from ase import Atoms

    from segalflow.artefacts import read_json, write_table
    from segalflow.energy.polynomial import place_expansion
    from segalflow.energy.site_functions import place_general
    from segalflow.expansion.hamiltonian import read_expansion
    from segalflow.lattice import map_to_supercell

    expansion = read_expansion(arguments.model)
    place = place_expansion if expansion.lattice.is_binary else place_general
    content = read_json(arguments.configurations)
    try:
        elements, cell, positions = content["elements"], content["cell_A"], content["positions_A"]
        decorations = [(c.get("label", str(n)), c["spins"]) for n, c in enumerate(content["configurations"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{arguments.configurations}: expected the keys elements, cell_A, positions_A, configurations[].spins; "
            f"missing {error}"
        ) from None
    rows, model = [], None
    for label, spins in decorations:
        if len(spins) != len(positions) or set(spins) - set(elements):
            raise ArtefactError(
                f"{arguments.configurations}: configuration '{label}' has {len(spins)} signs of {sorted(set(spins))}, "
                f"expected {len(positions)} of {sorted(elements)}"
            )
        atoms = Atoms([elements[s] for s in spins], positions=positions, cell=cell, pbc=True)
        supercell, occupations = map_to_supercell(atoms, expansion.lattice)
        model = model or place(expansion, supercell)
        rows.append({"configuration": label, "energy_eV": float(model.energy(occupations[None])[0])})
    table = pd.DataFrame(rows)
    if arguments.out:
        write_table(arguments.out, table)
    for row in rows:
        print(f"{row['configuration']} {row['energy_eV']:.12f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="segalflow", description=segalflow.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"segalflow {segalflow.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    keys = commands.add_parser("keys", help="print every config key: meaning, unit, default, what it re-runs")
    keys.set_defaults(run=print_keys)
    check = commands.add_parser("check", help="check a config without running anything")
    check.add_argument("config", type=Path)
    check.add_argument("--show", action="store_true", help="print it with all defaults filled in")
    check.set_defaults(run=check_config)
    for command in (keys, check):
        command.add_argument("--schema", type=Path, default=SCHEMA_FILE)
    energies = commands.add_parser("energies", help="total energies of decorations of one cell")
    energies.add_argument(
        "--model", type=Path, required=True, help="model file, or a published list of figures and ECIs"
    )
    energies.add_argument(
        "--configurations", type=Path, required=True, help="JSON: elements, cell_A, positions_A, configurations"
    )
    energies.add_argument("--out", type=Path, help="CSV to write")
    energies.set_defaults(run=print_energies)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except SegalflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
