rule sample_metropolis:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/metropolis.nc",
        samples="results/{study}/ensemble/{cell}/metropolis_samples.nc",
    log:
        "logs/{study}/sample_metropolis/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_metropolis/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_metropolis.py"),
        settings=for_cell("metropolis"),
        seed=seed("sample_metropolis"),
    script:
        "../../scripts/sample_metropolis.py"


rule sample_tempering:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/tempering.nc",
        samples="results/{study}/ensemble/{cell}/tempering_samples.nc",
    log:
        "logs/{study}/sample_tempering/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_tempering/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_tempering.py"),
        settings=for_cell("tempering"),
        seed=seed("sample_tempering"),
    script:
        "../../scripts/sample_tempering.py"


rule sample_metadynamics:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/metadynamics.nc",
    log:
        "logs/{study}/sample_metadynamics/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_metadynamics/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_metadynamics.py"),
        settings=for_cell("metadynamics"),
        seed=seed("sample_metadynamics"),
    script:
        "../../scripts/sample_metadynamics.py"


rule sample_canonical:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/canonical.nc",
    log:
        "logs/{study}/sample_canonical/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_canonical/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_canonical.py"),
        settings=for_cell("canonical"),
        seed=seed("sample_canonical"),
    script:
        "../../scripts/sample_canonical.py"


rule sample_vcsgc:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/vcsgc.nc",
    log:
        "logs/{study}/sample_vcsgc/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_vcsgc/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_vcsgc.py"),
        settings=for_cell("vcsgc"),
        seed=seed("sample_vcsgc"),
    script:
        "../../scripts/sample_vcsgc.py"


rule sample_scan:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/scan.nc",
    log:
        "logs/{study}/sample_scan/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_scan/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_scan.py"),
        settings=for_cell("scan"),
        seed=seed("sample_scan"),
    script:
        "../../scripts/sample_scan.py"


rule sample_wang_landau:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/wang_landau.nc",
    log:
        "logs/{study}/sample_wang_landau/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_wang_landau/{cell}.tsv"
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_wang_landau.py"),
        settings=for_cell("wang_landau"),
        seed=seed("sample_wang_landau"),
    script:
        "../../scripts/sample_wang_landau.py"


rule enumerate_exactly:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/exact.nc",
    log:
        "logs/{study}/enumerate_exactly/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/enumerate_exactly/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("enumerate_exactly.py"),
    script:
        "../../scripts/enumerate_exactly.py"


rule compare_methods:
    input:
        ENSEMBLES,
    output:
        comparison="results/{study}/comparison.csv",
        summary="results/{study}/comparison_summary.csv",
    log:
        "logs/{study}/compare_methods.log",
    benchmark:
        "results/{study}/benchmarks/compare_methods.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("compare_methods.py"),
    script:
        "../../scripts/compare_methods.py"
