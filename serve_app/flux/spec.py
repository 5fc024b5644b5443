"""Which checkpoint can do what: one row per model this service knows how to run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.engines.protocol import Task
from serve_app.errors import ConfigurationError, EngineRejected


class Family(StrEnum):
    """Models with the same transformer class, text encoders and arithmetic of a step; the rest is in their rows."""

    FLUX1 = "flux1"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """`revision` is the commit of the hub repository `repo`. `in_channels` is what a token of the transformer's input
    has: 64 of the noisy latent, for Fill also 64 of the masked image and 256 of the mask. `text_lengths` are the
    numbers of text tokens prompts are padded to, ascending. `steps` and `guidance` are what its authors recommend.
    `engine` is its name in the quality table and in metrics, `deployment` in Serve."""

    name: str
    family: Family
    repo: str
    revision: str
    licence: str
    tasks: frozenset[Task]
    in_channels: int
    has_guidance: bool
    text_lengths: tuple[int, ...]
    steps: int
    guidance: float
    engine: str
    deployment: str


SPECS: dict[str, ModelSpec] = {
    row.name: row
    for row in (
        ModelSpec(
            name="flux-fill-dev",
            family=Family.FLUX1,
            repo="black-forest-labs/FLUX.1-Fill-dev",
            revision="358293da0354175698b67ec8299acf928313a78a",
            licence="FLUX.1 [dev] Non-Commercial License",
            tasks=frozenset({Task.FILL}),
            in_channels=384,
            has_guidance=True,
            text_lengths=(128, 256, 512),
            steps=28,
            guidance=30.0,
            engine="flux",
            deployment="FluxFill",
        ),
        ModelSpec(
            name="flux-dev",
            family=Family.FLUX1,
            repo="black-forest-labs/FLUX.1-dev",
            revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            licence="FLUX.1 [dev] Non-Commercial License",
            tasks=frozenset({Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE}),
            in_channels=64,
            has_guidance=True,
            text_lengths=(128, 256, 512),
            steps=28,
            guidance=3.5,
            engine="flux-base",
            deployment="FluxBase",
        ),
    )
}


def get_spec(name: str) -> ModelSpec:
    """Raises ConfigurationError for a name that is no row."""
    if name not in SPECS:
        raise ConfigurationError(f"There is no model '{name}'; known are {', '.join(SPECS)}.")
    return SPECS[name]


def check_task(spec: ModelSpec, task: Task) -> None:
    """Raises EngineRejected, naming the models that can, when this one cannot do a task."""
    if task not in spec.tasks:
        able = ", ".join(row.name for row in SPECS.values() if task in row.tasks)
        raise EngineRejected(f"The model {spec.name} does not do {task}; {able} does.")
