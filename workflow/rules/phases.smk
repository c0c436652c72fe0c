rule compute_free_energies:
    input:
        unpack(with_samples),
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
    output:
        free_energy="results/{study}/free_energy/{cell}/{method}.nc",
    log:
        "logs/{study}/compute_free_energies/{cell}_{method}.log",
    benchmark:
        "results/{study}/benchmarks/compute_free_energies/{cell}_{method}.tsv"
    wildcard_constraints:
        method="|".join(RESOLVED),
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        code=code("compute_free_energies.py"),
        settings=block("free_energy"),
        seed=seed("compute_free_energies"),
    script:
        "../../scripts/compute_free_energies.py"


rule find_boundaries:
    input:
        tables=boundary_sources,
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
        refined=last_refined("csv"),
        weights=labels(LABELLED_CELLS, "nc"),
        hulls=[results(f"expansion/{name}/hull.csv") for name in DIAGRAM_HULLS],
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
        cells={cell: CONFIG["cells"][cell]["expansion"] for cell in DIAGRAM_CELLS},
        hulls=DIAGRAM_HULLS,
    script:
        "../../scripts/merge_boundaries.py"


rule check_consistency:
    input:
        boundaries="results/{study}/phases/boundaries.csv",
        free_energies=free_energies(DIAGRAM_CELLS),
        tables=ensembles(DIAGRAM_CELLS),
    output:
        table="results/{study}/phases/consistency.csv",
        notes="results/{study}/phases/consistency.json",
    log:
        "logs/{study}/check_consistency.log",
    benchmark:
        "results/{study}/benchmarks/check_consistency.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("check_consistency.py"),
    script:
        "../../scripts/check_consistency.py"


rule find_invariants:
    input:
        boundaries="results/{study}/phases/boundaries.csv",
        grids=[results(f"grids/{cell}.json") for cell in DIAGRAM_CELLS],
    output:
        table="results/{study}/phases/invariants.csv",
        notes="results/{study}/phases/invariants.json",
    log:
        "logs/{study}/find_invariants.log",
    benchmark:
        "results/{study}/benchmarks/find_invariants.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("find_invariants.py"),
        cells={cell: CONFIG["cells"][cell]["methods"] for cell in DIAGRAM_CELLS},
    script:
        "../../scripts/find_invariants.py"


rule extrapolate_sizes:
    input:
        invariants="results/{study}/phases/invariants.csv",
        cells=[results(f"cells/{cell}.json") for cell in DIAGRAM_CELLS],
    output:
        table="results/{study}/phases/finite_size.csv",
    log:
        "logs/{study}/extrapolate_sizes.log",
    benchmark:
        "results/{study}/benchmarks/extrapolate_sizes.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("extrapolate_sizes.py"),
        cells={cell: CONFIG["cells"][cell]["expansion"] for cell in DIAGRAM_CELLS},
    script:
        "../../scripts/extrapolate_sizes.py"


rule compute_model_errors:
    input:
        cells=[results(f"cells/{cell}.json") for cell in MODEL_ERROR_CELLS],
        models=[
            results(f"expansion/{CONFIG['cells'][cell]['expansion']}/model.json")
            for cell in MODEL_ERROR_CELLS
        ],
        samples=[
            results(f"ensemble/{cell}/{method}_samples.nc")
            for cell, method in MODEL_ERROR_CELLS.items()
        ],
        tables=[
            results(f"ensemble/{cell}/{method}.nc")
            for cell, method in MODEL_ERROR_CELLS.items()
        ],
    output:
        table="results/{study}/phases/model_error.csv",
    log:
        "logs/{study}/compute_model_errors.log",
    benchmark:
        "results/{study}/benchmarks/compute_model_errors.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=30,
    params:
        code=code("compute_model_errors.py"),
        settings=block("model_error"),
        free_energy=block("free_energy"),
        criteria={
            name: CONFIG["phases"][name]
            for name in ["common_tangent", "equal_weight"]
            if name in CONFIG["phases"]["criteria"]
        },
        seed=seed("compute_model_errors"),
    script:
        "../../scripts/compute_model_errors.py"


rule label_phases:
    input:
        samples="results/{study}/ensemble/{cell}/{method}_samples.nc",
        table="results/{study}/ensemble/{cell}/{method}.nc",
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        hull=hull_if_any,
        pool=pool_if_any,
    output:
        labels="results/{study}/phases/labels/{cell}/{method}.csv",
        weights="results/{study}/phases/labels/{cell}/{method}.nc",
        correlations="results/{study}/phases/labels/{cell}/{method}_correlations.csv",
    log:
        "logs/{study}/label_phases/{cell}_{method}.log",
    benchmark:
        "results/{study}/benchmarks/label_phases/{cell}_{method}.tsv"
    wildcard_constraints:
        method="|".join(SAMPLED),
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        code=code("label_phases.py"),
        free_energy=block("free_energy"),
        correlations=block("phases", "correlations"),
        # The same draws as those of the free energies, so that both go together.
        seed=seed("compute_free_energies"),
    script:
        "../../scripts/label_phases.py"


rule export_tdb:
    input:
        free_energy="results/{study}/free_energy/{cell}/{method}.nc",
        labels="results/{study}/phases/labels/{cell}/{method}.csv",
    output:
        tdb="results/{study}/phases/{cell}_{method}.tdb",
        statistics="results/{study}/phases/{cell}_{method}.json",
    log:
        "logs/{study}/export_tdb/{cell}_{method}.log",
    benchmark:
        "results/{study}/benchmarks/export_tdb/{cell}_{method}.tsv"
    wildcard_constraints:
        method="|".join(SAMPLED),
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("export_tdb.py"),
        settings=block("phases", "calphad"),
        lattice=block("lattice"),
    script:
        "../../scripts/export_tdb.py"
