rule find_boundaries:
    input:
        tables=ensembles(DIAGRAM_CELLS),
    output:
        boundaries="results/{study}/phases/{criterion}.csv",
        notes="results/{study}/phases/{criterion}.json",
    log:
        "logs/{study}/find_boundaries/{criterion}.log",
    benchmark:
        "results/{study}/benchmarks/find_boundaries/{criterion}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("find_boundaries.py"),
        settings=block("phases", "{criterion}"),
    script:
        "../../scripts/find_boundaries.py"


rule merge_boundaries:
    input:
        tables=expand(
            "results/{{study}}/phases/{criterion}.csv",
            criterion=CONFIG["phases"]["criteria"],
        ),
        hulls=[
            results(f"expansion/{CONFIG['cells'][cell]['expansion']}/hull.csv")
            for cell in DIAGRAM_CELLS
        ],
    output:
        boundaries="results/{study}/phases/boundaries.csv",
    log:
        "logs/{study}/merge_boundaries.log",
    benchmark:
        "results/{study}/benchmarks/merge_boundaries.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("merge_boundaries.py"),
        cells=DIAGRAM_CELLS,
    script:
        "../../scripts/merge_boundaries.py"
