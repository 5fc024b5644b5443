"""`make bench-engine`: the FLUX engine on a CPU, without Ray: one table, and one JSON line last."""

from __future__ import annotations

import json

from bench import batching, cpu_wall, equal_detail, traffic, traffic_simulation
from bench.dispatch import open_tiny

AT_LEAST = {"equal_detail_ratio": 2.3, "cpu_wall_ratio": 2.0}
AT_MOST = {
    "urgent_p95_less_a_step": 1.5,
    "background_p95_over_fifo": 1.25,
    "simulated_urgent_p95_less_a_step": 1.5,
    "simulated_background_p95_over_fifo": 1.25,
    "cancel_steps": 1.0,
}


def main() -> None:
    result = equal_detail.measure()
    with open_tiny() as tiny:
        result |= cpu_wall.measure(tiny) | batching.measure(tiny)
    with open_tiny(traffic.DEPTH) as tiny:
        result |= traffic.measure(tiny)
    result |= traffic_simulation.measure()
    for name, value in result.items():
        bound = f"  (at least {AT_LEAST[name]:g})" if name in AT_LEAST else ""
        bound = f"  (at most {AT_MOST[name]:g})" if name in AT_MOST else bound
        print(f"{name:<42}{value:10.2f}{bound}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
