rule plot_training:
    input:
        history="results/{study}/segal/{cell}/history.parquet",
    output:
        training=report(
            "results/{study}/figures/training_{cell}.svg",
            caption="../report/training.rst",
            category="3 Ensembles",
            labels={"figure": "SEGAL training", "cell": "{cell}"},
        ),
        beside=multiext(
            "results/{study}/figures/training_{cell}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_training/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_training/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_training.py"),
    script:
        "../../scripts/plot_training.py"


rule plot_ness:
    input:
        table="results/{study}/ensemble/{cell}/snis.nc",
    output:
        ness=report(
            "results/{study}/figures/ness_{cell}.svg",
            caption="../report/ness.rst",
            category="3 Ensembles",
            labels={"figure": "effective sample size", "cell": "{cell}"},
        ),
        beside=multiext("results/{study}/figures/ness_{cell}", ".png", ".pdf", ".csv"),
    log:
        "logs/{study}/plot_ness/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_ness/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_ness.py"),
    script:
        "../../scripts/plot_ness.py"


rule plot_ensembles:
    input:
        tables=lambda wildcards: ensembles([wildcards.cell]),
    output:
        isotherms=report(
            "results/{study}/figures/isotherms_{cell}.svg",
            caption="../report/isotherms.rst",
            category="3 Ensembles",
            labels={"figure": "isotherms", "cell": "{cell}"},
        ),
        heat_capacity=report(
            "results/{study}/figures/heat_capacity_{cell}.svg",
            caption="../report/heat_capacity.rst",
            category="3 Ensembles",
            labels={"figure": "heat capacity", "cell": "{cell}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{cell}}.{suffix}",
            figure=["isotherms", "heat_capacity"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_ensembles/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_ensembles/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_ensembles.py"),
        figures=block("figures"),
    script:
        "../../scripts/plot_ensembles.py"


rule plot_costs:
    input:
        tables=ENSEMBLES,
        histories=expand(
            "results/{{study}}/segal/{cell}/history.parquet", cell=cells_with("snis")
        ),
    output:
        costs=report(
            "results/{study}/figures/energy_evaluations.svg",
            caption="../report/energy_evaluations.rst",
            category="3 Ensembles",
            labels={"figure": "energy evaluations", "cell": "all"},
        ),
        beside=multiext(
            "results/{study}/figures/energy_evaluations", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_costs.log",
    benchmark:
        "results/{study}/benchmarks/plot_costs.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_costs.py"),
    script:
        "../../scripts/plot_costs.py"


rule plot_comparison:
    input:
        comparison="results/{study}/comparison.csv",
    output:
        comparison=report(
            "results/{study}/figures/comparison.svg",
            caption="../report/comparison.rst",
            category="4 Agreement",
            labels={"figure": "z-scores of all pairs of methods"},
        ),
        beside=multiext("results/{study}/figures/comparison", ".png", ".pdf", ".csv"),
    log:
        "logs/{study}/plot_comparison.log",
    benchmark:
        "results/{study}/benchmarks/plot_comparison.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_comparison.py"),
    script:
        "../../scripts/plot_comparison.py"
