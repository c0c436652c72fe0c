"""Propose the next structures to calculate: states below the data's hull, then the least certain ones."""

from segalflow.artefacts import read_json, read_table, write_structures, write_table
from segalflow.dft.dataset import read_dataset
from segalflow.expansion.active_learning import next_structures
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.sampling.ground_states import search_ground_states
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    expansion = read_expansion(snakemake.input.model)
    search, settings = snakemake.params.ground_states, snakemake.params.proposals
    dataset = read_dataset(snakemake.input.dataset, expansion.lattice)
    found = search_ground_states(
        expansion,
        search["repeats"],
        max_atoms=max(search["max_atoms"], settings["max_atoms"]),
        seed=snakemake.params.seed,
        known=dataset,
        sweeps=search["sweeps"],
    )
    table, structures = next_structures(
        expansion,
        dataset,
        [s for s in [*found.structures, *found.pool] if len(s) <= settings["max_atoms"]],
        settings["number"],
        read_json(snakemake.input.metrics)["rmse"],
        tried=set(read_table(snakemake.input.excluded)["structure"]),
    )
    log.info("proposed:\n%s", table.to_string())
    write_table(snakemake.output.table, table)
    write_structures(snakemake.output.structures, structures)
