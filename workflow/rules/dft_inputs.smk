# Helper functions of dft.smk: which files a calculation's rules take, by its engine and mode.
from segalflow.dft.ways import calculations_by, environment_of, way_of


def way(wildcards):
    """How the wildcard's calculation gets its energies."""
    return way_of(CONFIG["calculations"][wildcards.calculation])


def made_before(wildcards):
    """Whether the energies come from an ingestion, with its own structures and all records in one file."""
    return way(wildcards) in ("write", "ingest", "database")


def of_this(path):
    """A file of the wildcard's calculation."""
    return lambda wildcards: results(f"dft/{wildcards.calculation}/{path}")


def dataset_pool(wildcards):
    """Structures that the dataset is made of."""
    if made_before(wildcards) or PROPOSERS:
        return of_this("pool.extxyz")(wildcards)
    return results("structures/pool.extxyz")


def dataset_records(wildcards):
    """Records of all of them."""
    if made_before(wildcards):
        return [of_this("records.json")(wildcards)]
    return [
        of_this(f"records/{name}.json")(wildcards) for name in structure_ids(wildcards)
    ]


def dataset_rejects(wildcards):
    """Rows on what an ingestion left out."""
    return of_this("rejects.csv")(wildcards) if made_before(wildcards) else []


def pool_of_ingestion(wildcards):
    """The enumerated pool, beside which an ingestion that takes what it finds has gaps."""
    return (
        results("structures/manifest.csv")
        if way(wildcards) in ("ingest", "database")
        else []
    )


def written(path):
    """A file on the inputs that the workflow wrote, where it is the one that writes them."""
    return lambda wildcards: (
        of_this(path)(wildcards) if way(wildcards) == "write" else []
    )


def wanted_pool(wildcards):
    """The enumerated pool, where an ingestion refers to it."""
    settings = CONFIG["calculations"][wildcards.calculation]
    by_id = "structure" in settings.get("database", {}).get("columns", {})
    return (
        results("structures/pool.extxyz") if way(wildcards) == "write" or by_id else []
    )


def existing_runs(wildcards):
    """Output files of VASP that are there now."""
    from segalflow.dft.ingestion import run_files

    if way(wildcards) == "write":
        return run_files(
            {"manifest": of_this("inputs.csv")(wildcards)},
            of_manifest=False,
        )
    return run_files(CONFIG["calculations"][wildcards.calculation]["runs"])


def local_database(wildcards):
    """Local files of a database."""
    database = CONFIG["calculations"][wildcards.calculation]["database"]
    path = database.get("path")
    kept = path and (Path(path).exists() or not database.get("url"))
    return [*([path] if kept else []), *filter(None, [database.get("structures")])]


def fetched_database(wildcards):
    """A database that is fetched by its URL, where there is no local file."""
    from segalflow.dft.databases import is_fetched, name_of

    database = CONFIG["calculations"][wildcards.calculation]["database"]
    if not is_fetched(database):
        return []
    return f"work/{STUDY}/databases/{wildcards.calculation}/{name_of(database)}"


def database_url(wildcards):
    """Where it is fetched from, by whichever storage plugin of Snakemake is for such URLs.

    The checksum says which file it is: that the one at the URL has become newer means nothing.
    """
    database = CONFIG["calculations"][wildcards.calculation]["database"]
    return ancient(storage(database["url"]))


def fetched_by(wildcards):
    """What is fetched and how it is checked: nothing else of a database's settings fetches it again."""
    database = CONFIG["calculations"][wildcards.calculation]["database"]
    return {key: database.get(key) for key in ("url", "member", "sha256")}
