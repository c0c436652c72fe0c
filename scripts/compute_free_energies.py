"""Free energies by composition of one method: its samples pooled over all conditions, or its composition weights."""

from segalflow.cells import read_cell
from segalflow.energy.registry import read_model_file
from segalflow.ensemble import read_ensemble
from segalflow.samples import read_samples
from segalflow.scripting import logged
from segalflow.thermo.dilute import dilute_levels, with_dilute_ends
from segalflow.thermo.free_energy import compute_free_energy, write_free_energy

with logged(snakemake.log[0]) as log:
    free = compute_free_energy(
        read_ensemble(snakemake.input.table),
        read_samples(snakemake.input.samples) if snakemake.input.get("samples") else None,
        seed=snakemake.params.seed,
        **snakemake.params.settings,
    )
    if "refused" in free.attributes:
        log.warning(free.attributes["refused"])
    cell = read_cell(snakemake.input.cell)
    levels = dilute_levels(read_model_file(snakemake.input.model).place(cell), cell)
    log.info("exact ratios between the weights of %s atoms", sorted(levels))
    write_free_energy(snakemake.output.free_energy, with_dilute_ends(free, levels))
