"""PodDisruptionBudgets: ones that Kubernetes can keep, and that let a node be drained."""

from __future__ import annotations

from manifests.builds import Build
from manifests.pods import list_pods, selects
from manifests.problems import Problems, report


def check_budgets(build: Build) -> Problems:
    for budget in build.list_kind("PodDisruptionBudget"):
        spec = budget["spec"]
        selected = [each for each in list_pods(build) if selects(spec.get("selector") or {}, each.labels)]
        if not selected:
            yield report(budget, "spec.selector", "selects no pod of this build.")
        least = spec.get("minAvailable")
        if any(each.group is not None for each in selected):
            if "maxUnavailable" in spec:
                sentence = "does not work: a RayCluster has no scale subresource to say how many pods it should have."
                yield report(budget, "spec.maxUnavailable", sentence)
            elif not isinstance(least, int):
                yield report(budget, "spec.minAvailable", f"is {least}; for Ray's pods it must be a whole number.")
        smallest = sum(each.smallest for each in selected)
        if isinstance(least, int) and selected and least >= smallest:
            sentence = f"is {least} of {smallest} pods: none could be evicted, and no node drained."
            yield report(budget, "spec.minAvailable", sentence)
