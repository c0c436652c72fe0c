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
