"""The dashboard for who runs it: replicas, engines, accelerators and what they cost."""

from __future__ import annotations

from monitoring.engines import ENGINES, HEADSHOTS, REPLICAS
from monitoring.panels import CHOSEN, Dashboard, Panel, Query, Row, Unit

PRICE = "on () group_left () max(last_over_time(ray_pawfect_gpu_hour_usd[2m]))"
"""US dollars of one GPU hour."""

MACHINES = Row(
    "Machines",
    (
        Panel(
            "GPU memory of an engine",
            Unit.BYTES,
            (
                Query(
                    "max by (engine, kind) (last_over_time(ray_pawfect_gpu_memory_bytes[2m]))",
                    "{{engine}} {{kind}}",
                ),
            ),
            "Peak near the limit: out of memory is near. Lower flux.batch_megapixels or raise flux.memory_share.",
        ),
        Panel(
            "GPU utilisation",
            Unit.PERCENT,
            (
                Query(
                    "max by (ip, GpuIndex) (last_over_time(ray_node_gpus_utilization[2m]))",
                    "{{ip}} {{GpuIndex}}",
                ),
            ),
            "Low while jobs wait: the time goes elsewhere; see the stages of the other dashboard.",
        ),
        Panel(
            "GPU memory in use, whole device",
            Unit.SHARE,
            (
                Query(
                    "max by (ip, GpuIndex) (last_over_time(ray_node_gram_used[2m])) / (max by (ip, GpuIndex) "
                    "(last_over_time(ray_node_gram_used[2m]) + last_over_time(ray_node_gram_available[2m])))",
                    "{{ip}} {{GpuIndex}}",
                ),
            ),
            "More than our replicas' shares: somebody else is on this GPU.",
        ),
        Panel(
            "Node CPU",
            Unit.PERCENT,
            (Query("max by (ip) (last_over_time(ray_node_cpu_utilization[2m]))", "{{ip}}"),),
            "At 100 % for long, photos are decoded slowly and health checks fail: larger nodes, or fewer slots.",
            width=12,
        ),
        Panel(
            "Node memory in use",
            Unit.SHARE,
            (
                Query(
                    "max by (ip) (last_over_time(ray_node_mem_used[2m])) "
                    "/ max by (ip) (last_over_time(ray_node_mem_total[2m]))",
                    "{{ip}}",
                ),
            ),
            "Ray ends workers at 95 %. Fewer jobs.slots, or a larger node.",
            width=12,
        ),
    ),
)
COST = Row(
    "Cost",
    (
        Panel(
            "US dollars per completed job, of a day",
            Unit.DOLLARS,
            (
                Query(
                    f"sum by (quality, engine) (increase(ray_pawfect_cost_usd_total{{{CHOSEN}}}[1d])) / (sum by "
                    f'(quality, engine) (increase(ray_pawfect_jobs_total{{outcome="completed", {CHOSEN}}}[1d])) > 0)',
                    "{{quality}} {{engine}}, its own GPU time",
                ),
                Query(
                    "sum(increase(ray_pawfect_gpu_held_seconds_total[1d])) / 3600 * "
                    f'{PRICE} / (sum(increase(ray_pawfect_jobs_total{{outcome="completed"}}[1d])) > 0)',
                    "all GPU time that was held",
                ),
            ),
            "The held line far above the others: GPUs are idle; a lower floor or a shorter downscale delay.",
        ),
        Panel(
            "US dollars of the past day, GPUs held",
            Unit.DOLLARS,
            (
                Query(
                    f"sum by (engine) (increase(ray_pawfect_gpu_held_seconds_total[1d])) / 3600 * {PRICE}", "{{engine}}"
                ),
            ),
            "PAWFECT_ENGINES__GPU_HOUR_USD is the price. It counts what replicas hold; a node costs a little longer.",
        ),
        Panel(
            "Share of held GPU time that completed no job, of a day",
            Unit.SHARE,
            (
                Query(
                    "1 - sum by (engine) (increase(ray_pawfect_gpu_seconds_total[1d])) "
                    "/ (sum by (engine) (increase(ray_pawfect_gpu_held_seconds_total[1d])) > 0)",
                    "{{engine}}",
                ),
            ),
            "`pawfect controls`: is a floor or a pin still wanted? If not, `pawfect scale DEPLOYMENT --auto`. Runs "
            "that failed or were cancelled count here, too: nobody knows how long the engine worked on them.",
        ),
    ),
)
CAPACITY = Dashboard(
    "pawfect-engines",
    "Pawfect: engines and capacity",
    "Replicas, engines, accelerators, and what they cost.",
    (REPLICAS, ENGINES, MACHINES, COST, HEADSHOTS),
)
