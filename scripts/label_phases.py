"""Tell the phases of a method's samples by their order: labels, weights of the phases, correlations by condition."""

from segalflow.artefacts import read_table, write_table
from segalflow.cells import read_cell
from segalflow.energy.registry import read_model_file
from segalflow.ensemble import read_ensemble
from segalflow.samples import read_samples
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool
from segalflow.thermo.dilute import dilute_levels
from segalflow.thermo.order_parameters import classify_samples, label_phases, references_of
from segalflow.thermo.phase_weights import compute_phase_weights, with_dilute_solution, write_phase_weights
from segalflow.thermo.short_range_order import correlation_table

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    samples = read_samples(snakemake.input.samples)
    names = set(read_table(snakemake.input.hull, ["source", "structure"]).query("source == 'model'")["structure"])
    pool = read_pool(snakemake.input.pool, cell.lattice)
    for missing in sorted(names - {s.info["structure"] for s in pool}):
        log.warning("ground state %s is not in the pool of structures: its samples count as solid solution", missing)
    references = references_of([s for s in pool if s.info["structure"] in names], cell)
    log.info("references: %s", {name: len(images) for name, images in references.items()})
    classified = classify_samples(samples, references)
    write_table(snakemake.output.labels, label_phases(samples, references, classified))
    weights = compute_phase_weights(
        samples,
        read_ensemble(snakemake.input.table),
        references,
        seed=snakemake.params.seed,
        classified=classified,
        **snakemake.params.free_energy,
    )
    if "refused" in weights.attributes:
        log.warning(weights.attributes["refused"])
    levels = dilute_levels(read_model_file(snakemake.input.model).place(cell), cell)
    write_phase_weights(snakemake.output.weights, with_dilute_solution(weights, levels))
    write_table(snakemake.output.correlations, correlation_table(samples, cell, **snakemake.params.correlations))
