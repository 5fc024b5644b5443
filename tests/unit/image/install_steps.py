"""The Dockerfile's own steps, carried out in a folder instead of an image, and what comes out is looked at.

`python -m tests.unit.image.install_steps cpu` (or gpu; minutes, all libraries are fetched) needs neither root nor a
container engine. The base image is a fresh virtual environment of the Python that runs this; apt's steps are left out.
What it cannot show: the base image, users and rights, and another processor than this one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from docker.utils.build import exclude_paths

from tests.unit.image.dockerfile import DOCKERFILE, ROOT, Dockerfile, Instruction, read_dockerfile

FOLDERS = ("app", "cache", "data", "opt", "requirements", "weights")
"""Of the image's root; another one in a step would be this machine's own."""


class StepsFailed(Exception):
    """A step, or what came out of it, is not what it has to be."""


def list_context(root: Path) -> set[str]:
    """The files under a folder that its .dockerignore lets into the build, with / between names."""
    lines = (root / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    found = exclude_paths(str(root), patterns) - {"Dockerfile", ".dockerignore"}  # sent for the builder's own use
    return {name.replace(os.sep, "/") for name in found if (root / name).is_file()}


class ImageFolder:
    """One folder for all stages: their paths do not meet, and where two are the same they hold the same. `with_pip`:
    the base has pip; the Dockerfile's own steps need it."""

    def __init__(self, folder: Path, context: Path, dockerfile: Dockerfile, *, with_pip: bool = True) -> None:
        self._folder, self._context, self._dockerfile = folder, context, dockerfile
        self._allowed = list_context(context)
        venv.create(folder / "base", with_pip=with_pip)

    def build(self, target: str) -> list[str]:
        """Carries out what the target needs, in the file's order. Returns the commands that were left out.

        Raises StepsFailed when one of the commands fails, or a file that is to be copied is not in the context.
        """
        needed = self._dockerfile.find_needed(target)
        left_out = []
        for name in self._dockerfile.stages:
            if name in needed:
                left_out += self._build_stage(name)
        return left_out

    def _build_stage(self, name: str) -> list[str]:
        left_out = []
        stage = self._dockerfile.stages[name]
        workdir = self._find_workdir(stage.parent) if stage.parent in self._dockerfile.stages else self._folder
        for step in stage.instructions:
            if step.name == "WORKDIR":
                workdir = self.place(step.value)
                workdir.mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                self._copy(step, workdir)
            elif step.name == "RUN" and "apt-get" in step.value:
                left_out.append(step.value)
            elif step.name == "RUN":
                print(f"[{name}] {step.value}", flush=True)
                self.run(["/bin/sh", "-c", self._move(step.value)], name, workdir)
        return left_out

    def _find_workdir(self, stage: str) -> Path:
        steps = self._dockerfile.list_instructions(stage, "WORKDIR")
        return self.place(steps[-1].value) if steps else self._folder

    def _copy(self, step: Instruction, workdir: Path) -> None:
        *sources, target = step.paths
        into = self.place(target) if target.startswith("/") else workdir / target
        for source in sources:
            if step.source_stage is not None:
                self._merge(self.place(source), into)
            else:
                self._copy_context(source, into)

    def _merge(self, source: Path, into: Path) -> None:
        if source.is_file():
            into = into / source.name if into.is_dir() else into
        if source == into:  # of another stage, which is in the same folder
            return
        if source.is_file():
            shutil.copy2(source, into)
        else:
            shutil.copytree(source, into, dirs_exist_ok=True, symlinks=True)

    def _copy_context(self, source: str, into: Path) -> None:
        names = {name for name in self._allowed if name == source or name.startswith(f"{source}/")}
        if not names:
            raise StepsFailed(f"COPY {source}: no such file in the build's context")
        for name in names:
            target = into / name.removeprefix(f"{source}/") if name != source else into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._context / name, target)

    def place(self, path: str) -> Path:
        """Where a path of the image is on this machine."""
        return Path(self._move(path))

    def _move(self, text: str) -> str:
        return re.sub(rf"(?<![\w.~/-])/(?=({'|'.join(FOLDERS)})\b)", f"{self._folder}/", text)

    def run(self, command: list[str], stage: str, workdir: Path, **extra: str) -> str:
        """Returns what the command prints. Raises StepsFailed with its output when it fails."""
        environment = self._make_environment(stage) | extra
        # Found in the stage's PATH, not in this process's.
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        done = subprocess.run(
            [program, *command[1:]], cwd=workdir, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StepsFailed(f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def _make_environment(self, stage: str) -> dict[str, str]:
        """The stage's, above what this machine needs to reach packages at all."""
        kept = {name: value for name, value in os.environ.items() if not re.match("PYTHON|VIRTUAL_ENV|PAWFECT_", name)}
        path = f"{self._folder}/base/bin:/usr/bin:/bin"
        environment = kept | {"PATH": path}
        for step in self._dockerfile.list_instructions(stage, "ENV"):
            for name, value in step.pairs.items():
                environment[name] = self._move(value).replace("$PATH", environment["PATH"])
        return environment


def prove(image: ImageFolder, target: str) -> list[str]:
    """What was seen in the built folder, one line for each. Raises StepsFailed where it is not as it must be."""
    app, python = image.place("/app"), str(image.place("/opt/venv/bin/python"))
    seen = []

    def run(*command: str, **extra: str) -> str:
        return image.run(list(command), target, app, **extra)

    image.run(["pip", "--python", python, "check"], "cpu-libraries", app)
    seen.append("pip check: nothing is missing, nothing is in conflict")
    installed = json.loads(run("python", "-c", _LIST))
    seen.append(_compare(installed, read_constraints((ROOT / "constraints.txt").read_text()), target))
    where = run("python", "-c", "import serve_app.app; print(serve_app.app.__file__)").strip()
    if where != str(app / "serve_app/app.py"):
        raise StepsFailed(f"serve_app comes from {where}")
    seen.append("serve_app.app is imported from /app")
    seen.append(run("ray", "--version").strip())
    seen.append(run("pawfect", "--help").splitlines()[0])
    seen.append(_check_compiled(run))
    if target == "gpu":
        run("python", "-c", "import torch, diffusers, transformers, serve_app.flux.engine, serve_app.flux.float8")
        seen.append("serve_app.flux.engine is imported")
    return seen


_LIST = """import importlib.metadata, json
print(json.dumps({d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}))"""


def read_constraints(text: str) -> dict[str, str]:
    """Name, as PEP 503 normalizes it → version."""
    rows = [line.split("==") for line in text.splitlines() if line and not line.startswith("#")]
    return {normalize(name): version for name, version in rows}


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _compare(installed: dict[str, str], constraints: dict[str, str], target: str) -> str:
    found = {normalize(name): version for name, version in installed.items()}
    found.pop("pawfect-serve")
    # What follows a plus names a build: torch's for a CPU here, the one with CUDA in the image.
    wrong = {name: version for name, version in found.items() if constraints.get(name) != version.partition("+")[0]}
    if wrong:
        raise StepsFailed(f"not as constraints.txt has it: {wrong}")
    if ("torch" in found) != (target == "gpu"):
        raise StepsFailed("torch belongs into gpu, and nowhere else")
    return f"{len(found)} distributions, all as constraints.txt has them; torch {found.get('torch', 'is not there')}"


def _check_compiled(run: Callable[..., str]) -> str:
    told = run("python", "-c", "import serve_app.headshots.compiled", NUMBA_DEBUG_CACHE="1")
    loaded, saved = told.count("data loaded from"), told.count("data saved to")
    if not loaded or saved:
        raise StepsFailed(f"of pymatting, {loaded} functions come compiled with the image and {saved} do not")
    return f"all {loaded} functions of pymatting come compiled"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.unit.image.install_steps", description=__doc__)
    parser.add_argument("target", choices=["cpu", "gpu"])
    target = parser.parse_args(arguments).target
    with tempfile.TemporaryDirectory(prefix="pawfect-image-") as folder:
        image = ImageFolder(Path(folder), ROOT, read_dockerfile(DOCKERFILE.read_text()))
        try:
            left_out = image.build(target)
            seen = prove(image, target)
        except StepsFailed as error:
            print(f"{target}: {error}", file=sys.stderr)
            return 1
    print(*(f"{target}: {line}" for line in seen), *(f"{target}: left out: {line}" for line in left_out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
