"""Draw a few decorations of every phase of one cell."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.cells import read_cell
from segalflow.plotting.snapshots import plot_snapshots
from segalflow.plotting.style import save_figure
from segalflow.samples import read_samples
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool
from segalflow.thermo.order_parameters import COLUMNS, references_of

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    names = set(read_table(snakemake.input.hull, ["source", "structure"]).query("source == 'model'")["structure"])
    pool = read_pool(snakemake.input.pool, cell.lattice)
    save_figure(
        *plot_snapshots(
            read_samples(snakemake.input.samples),
            read_table(snakemake.input.labels, COLUMNS),
            references_of([s for s in pool if s.info["structure"] in names], cell),
            cell,
        ),
        Path(snakemake.output.snapshots).with_suffix(""),
    )
