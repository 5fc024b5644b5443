"""What a RayService's status says of a rollout."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from delivery.rollout import judge

IMAGE = "host/pawfect:new"
SERVING = {
    "rayClusterName": "pawfect-1",
    "applicationStatuses": {"pawfect": {"status": "RUNNING", "serveDeploymentStatuses": {}}},
}
DONE: dict[str, Any] = {
    "metadata": {"generation": 3},
    "status": {
        "observedGeneration": 3,
        "activeServiceStatus": SERVING,
        "pendingServiceStatus": {},
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "False"}],
    },
}


def run(image: str = IMAGE) -> dict[str, Any]:
    return {"spec": {"headGroupSpec": {"template": {"spec": {"containers": [{"image": image}]}}}}}


def test_all_of_it_is_wanted() -> None:
    assert judge(DONE, run(), IMAGE).is_done


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"observedGeneration": 2}, "not looked at the change"),
        ({"pendingServiceStatus": {"rayClusterName": "pawfect-2"}}, "new cluster pawfect-2: pawfect is not there yet"),
        ({"conditions": [{"type": "Ready", "status": "False", "message": "no endpoints"}]}, "not ready: no endpoints"),
        (
            {"conditions": [*DONE["status"]["conditions"][:1], {"type": "UpgradeInProgress", "status": "True"}]},
            "RUNNING",
        ),
        ({"activeServiceStatus": {"rayClusterName": "pawfect-1"}}, "pawfect is not there yet"),
    ],
)
def test_less_is_not_enough(change: dict[str, Any], line: str) -> None:
    service = copy.deepcopy(DONE)
    service["status"] |= change
    standing = judge(service, run(), IMAGE)
    assert not standing.is_done
    assert line in standing.line


def test_the_old_image_may_look_well() -> None:
    standing = judge(DONE, run("host/pawfect:old"), IMAGE)
    assert not standing.is_done
    assert "it still runs old" in standing.line
    assert not judge(DONE, None, IMAGE).is_done


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "UNHEALTHY"])
def test_a_sick_application_is_told_of(status: str) -> None:
    service = copy.deepcopy(DONE)
    service["status"]["activeServiceStatus"]["applicationStatuses"]["pawfect"]["status"] = status
    standing = judge(service, run(), IMAGE)
    assert standing.is_sick
    assert not standing.is_done
