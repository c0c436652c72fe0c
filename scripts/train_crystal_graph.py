"""Train a crystal-graph network on a dataset: its model file, weights, errors on unseen structures, and hulls."""

from segalflow.artefacts import write_json, write_table
from segalflow.dft.dataset import read_dataset
from segalflow.energy.crystal_graph import train_crystal_graph
from segalflow.energy.graph_energy import write_weights
from segalflow.energy.registry import write_model
from segalflow.expansion.fit import METRICS_SCHEMA
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    trained = train_crystal_graph(
        read_dataset(snakemake.input.dataset, lattice),
        lattice,
        snakemake.params.graph,
        snakemake.params.seed,
        key=f"expansions.{snakemake.wildcards.expansion}",
    )
    log.info("metrics: %s", trained.metrics)
    weights = write_weights(snakemake.output.weights, trained.weights)
    write_model(snakemake.output.model, "crystal_graph", lattice, {**trained.content, "weights": weights})
    write_json(snakemake.output.metrics, trained.metrics, METRICS_SCHEMA)
    write_table(snakemake.output.hull, trained.hull)
    write_table(snakemake.output.predictions, trained.predictions)
    write_table(snakemake.output.history, trained.history)
