# Helper functions of convergence.smk: the points of the studies, known from the config alone.
from segalflow.dft.convergence import plan_points
from segalflow.dft.ways import ENGINE, RUN

STUDIED = {
    name: {
        point.name: point
        for point in plan_points(settings, CONFIG["lattice"]["species"])
    }
    for name, settings in CONFIG["calculations"].items()
    if settings.get("convergence")
}
# Calculations whose points the workflow runs itself; for the others it writes VASP inputs.
STUDIED_BY_JOBS = [
    name for name in STUDIED if way_of(CONFIG["calculations"][name]) in (ENGINE, RUN)
]
STUDIED_BY_HAND = [name for name in STUDIED if name not in STUDIED_BY_JOBS]


def point_of(wildcards):
    """The wildcard's point of a study."""
    return STUDIED[wildcards.calculation][wildcards.point]


def point_records(wildcards):
    """Records of all points of a study, where the workflow runs them itself."""
    if wildcards.calculation in STUDIED_BY_HAND:
        return []
    folder = of_this("convergence/points")(wildcards)
    return [f"{folder}/{name}.json" for name in STUDIED[wildcards.calculation]]


def written_points(path):
    """A file on the inputs of a study that a person runs."""
    return lambda wildcards: (
        of_this(f"convergence/{path}")(wildcards)
        if wildcards.calculation in STUDIED_BY_HAND
        else []
    )


def point_runs(wildcards):
    """Output files of VASP of a study that are there now."""
    from segalflow.dft.ingestion import run_files

    manifest = written_points("inputs.csv")(wildcards)
    return run_files({"manifest": manifest}, of_manifest=False) if manifest else []


def convergence_settings(wildcards):
    """Settings of a calculation that its study depends on."""
    settings = CONFIG["calculations"][wildcards.calculation]
    return {k: v for k, v in settings.items() if k not in ("minimum_fraction", "runs")}
