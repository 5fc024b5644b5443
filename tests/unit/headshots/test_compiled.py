"""Where numba keeps what it compiles, when the installation may not be written to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
import pytest

from serve_app.headshots import compiled
from serve_app.headshots.compiled import open_cache


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package"
    (folder / "part" / "__pycache__").mkdir(parents=True)
    (folder / "part" / "module.py").write_text("")
    (folder / "part" / "__pycache__" / "module.function-1.py311.nbi").write_bytes(b"compiled")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    return folder


def test_a_folder_that_can_be_written_is_left_to_numba(package: Path) -> None:
    assert open_cache(package) is None
    assert numba.config.CACHE_DIR == ""


def test_a_folder_that_cannot_be_written_is_replaced_with_what_it_holds(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "__pycache__").write_text("a file, so that no folder can be made")  # root may write anywhere
    folder = open_cache(package)
    assert folder is not None
    assert str(folder) == numba.config.CACHE_DIR
    copies = list(folder.rglob("*.nbi"))
    assert [copy.name for copy in copies] == ["module.function-1.py311.nbi"]
    locator = compiled.UserProvidedCacheLocator
    assert copies[0].parent.name == locator.get_suitable_cache_subpath(str(package / "part" / "module.py"))


def test_a_folder_chosen_by_whoever_starts_the_service_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "__pycache__").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/somewhere")
    assert open_cache(package) is None
    assert numba.config.CACHE_DIR == "/somewhere"


def test_arrays_are_worked_on_without_the_server_and_without_torch() -> None:
    script = "import sys, serve_app.headshots.refinement, serve_app.headshots.foreground as f; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"ray", "fastapi", "torch", "google"})
