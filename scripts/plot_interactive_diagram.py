"""Write the phase boundaries of all cells as one interactive page."""

from segalflow.phases.boundaries import read_boundaries
from segalflow.plotting.interactive import write_interactive_diagram
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    write_interactive_diagram(
        snakemake.output.page,
        read_boundaries(snakemake.input.boundaries),
        snakemake.params.species,
        snakemake.params.energy_units,
    )
