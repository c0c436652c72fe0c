# More conditions where boundaries are uncertain: rounds, each planned from the boundaries of the one before.
rule refine_grid:
    input:
        unpack(swept_so_far),
        points=points_so_far,
    output:
        grid="results/{study}/grids/{cell}_refined_{round}.json",
    log:
        "logs/{study}/refine_grid/{cell}_{round}.log",
    benchmark:
        "results/{study}/benchmarks/refine_grid/{cell}_{round}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("refine_grid.py"),
        settings={
            k: v
            for k, v in CONFIG["refinement"].items()
            if k not in ("cells", "criteria")
        },
    script:
        "../../scripts/refine_grid.py"


rule sample_snis_refined:
    input:
        unpack(swept_so_far),
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}_refined_{round}.json",
        segal="results/{study}/segal/{cell}/model.json",
        weights="results/{study}/segal/{cell}/weights.safetensors",
    output:
        table="results/{study}/ensemble/{cell}/snis_refined_{round}.nc",
        samples="results/{study}/ensemble/{cell}/snis_refined_{round}_samples.nc",
    log:
        "logs/{study}/sample_snis_refined/{cell}_{round}.log",
    benchmark:
        "results/{study}/benchmarks/sample_snis_refined/{cell}_{round}.tsv"
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_snis_refined.py"),
        settings=for_cell("snis"),
        seed=seed("sample_snis_refined"),
    script:
        "../../scripts/sample_snis_refined.py"


rule find_refined_boundaries:
    input:
        table="results/{study}/ensemble/{cell}/snis_refined_{round}.nc",
        samples="results/{study}/ensemble/{cell}/snis_refined_{round}_samples.nc",
        points=points_so_far,
        grids=lambda wildcards: [
            results(f"grids/{wildcards.cell}_refined_{number}.json")
            for number in range(1, int(wildcards.round) + 1)
        ],
    output:
        boundaries="results/{study}/phases/refined/{cell}_{round}.csv",
        notes="results/{study}/phases/refined/{cell}_{round}.json",
    log:
        "logs/{study}/find_refined_boundaries/{cell}_{round}.log",
    benchmark:
        "results/{study}/benchmarks/find_refined_boundaries/{cell}_{round}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        code=code("find_refined_boundaries.py"),
        criteria={name: CONFIG["phases"][name] for name in REFINED_CRITERIA},
        free_energy=block("free_energy"),
        seed=seed("find_refined_boundaries"),
    script:
        "../../scripts/find_refined_boundaries.py"
