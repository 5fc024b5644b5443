"""Whether Serve stops this replica, from the details its controller gives."""

from __future__ import annotations

from typing import Any

import pytest

from ingress.replica import find_ending


def make_details(status: str = "RUNNING", **states: str) -> dict[str, Any]:
    replicas = [{"replica_id": name, "state": state} for name, state in states.items()]
    return {"applications": {"pawfect": {"status": status, "deployments": {"Ingress": {"replicas": replicas}}}}}


@pytest.mark.parametrize(
    ("details", "is_ending"),
    [
        (make_details(me="RUNNING", other="STOPPING"), False),
        (make_details(me="STOPPING", other="RUNNING"), True),
        (make_details(other="RUNNING"), False),
        (make_details("DELETING", me="RUNNING"), True),
        (make_details("DEPLOYING", me="UPDATING"), False),
        ({"applications": {}}, True),
    ],
)
def test_a_replica_is_ending_when_it_stops_or_its_application_goes(details: dict[str, Any], is_ending: bool) -> None:
    assert find_ending(details, "pawfect", "Ingress", "me") is is_ending
