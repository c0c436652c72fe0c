rule plot_missing:
    input:
        dataset="results/{study}/dft/{calculation}/dataset.csv",
        excluded="results/{study}/dft/{calculation}/excluded.csv",
        pool=pool_of_ingestion,
    output:
        table=report(
            "results/{study}/dft/{calculation}/missing.csv",
            caption="../report/missing_table.rst",
            category="2 Energies and expansion",
            labels={
                "figure": "missing energies (table)",
                "expansion": "{calculation}",
            },
        ),
        missing=report(
            "results/{study}/figures/missing_{calculation}.svg",
            caption="../report/missing.rst",
            category="2 Energies and expansion",
            labels={"figure": "missing energies", "expansion": "{calculation}"},
        ),
        beside=multiext(
            "results/{study}/figures/missing_{calculation}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_missing/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/plot_missing/{calculation}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_missing.py"),
        species=CONFIG["lattice"]["species"],
    script:
        "../../scripts/plot_missing.py"


rule plot_expansion:
    input:
        model="results/{study}/expansion/{expansion}/model.json",
        metrics="results/{study}/expansion/{expansion}/metrics.json",
        hull="results/{study}/expansion/{expansion}/hull.csv",
        predictions="results/{study}/expansion/{expansion}/predictions.csv",
    output:
        hull=report(
            "results/{study}/figures/hull_{expansion}.svg",
            caption="../report/hull.rst",
            category="2 Energies and expansion",
            labels={"figure": "convex hull", "expansion": "{expansion}"},
        ),
        parity=report(
            "results/{study}/figures/parity_{expansion}.svg",
            caption="../report/parity.rst",
            category="2 Energies and expansion",
            labels={"figure": "parity", "expansion": "{expansion}"},
        ),
        ecis=report(
            "results/{study}/figures/ecis_{expansion}.svg",
            caption="../report/ecis.rst",
            category="2 Energies and expansion",
            labels={"figure": "ECIs", "expansion": "{expansion}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{expansion}}.{suffix}",
            figure=["hull", "parity", "ecis"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_expansion/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/plot_expansion/{expansion}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
        expansion="|".join(EXPANSIONS) or NOTHING,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_expansion.py"),
    script:
        "../../scripts/plot_expansion.py"


rule plot_learning_curve:
    input:
        curve="results/{study}/expansion/{expansion}/learning_curve.csv",
    output:
        learning=report(
            "results/{study}/figures/learning_curve_{expansion}.svg",
            caption="../report/learning_curve.rst",
            category="2 Energies and expansion",
            labels={"figure": "learning curve", "expansion": "{expansion}"},
        ),
        beside=multiext(
            "results/{study}/figures/learning_curve_{expansion}",
            ".png",
            ".pdf",
            ".csv",
        ),
    log:
        "logs/{study}/plot_learning_curve/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/plot_learning_curve/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(FITTED) or NOTHING,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_learning_curve.py"),
    script:
        "../../scripts/plot_learning_curve.py"


rule plot_generations:
    input:
        table="results/{study}/expansion/{expansion}/generations.csv",
    output:
        generations=report(
            "results/{study}/figures/generations_{expansion}.svg",
            caption="../report/generations.rst",
            category="2 Energies and expansion",
            labels={"figure": "active learning", "expansion": "{expansion}"},
        ),
        beside=multiext(
            "results/{study}/figures/generations_{expansion}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_generations/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/plot_generations/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(PROPOSING) or NOTHING,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_generations.py"),
    script:
        "../../scripts/plot_generations.py"


rule plot_crystal_graph:
    input:
        metrics="results/{study}/expansion/{expansion}/metrics.json",
        hull="results/{study}/expansion/{expansion}/hull.csv",
        predictions="results/{study}/expansion/{expansion}/predictions.csv",
    output:
        hull=report(
            "results/{study}/figures/hull_{expansion}.svg",
            caption="../report/hull.rst",
            category="2 Energies and expansion",
            labels={"figure": "convex hull", "expansion": "{expansion}"},
        ),
        parity=report(
            "results/{study}/figures/parity_{expansion}.svg",
            caption="../report/parity.rst",
            category="2 Energies and expansion",
            labels={"figure": "parity", "expansion": "{expansion}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{expansion}}.{suffix}",
            figure=["hull", "parity"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_crystal_graph/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/plot_crystal_graph/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(GRAPHS) or NOTHING,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_crystal_graph.py"),
        lattice=block("lattice"),
    script:
        "../../scripts/plot_crystal_graph.py"
