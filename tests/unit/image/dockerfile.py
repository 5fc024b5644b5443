"""The Dockerfile as its stages, for tests and for carrying out its steps outside a container."""

from __future__ import annotations

import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Instruction:
    """`value` is the text after the name, its lines joined."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The value's words, or the items of its JSON form."""
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV, LABEL and ARG: name → value, which is empty where none is given."""
        split = (word.partition("=") for word in self.words)
        return {name: value for name, _, value in split}

    @property
    def source_stage(self) -> str | None:
        """Of COPY: the stage it copies from; None is the build's context."""
        found = re.match(r"--from=(\S+)", self.value)
        return None if found is None else found[1]

    @property
    def paths(self) -> list[str]:
        """Of COPY: sources, and at last the target."""
        return [word for word in self.words if not word.startswith("--")]


@dataclass(frozen=True, slots=True)
class Stage:
    """`parent` is the name of another stage, or an image with the build's arguments put in."""

    name: str
    parent: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`arguments` are the ARGs before the first stage; stages are in the order of the file."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    def find_ancestry(self, name: str) -> list[Stage]:
        """The stage after those that it begins with, from the image on."""
        stage = self.stages[name]
        return [*(self.find_ancestry(stage.parent) if stage.parent in self.stages else []), stage]

    def list_instructions(self, name: str, kind: str) -> list[Instruction]:
        """Those of one kind that a stage is made of, its ancestors' first."""
        return [step for stage in self.find_ancestry(name) for step in stage.instructions if step.name == kind]

    def find_needed(self, name: str) -> set[str]:
        """The stages that must be built for one, with itself."""
        needed = {stage.name for stage in self.find_ancestry(name)}
        for step in self.list_instructions(name, "COPY"):
            if step.source_stage is not None:
                needed |= self.find_needed(step.source_stage)
        return needed


def read_dockerfile(text: str) -> Dockerfile:
    """Every stage needs a name."""
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    steps = [
        Instruction(row["instruction"], row["value"]) for row in parser.structure if row["instruction"] != "COMMENT"
    ]
    starts = [number for number, step in enumerate(steps) if step.name == "FROM"]
    arguments = {name: value for step in steps[: starts[0]] for name, value in step.pairs.items()}
    stages = {}
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        parent, _, name = steps[start].words
        for argument, value in arguments.items():
            parent = parent.replace(f"${{{argument}}}", value)
        stages[name] = Stage(name, parent, tuple(steps[start + 1 : end]))
    return Dockerfile(arguments, stages)
