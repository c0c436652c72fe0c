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


rule plot_finite_size:
    input:
        table="results/{study}/phases/finite_size.csv",
    output:
        sizes=report(
            "results/{study}/figures/finite_size.svg",
            caption="../report/finite_size.rst",
            category="4 Phase boundaries",
            labels={"figure": "finite-size series", "cell": "all"},
        ),
        beside=multiext("results/{study}/figures/finite_size", ".png", ".pdf", ".csv"),
    log:
        "logs/{study}/plot_finite_size.log",
    benchmark:
        "results/{study}/benchmarks/plot_finite_size.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_finite_size.py"),
    script:
        "../../scripts/plot_finite_size.py"


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


rule plot_phase_diagram:
    input:
        boundaries="results/{study}/phases/boundaries.csv",
        tables=lambda wildcards: ensembles([wildcards.cell]),
        hull=hull_if_any,
        measured=CONFIG["figures"]["experimental"] or [],
    output:
        diagram=report(
            "results/{study}/figures/phase_diagram_{cell}.svg",
            caption="../report/phase_diagram.rst",
            category="1 Phase diagram",
            labels={"figure": "temperature and composition", "cell": "{cell}"},
        ),
        delta_mu=report(
            "results/{study}/figures/phase_diagram_delta_mu_{cell}.svg",
            caption="../report/phase_diagram_delta_mu.rst",
            category="1 Phase diagram",
            labels={"figure": "temperature and chemical potential", "cell": "{cell}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{cell}}.{suffix}",
            figure=["phase_diagram", "phase_diagram_delta_mu"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_phase_diagram/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_phase_diagram/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_phase_diagram.py"),
    script:
        "../../scripts/plot_phase_diagram.py"


rule plot_phases:
    input:
        labels=lambda wildcards: labels([wildcards.cell]),
    output:
        phases=report(
            "results/{study}/figures/phases_{cell}.svg",
            caption="../report/phases.rst",
            category="1 Phase diagram",
            labels={"figure": "phases", "cell": "{cell}"},
        ),
        beside=expand(
            "results/{{study}}/figures/phases_{{cell}}.{suffix}",
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_phases/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_phases/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_phases.py"),
        species=CONFIG["lattice"]["species"],
    script:
        "../../scripts/plot_phases.py"


rule plot_fields:
    input:
        boundaries="results/{study}/phases/boundaries.csv",
        labels=lambda wildcards: labels(
            [wildcards.cell] if wildcards.cell in LABELLED_CELLS else []
        )[:1],
        model_error=lambda wildcards: (
            MODEL_ERRORS if wildcards.cell in MODEL_ERROR_CELLS else []
        ),
        measured=CONFIG["figures"]["experimental"] or [],
    output:
        fields=report(
            "results/{study}/figures/fields_{cell}.svg",
            caption="../report/fields.rst",
            category="1 Phase diagram",
            labels={"figure": "named fields with errors", "cell": "{cell}"},
        ),
        beside=multiext("results/{study}/figures/fields_{cell}", ".png", ".pdf", ".csv"),
    log:
        "logs/{study}/plot_fields/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_fields/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_fields.py"),
        species=CONFIG["lattice"]["species"],
        energy_unit=lambda wildcards: energy_unit(CONFIG, wildcards.cell),
    script:
        "../../scripts/plot_fields.py"


rule plot_snapshots:
    input:
        samples=lambda wildcards: results(
            f"ensemble/{wildcards.cell}/{first_sampled(wildcards.cell)}_samples.nc"
        ),
        labels=lambda wildcards: labels([wildcards.cell])[0],
        cell="results/{study}/cells/{cell}.json",
        hull=hull_if_any,
        pool=pool_if_any,
    output:
        snapshots=report(
            "results/{study}/figures/snapshots_{cell}.svg",
            caption="../report/snapshots.rst",
            category="1 Phase diagram",
            labels={"figure": "decorations of every phase", "cell": "{cell}"},
        ),
        beside=multiext(
            "results/{study}/figures/snapshots_{cell}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_snapshots/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_snapshots/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("plot_snapshots.py"),
    script:
        "../../scripts/plot_snapshots.py"


rule plot_tangents:
    input:
        free_energy=lambda wildcards: results(
            f"free_energy/{wildcards.cell}/{TANGENT_CELLS[wildcards.cell]}.nc"
        ),
        boundaries="results/{study}/phases/common_tangent.csv",
    output:
        tangents=report(
            "results/{study}/figures/tangents_{cell}.svg",
            caption="../report/tangents.rst",
            category="1 Phase diagram",
            labels={"figure": "free energies and common tangents", "cell": "{cell}"},
        ),
        beside=multiext(
            "results/{study}/figures/tangents_{cell}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_tangents/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_tangents/{cell}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_tangents.py"),
        method=lambda wildcards: TANGENT_CELLS[wildcards.cell],
    script:
        "../../scripts/plot_tangents.py"


rule plot_interactive_diagram:
    input:
        boundaries="results/{study}/phases/boundaries.csv",
    output:
        page=report(
            "results/{study}/phases/diagram.html",
            caption="../report/diagram.rst",
            category="1 Phase diagram",
            labels={"page": "interactive diagram", "cell": "all"},
        ),
    log:
        "logs/{study}/plot_interactive_diagram.log",
    benchmark:
        "results/{study}/benchmarks/plot_interactive_diagram.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_interactive_diagram.py"),
        species=CONFIG["lattice"]["species"],
        energy_units={cell: energy_unit(CONFIG, cell) for cell in DIAGRAM_CELLS},
    script:
        "../../scripts/plot_interactive_diagram.py"


rule write_summary:
    input:
        template=str(ROOT / "workflow" / "report" / "summary.html.j2"),
        datasets=expand(
            "results/{{study}}/dft/{calculation}/dataset.csv",
            calculation=CONFIG["calculations"],
        ),
        missing=expand(
            "results/{{study}}/dft/{calculation}/missing.csv",
            calculation=CONFIG["calculations"],
        ),
        convergence=expand(
            "results/{{study}}/dft/{calculation}/convergence.json", calculation=STUDIED
        ),
        metrics=expand(
            "results/{{study}}/expansion/{expansion}/metrics.json",
            expansion=WITH_HULL,
        ),
        hulls=expand(
            "results/{{study}}/expansion/{expansion}/hull.csv",
            expansion=WITH_HULL,
        ),
        predictions=expand(
            "results/{{study}}/expansion/{expansion}/predictions.csv",
            expansion=WITH_HULL,
        ),
        models=expand(
            "results/{{study}}/expansion/{expansion}/model.json",
            expansion=[name for name in CONFIG["expansions"] if name not in WITH_HULL],
        ),
        curves=expand(
            "results/{{study}}/expansion/{expansion}/learning_curve.csv",
            expansion=FITTED,
        ),
        found_states=expand(
            "results/{{study}}/expansion/{expansion}/found_states.csv",
            expansion=FITTED,
        ),
        generations=expand(
            "results/{{study}}/expansion/{expansion}/generations.csv",
            expansion=PROPOSING,
        ),
        cells=expand("results/{{study}}/cells/{cell}.json", cell=CONFIG["cells"]),
        samplers=expand(
            "results/{{study}}/segal/{cell}/model.json", cell=cells_with("snis")
        ),
        tables=ENSEMBLES,
        summary="results/{study}/comparison_summary.csv",
        boundaries="results/{study}/phases/boundaries.csv",
        notes=expand(
            "results/{{study}}/phases/{criterion}.json",
            criterion=CONFIG["phases"]["criteria"],
        )
        + last_refined("json"),
        invariants="results/{study}/phases/invariants.csv",
        invariants_notes="results/{study}/phases/invariants.json",
        consistency="results/{study}/phases/consistency.csv",
        consistency_notes="results/{study}/phases/consistency.json",
        solutions=expand("{solution}.json", solution=SOLUTIONS),
        sizes=SIZES,
    output:
        page=report(
            "results/{study}/summary.html",
            caption="../report/summary.rst",
            category="0 Summary",
            labels={"page": "summary"},
        ),
    log:
        "logs/{study}/write_summary.log",
    benchmark:
        "results/{study}/benchmarks/write_summary.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("write_summary.py"),
        lattice=block("lattice"),
        calculations=block("calculations"),
        expansions=WITH_HULL,
        seed=CONFIG["seed"],
    script:
        "../../scripts/write_summary.py"


FIGURES = [
    *expand(results("figures/convergence_{calculation}.svg"), calculation=STUDIED),
    *expand(
        results("figures/missing_{calculation}.svg"), calculation=CONFIG["calculations"]
    ),
    *expand(results("figures/hull_{expansion}.svg"), expansion=WITH_HULL),
    *expand(results("figures/learning_curve_{expansion}.svg"), expansion=FITTED),
    *expand(results("figures/generations_{expansion}.svg"), expansion=PROPOSING),
    *expand(
        results("figures/{figure}_{cell}.svg"),
        figure=["training", "ness"],
        cell=cells_with("snis"),
    ),
    *expand(results("figures/isotherms_{cell}.svg"), cell=CONFIG["cells"]),
    *expand(results("figures/phase_diagram_{cell}.svg"), cell=DIAGRAM_CELLS),
    *expand(results("figures/fields_{cell}.svg"), cell=DIAGRAM_CELLS),
    *expand(results("figures/phases_{cell}.svg"), cell=LABELLED_CELLS),
    *expand(results("figures/snapshots_{cell}.svg"), cell=LABELLED_CELLS),
    *expand(results("figures/tangents_{cell}.svg"), cell=TANGENT_CELLS),
    results("phases/diagram.html"),
    results("figures/energy_evaluations.svg"),
    results("figures/comparison.svg"),
    *([results("figures/finite_size.svg")] if SIZES else []),
]
