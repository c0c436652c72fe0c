"""Fit the structures of all generations so far and choose the next one; say how far hull and errors have settled."""

from pathlib import Path

from segalflow.artefacts import read_json, read_structures, write_json, write_structures, write_table
from segalflow.dft.dataset import build_dataset, read_records
from segalflow.expansion.fit import fit_expansion
from segalflow.expansion.generations import STATUS_SCHEMA, next_generation
from segalflow.lattice import lattice_from_settings
from segalflow.sampling.ground_states import search_ground_states
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    settings = snakemake.params.expansion
    search, proposals = settings["ground_states"], settings["proposals"]
    dataset = build_dataset(
        [read_structures(path)[0] for path in snakemake.input.structures],
        read_records(snakemake.input.records)[0],
        lattice,
        snakemake.params.minimum_fraction,
    )
    fitted = fit_expansion(
        dataset.structures,
        lattice,
        settings["basis"],
        settings["fit"],
        snakemake.params.seed_of_fit,
        key=f"expansions.{snakemake.wildcards.expansion}",
    )
    found = search_ground_states(
        fitted.expansion,
        search["repeats"],
        max_atoms=max(search["max_atoms"], proposals["max_atoms"]),
        seed=snakemake.params.seed,
        known=dataset.structures,
        sweeps=search["sweeps"],
    )
    chosen = next_generation(
        fitted,
        dataset,
        [s for s in [*found.structures, *found.pool] if len(s) <= proposals["max_atoms"]],
        proposals,
        int(snakemake.wildcards.generation),
        read_json(snakemake.input.earlier[0], STATUS_SCHEMA) if snakemake.input.earlier else None,
    )
    log.info("%s\n%s", chosen.status, chosen.table.to_string())
    folder = Path(snakemake.output.folder)
    folder.mkdir(parents=True)
    for structure in chosen.structures:
        write_structures(folder / f"{structure.info['structure']}.extxyz", [structure])
    write_structures(snakemake.output.structures, chosen.structures)
    write_table(snakemake.output.table, chosen.table)
    write_json(snakemake.output.status, chosen.status, STATUS_SCHEMA)
