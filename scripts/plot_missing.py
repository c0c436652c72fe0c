"""Table and figure of what a dataset lacks: every reject with its reason and file, and structures never calculated."""

from pathlib import Path

from segalflow.artefacts import read_table, write_table
from segalflow.dft.missing import missing_structures
from segalflow.plotting.dataset import plot_missing
from segalflow.plotting.style import composition_label, save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    dataset, species = read_table(snakemake.input.dataset), snakemake.params.species
    pool = read_table(snakemake.input.pool) if snakemake.input.pool else None
    missing = missing_structures(dataset, read_table(snakemake.input.excluded), species[1], pool)
    log.info("%s", missing["status"].value_counts().to_dict())
    write_table(snakemake.output.table, missing)
    figure, data = plot_missing(dataset, missing, composition_label(species))
    save_figure(figure, data, Path(snakemake.output.missing).with_suffix(""))
