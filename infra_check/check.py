"""Everything that can be said of a configuration without evaluating it."""

from __future__ import annotations

from pathlib import Path

from infra_check.configuration import NotTerraform, read_configuration
from infra_check.policy import check_policy
from infra_check.references import check_references
from infra_check.schema import load_schema
from infra_check.structure import check_structure


def find_wrong(folder: Path) -> list[str]:
    """A sentence for each mistake, in the order of the files."""
    schema = load_schema()
    try:
        configuration = read_configuration(folder)
    except NotTerraform as error:
        return [f"infra/{error}"]
    return [
        *check_structure(configuration, schema),
        *check_references(configuration, schema),
        *check_policy(configuration),
    ]
