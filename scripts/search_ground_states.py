"""Search the ground states of an expansion by enumeration and annealing; report what lies below its data's hull."""

from segalflow.artefacts import read_table, write_structures, write_table
from segalflow.dft.dataset import read_dataset
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.sampling.ground_states import search_ground_states
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    expansion = read_expansion(snakemake.input.model)
    settings = snakemake.params.ground_states
    known = read_dataset(snakemake.input.dataset, expansion.lattice) if snakemake.input.get("dataset") else []
    excluded = read_table(snakemake.input.excluded) if snakemake.input.get("excluded") else None
    found = search_ground_states(
        expansion,
        settings["repeats"],
        max_atoms=settings["max_atoms"],
        seed=snakemake.params.seed,
        known=known,
        excluded=None if excluded is None else dict(zip(excluded["structure"], excluded["status"], strict=True)),
        sweeps=settings["sweeps"],
    )
    new = found.states[~found.states["known"]]
    log.info("%d ground states, %d of them not in the data", len(found.states), len(new))
    write_table(snakemake.output.table, found.states)
    write_structures(snakemake.output.structures, found.structures)
