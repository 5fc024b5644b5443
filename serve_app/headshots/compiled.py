"""pymatting, imported so that it also starts where nothing may be written.

numba compiles pymatting's functions when they are imported (40 s) and keeps what it made beside them (then 1 s). Where
it can write neither there nor in the user's cache it refuses to start, even if all it wants to write is there already.
So it gets a folder of this process, and in it whatever has been compiled before: an image in whose build this module
has been imported once starts in a second, read-only or not.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
from pathlib import Path

import numba
from numba.core.caching import UserProvidedCacheLocator


def open_cache(package: Path) -> Path | None:
    """Where numba keeps what it compiles of a package's folder, when that has to be elsewhere; else None."""
    if numba.config.CACHE_DIR or _writable(package):
        return None
    folder = Path(tempfile.mkdtemp(prefix="numba-"))  # of this process alone: numba unpickles what it finds there
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for compiled in package.rglob("__pycache__/*.nb[ic]"):
        source = compiled.parent.parent / f"{compiled.name.split('.')[0]}.py"
        target = folder / UserProvidedCacheLocator.get_suitable_cache_subpath(str(source))
        target.mkdir(exist_ok=True)
        shutil.copyfile(compiled, target / compiled.name)
    numba.config.CACHE_DIR = str(folder)
    return folder


def _writable(package: Path) -> bool:
    try:
        (package / "__pycache__").mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=package / "__pycache__").close()
    except OSError:
        return False
    return True


_spec = importlib.util.find_spec("pymatting")  # does not import it yet
if _spec is not None and _spec.origin is not None:
    open_cache(Path(_spec.origin).parent)

from pymatting import cf_laplacian, estimate_foreground_ml  # noqa: E402 - when the cache is open

__all__ = ["cf_laplacian", "estimate_foreground_ml", "open_cache"]
