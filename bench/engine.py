"""`make bench-engine`: the FLUX engine on a CPU, without Ray: one table, and one JSON line last."""

from __future__ import annotations

from bench import batching, cpu_wall, equal_detail, traffic, traffic_simulation
from bench.dispatch import open_tiny
from bench.report import print_figures

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
    print_figures(result, at_least=AT_LEAST, at_most=AT_MOST)


if __name__ == "__main__":
    main()
