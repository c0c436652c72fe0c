"""Where compiled code is kept: by the state of the sources, wherever they lie.

Numba's own cache looks at the path and the content of one file: a function stays as it was compiled when a function of
another file that went into it has changed, and a second copy of the project compiles everything again. Here a module's
machine code is kept under a digest of the module and of all modules of the library that it reaches by imports. Modules
that compile import numba from here.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from pathlib import Path
from types import FunctionType

import numba
from numba.core import caching

PACKAGE = Path(__file__).resolve().parent
KEPT_STATES = 20
"""States of one module's sources whose code is kept; the oldest go."""

_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(segalflow[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+(segalflow[\w.]*))",
    re.MULTILINE,
)


def _file_of(package: Path, module: str) -> Path | None:
    inside = package.joinpath(*module.split(".")[1:])
    return next((file for file in (inside.with_suffix(".py"), inside / "__init__.py") if file.is_file()), None)


@functools.cache
def _read(file: Path, package: Path) -> tuple[bytes, frozenset[Path]]:
    """Digest of a file, and the library's files that it imports."""
    content = file.read_bytes()
    names = set()
    for module, imported, whole in _IMPORT.findall(content):
        name = (module or whole).decode()
        names.update([name], (f"{name}.{part.decode()}" for part in re.findall(rb"\w+", imported)))
    found = (_file_of(package, name) for name in names)
    return hashlib.sha256(content).digest(), frozenset(file for file in found if file is not None)


def source_state(file: Path, package: Path = PACKAGE) -> str:
    """Return a digest of a module of the library and of all its modules that it reaches by imports.

    Args:
        file: the module's file.
        package: folder of the library.
    """
    pending, reached = [file], {file}
    while pending:
        new = _read(pending.pop(), package)[1] - reached
        reached |= new
        pending += new
    digest = hashlib.sha256()
    for path in sorted(reached):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + _read(path, package)[0])
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder of compiled code: ``NUMBA_CACHE_DIR``, or ``segalflow`` in the user's cache folder."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segalflow"


class BySourceState(caching._CacheLocator):
    """Place of the compiled functions of a module of this library; of other files it leaves the choice to numba."""

    def __init__(self, function: FunctionType, file: Path) -> None:
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        self._py_file = str(file)  # numba's warnings name it
        self._line = function.__code__.co_firstlineno
        self._state = source_state(file)
        self._folder = cache_folder() / f"{name}-{self._state}"

    @classmethod
    def from_function(cls, py_func: FunctionType, py_file: str) -> BySourceState | None:
        """Return the place of a function, or None for one of another package, or where nothing can be written."""
        file = Path(py_file).resolve()
        if not file.is_relative_to(PACKAGE):
            return None
        place = cls(py_func, file)
        try:
            place.ensure_cache_path()
        except OSError:
            return None
        return place

    def ensure_cache_path(self) -> None:
        """Make the folder; the oldest of the module's others go when there are too many."""
        if self._folder.is_dir():
            return
        super().ensure_cache_path()
        module = self._folder.name.rsplit("-", 1)[0]
        states = sorted(self._folder.parent.glob(f"{module}-*"), key=lambda folder: -folder.stat().st_mtime)
        for folder in states[KEPT_STATES:]:
            shutil.rmtree(folder, ignore_errors=True)

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return the state of the sources."""
        return self._state

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name in one module apart."""
        return str(self._line)


# First ours, then those that numba tries by itself: other packages' functions stay where they were.
numba.config.CACHE_LOCATOR_CLASSES = ",".join(
    [f"{__name__}.{BySourceState.__name__}", *(kind.__name__ for kind in caching.CacheImpl._locator_classes)]
)
