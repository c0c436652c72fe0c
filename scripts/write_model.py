"""Write the model file of a Hamiltonian that the config gives by its parameters (Ising, Legendre)."""

from segalflow.energy.registry import write_model
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    settings = snakemake.params.expansion
    write_model(
        snakemake.output.model,
        settings["model"],
        lattice_from_settings(snakemake.params.lattice),
        {"parameters": settings.get("parameters", {})},
    )
