"""Checks `infra/` without a cloud: `python -m infra_check [FOLDER]`.

First as it is written, against the provider's schema and rules of ours; then, where Terraform is installed, Terraform
itself plans it with a provider of that schema. Exit code 1 and a sentence for each thing that is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from infra_check.check import find_wrong
from infra_check.configuration import INFRA
from infra_check.examples import EXAMPLES
from infra_check.plan import PlanFailed, find_terraform, find_unformatted, make_plan


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else INFRA
    wrong = find_wrong(folder)
    for sentence in wrong:
        print(sentence)
    if wrong:
        return 1
    if find_terraform() is None:
        print("infra is as the schema wants it; terraform is not installed, so it was not planned")
        return 0
    if unformatted := find_unformatted(folder):
        print(*(f"infra/{name}: not formatted; run terraform fmt" for name in unformatted), sep="\n")
        return 1
    for name, variables in EXAMPLES.items():
        try:
            plan = make_plan(folder, variables)
        except PlanFailed as error:
            print(f"infra, planned for {name}: {error}")
            return 1
        print(f"infra, planned for {name}: {len(plan.resources)} resources")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
