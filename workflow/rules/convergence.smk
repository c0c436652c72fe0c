# Energies of chosen structures against settings of a calculation (k-mesh, cut-off), and a recommended value of each.
include: "convergence_inputs.smk"


# The pool is only where the structures are looked up: a larger one changes none of them.
rule calculate_convergence_point:
    input:
        pool=ancient("results/{study}/structures/pool.extxyz"),
    output:
        record="results/{study}/dft/{calculation}/convergence/points/{point}.json",
    log:
        "logs/{study}/calculate_convergence_point/{calculation}/{point}.log",
    benchmark:
        "results/{study}/benchmarks/calculate_convergence_point/{calculation}/{point}.tsv"
    wildcard_constraints:
        calculation="|".join(STUDIED_BY_JOBS) or NOTHING,
        point="[0-9a-f]+",
    conda:
        lambda wildcards: f"../../envs/{environment_of(CONFIG['calculations'][wildcards.calculation])}.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        code=code("calculate_convergence_point.py"),
        lattice=block("lattice"),
        label=lambda wildcards: point_of(wildcards).label,
        settings=lambda wildcards: point_of(wildcards).settings,
        way=way,
    script:
        "../../scripts/calculate_convergence_point.py"


rule write_convergence_inputs:
    input:
        pool=ancient("results/{study}/structures/pool.extxyz"),
    output:
        manifest="results/{study}/dft/{calculation}/convergence/inputs.csv",
        instructions="results/{study}/dft/{calculation}/convergence/INSTRUCTIONS.txt",
    log:
        "logs/{study}/write_convergence_inputs/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/write_convergence_inputs/{calculation}.tsv"
    wildcard_constraints:
        calculation="|".join(STUDIED_BY_HAND) or NOTHING,
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        code=code("write_convergence_inputs.py"),
        lattice=block("lattice"),
        calculation=convergence_settings,
    script:
        "../../scripts/write_convergence_inputs.py"


rule tabulate_convergence:
    input:
        pool=ancient("results/{study}/structures/pool.extxyz"),
        records=point_records,
        manifest=written_points("inputs.csv"),
        instructions=written_points("INSTRUCTIONS.txt"),
        runs=point_runs,
    output:
        table=report(
            update("results/{study}/dft/{calculation}/convergence.csv"),
            caption="../report/convergence_table.rst",
            category="2 Energies and expansion",
            labels={"figure": "convergence (table)", "expansion": "{calculation}"},
        ),
        summary=update("results/{study}/dft/{calculation}/convergence.json"),
    log:
        "logs/{study}/tabulate_convergence/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/tabulate_convergence/{calculation}.tsv"
    wildcard_constraints:
        calculation="|".join(STUDIED) or NOTHING,
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        code=code("tabulate_convergence.py"),
        lattice=block("lattice"),
        calculation=convergence_settings,
    script:
        "../../scripts/tabulate_convergence.py"


rule plot_convergence:
    input:
        table="results/{study}/dft/{calculation}/convergence.csv",
        summary="results/{study}/dft/{calculation}/convergence.json",
    output:
        convergence=report(
            "results/{study}/figures/convergence_{calculation}.svg",
            caption="../report/convergence.rst",
            category="2 Energies and expansion",
            labels={"figure": "convergence", "expansion": "{calculation}"},
        ),
        beside=multiext(
            "results/{study}/figures/convergence_{calculation}", ".png", ".pdf", ".csv"
        ),
    log:
        "logs/{study}/plot_convergence/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/plot_convergence/{calculation}.tsv"
    wildcard_constraints:
        calculation="|".join(STUDIED) or NOTHING,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_convergence.py"),
    script:
        "../../scripts/plot_convergence.py"
