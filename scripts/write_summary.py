"""Write the summary page of the study: data, fit, cells, sweeps, agreement, boundaries, and every warning."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table
from segalflow.dft.engines import check_engine
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.consistency import CHECKS, read_consistency
from segalflow.reporting import (
    describe_agreement,
    describe_boundaries,
    describe_cells,
    describe_consistency,
    describe_data,
    describe_ensembles,
    describe_expansion,
    describe_generations,
    describe_invariants,
    describe_model,
    describe_samplers,
    describe_solutions,
    write_summary,
)
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    lattice = snakemake.params.lattice
    sections = []
    for (name, settings), manifest, excluded in zip(
        snakemake.params.calculations.items(), snakemake.input.manifests, snakemake.input.excluded, strict=True
    ):
        faults = check_engine(
            settings["engine"], settings["parameters"], lattice["species"], settings["allow_unphysical"]
        )
        sections.append(describe_data(name, settings["engine"], faults, read_table(manifest), read_table(excluded)))
    for name, metrics, hull, predictions in zip(
        snakemake.params.expansions,
        snakemake.input.metrics,
        snakemake.input.hulls,
        snakemake.input.predictions,
        strict=True,
    ):
        sections.append(describe_expansion(name, read_json(metrics), read_table(hull), read_table(predictions)))
    for path in snakemake.input.generations:
        sections.append(describe_generations(Path(path).parent.name, read_table(path)))
    for path in snakemake.input.models:
        sections.append(describe_model(Path(path).parent.name, read_json(path)))
    notes = [read_json(path) for path in snakemake.input.notes]
    invariants = read_json(snakemake.input.invariants_notes)
    sections += [
        describe_cells([read_json(path) for path in snakemake.input.cells]),
        describe_samplers(
            {Path(path).parent.name: read_json(path) for path in snakemake.input.samplers}, snakemake.params.seed
        ),
        describe_ensembles([read_ensemble(path) for path in snakemake.input.tables]),
        describe_agreement(read_table(snakemake.input.summary)),
        describe_boundaries(read_boundaries(snakemake.input.boundaries), {n["criterion"]: n["notes"] for n in notes}),
        describe_invariants(read_table(snakemake.input.invariants), invariants["cuts"], invariants["notes"]),
        describe_consistency(
            read_consistency(snakemake.input.consistency),
            CHECKS,
            read_json(snakemake.input.consistency_notes)["notes"],
        ),
        *describe_solutions([read_json(path) for path in snakemake.input.solutions]),
    ]
    write_summary(
        snakemake.output.page,
        snakemake.input.template,
        snakemake.wildcards.study,
        lattice["name"],
        lattice["species"],
        sections,
    )
