"""Import a published expansion as given, and find its ground states, from which grids can be chosen."""

from segalflow.artefacts import write_json, write_table
from segalflow.dft.dataset import read_dataset
from segalflow.expansion.fit import METRICS_SCHEMA
from segalflow.expansion.published import describe_published, import_expansion
from segalflow.lattice import lattice_from_settings
from segalflow.sampling.ground_states import hull_table, search_ground_states
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    settings = snakemake.params.expansion
    expansion = import_expansion(
        snakemake.input.published,
        lattice_from_settings(snakemake.params.lattice),
        settings["published_zero"],
        settings["published_sha256"],
        key=f"expansions.{snakemake.wildcards.expansion}",
    )
    found = search_ground_states(
        expansion,
        settings["ground_states"]["repeats"],
        max_atoms=settings["ground_states"]["max_atoms"],
        seed=snakemake.params.seed,
        sweeps=settings["ground_states"]["sweeps"],
    )
    log.info("ground states:\n%s", found.states.to_string())
    known = read_dataset(snakemake.input.dataset, expansion.lattice) if snakemake.input.get("dataset") else []
    metrics, predictions = describe_published(expansion, found.pool, known)
    expansion.write(snakemake.output.model)
    write_json(snakemake.output.metrics, metrics, METRICS_SCHEMA)
    write_table(snakemake.output.hull, hull_table(found))
    write_table(snakemake.output.predictions, predictions)
