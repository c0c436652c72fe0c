"""Label the samples of a method with the phases they are in: order parameters against the ground states."""

from segalflow.artefacts import read_table, write_table
from segalflow.cells import read_cell
from segalflow.samples import read_samples
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool
from segalflow.thermo.order_parameters import label_phases, references_of

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    names = set(read_table(snakemake.input.hull, ["source", "structure"]).query("source == 'model'")["structure"])
    pool = read_pool(snakemake.input.pool, cell.lattice)
    for missing in sorted(names - {s.info["structure"] for s in pool}):
        log.warning("ground state %s is not in the pool of structures: its samples count as solid solution", missing)
    references = references_of([s for s in pool if s.info["structure"] in names], cell)
    log.info("references: %s", {name: len(images) for name, images in references.items()})
    write_table(snakemake.output.labels, label_phases(read_samples(snakemake.input.samples), references))
