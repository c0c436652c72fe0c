"""Draw formation energies by every species, the parity plot and the ECIs of an expansion of more than two species."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.plotting.expansion import plot_ecis, plot_parity
from segalflow.plotting.species import plot_species_hull
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    expansion = read_expansion(snakemake.input.model)
    hull, predictions = read_table(snakemake.input.hull), read_table(snakemake.input.predictions)
    drawn = {
        snakemake.output.hull: plot_species_hull(hull, predictions, expansion.lattice.elements),
        snakemake.output.parity: plot_parity(predictions, read_json(snakemake.input.metrics)),
        snakemake.output.ecis: plot_ecis(expansion),
    }
    for path, (figure, data) in drawn.items():
        save_figure(figure, data, Path(path).with_suffix(""))
