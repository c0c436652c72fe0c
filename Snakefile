# segalflow: from first-principles energies to a phase diagram.
# `snakemake --cores 8` runs the study of config/config.yaml; `--configfile FILE` another one.
from snakemake.utils import min_version

min_version("9.27")

if "study" not in config:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/structures.smk"
include: "workflow/rules/dft.smk"
include: "workflow/rules/convergence.smk"
include: "workflow/rules/expansion.smk"
include: "workflow/rules/generations.smk"
include: "workflow/rules/segal.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/species.smk"
include: "workflow/rules/phases.smk"
include: "workflow/rules/refinement.smk"
include: "workflow/rules/figures_expansion.smk"
include: "workflow/rules/figures_ensembles.smk"
include: "workflow/rules/figures_phases.smk"
include: "workflow/rules/report.smk"


SOURCES.save()


rule all:
    default_target: True
    input:
        results("comparison.csv"),
        PHASE_TABLES,
        MODEL_ERRORS,
        expand("{solution}.tdb", solution=SOLUTIONS),
        FIGURES,
        results("summary.html"),


# Named targets: run the chain up to a stage.
rule structures:
    input:
        results("structures/manifest.csv"),


rule energies:
    input:
        expand(
            results("dft/{calculation}/dataset.csv"),
            calculation=CONFIG["calculations"],
        ),


rule convergence:
    input:
        expand(results("figures/convergence_{calculation}.svg"), calculation=STUDIED),


rule expansions:
    input:
        expand(
            results("expansion/{expansion}/model.json"), expansion=CONFIG["expansions"]
        ),


rule samplers:
    input:
        expand(results("segal/{cell}/model.json"), cell=cells_with("snis")),


rule ensembles:
    input:
        ENSEMBLES,


rule finite_size:
    input:
        results("phases/finite_size.csv"),
        results("figures/finite_size.svg"),


rule boundaries:
    input:
        PHASE_TABLES,
        MODEL_ERRORS,
