"""segalflow: from first-principles energies to an alloy phase diagram with an exact-probability sampler.

The library is importable and testable without Snakemake; it never imports snakemake and never reads a config file.
Data goes one way: units, errors <- lattice <- structures, dft, expansion, energy <- segal, sampling <- thermo <-
phases <- plotting.
"""

import hashlib
import os
import sys
from pathlib import Path

__version__ = "0.1.0"


def _keep_compiled_code_by_source() -> None:
    """Give numba a cache of its own for every state of the sources.

    Numba looks at the file of a compiled function only; one that has a changed function of another file compiled into
    it would stay as it was, and go on computing with the old one.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        if b"numba" in content:
            digest.update(content)
    here = package / "__pycache__"
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(named)
        if folder.name.startswith("numba-"):  # set by a parent process
            folder = folder.parent
    elif os.access(here if here.is_dir() else package, os.W_OK):
        folder = here
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segalflow"
    os.environ["NUMBA_CACHE_DIR"] = str(folder / f"numba-{digest.hexdigest()[:12]}")
    if "numba" in sys.modules:  # else it is not worth half a second to import it for those who do not need it
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


_keep_compiled_code_by_source()
