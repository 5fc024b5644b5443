"""Rows about replicas and the engines on them."""

from __future__ import annotations

from monitoring.panels import Panel, Query, Row, Unit, quantiles

REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Wanted",
            Unit.COUNT,
            (
                Query(
                    "max by (deployment) (last_over_time(ray_serve_autoscaling_target_replicas[2m]))", "{{deployment}}"
                ),
            ),
            "Too few for the backlog: `pawfect controls` for a pin by hand, then max_replicas in serve_config.yaml.",
            width=6,
        ),
        Panel(
            "Running",
            Unit.COUNT,
            (Query('pawfect:replicas:max{state="running"}', "{{deployment}}"),),
            "Fewer than wanted for minutes: none can be placed, see starting.",
            width=6,
        ),
        Panel(
            "Model loaded",
            Unit.COUNT,
            (Query("pawfect:engines_ready:sum", "{{deployment}}"),),
            "Fewer than running: they load, or cannot; see loads and the replica's log.",
            width=6,
        ),
        Panel(
            "Starting and stopping",
            Unit.COUNT,
            (Query('pawfect:replicas:max{state=~"starting|stopping"}', "{{deployment}} {{state}}"),),
            "Starting for over 5 minutes: no node. `kubectl get pods` and its events say whether an L4 was to be had.",
            width=6,
        ),
        Panel(
            "Set by hand, -1 where not",
            Unit.COUNT,
            (Query("pawfect:replicas_by_hand:max", "{{deployment}} {{kind}}"),),
            "`pawfect scale DEPLOYMENT --auto` gives it back to the policy.",
        ),
        Panel(
            "Backlog: engine seconds that wait or run",
            Unit.SECONDS,
            (Query("pawfect:backlog_seconds:max", "{{deployment}}"),),
            "Divided by the replicas it is about the wait. It grows and wanted does not: raise max_replicas, or pin.",
        ),
        Panel(
            "Loads of a model: cold starts, and failures",
            Unit.COUNT,
            (
                Query(
                    "sum by (engine, outcome) (increase(ray_pawfect_engine_loads_total[$__rate_interval]))",
                    "{{engine}} {{outcome}}",
                ),
                Query(
                    "max by (engine) (last_over_time(ray_pawfect_engine_load_failed[2m]))",
                    "{{engine}} failed, as the Editors see it",
                ),
            ),
            "Failed: `/ready` and the replica's log say why. Many loads an hour: a floor, or a longer downscale.",
        ),
        Panel(
            "Seconds of a load, the longest of the replicas",
            Unit.SECONDS,
            (Query("max by (engine) (last_over_time(ray_pawfect_engine_load_seconds[2m]))", "{{engine}}"),),
            "At 600 s a load is given up. Weights on a mounted bucket or a disk, and float8, load faster.",
            width=12,
        ),
        Panel(
            "Start of a replica, p95 of a day",
            Unit.MILLISECONDS,
            (
                Query(
                    "histogram_quantile(0.95, sum by (le, deployment) "
                    "(increase(ray_serve_replica_startup_latency_ms_bucket[1d])))",
                    "{{deployment}}",
                ),
            ),
            "From Serve's wish to a running process, without the model: nodes that come late, or a large image.",
            width=12,
        ),
    ),
)
ENGINES = Row(
    "Engines",
    (
        Panel(
            "Requests in FLUX",
            Unit.COUNT,
            (
                Query(
                    "sum by (engine, state) (last_over_time(ray_pawfect_engine_requests[2m]))", "{{engine}} {{state}}"
                ),
            ),
            "Waiting while none runs: the engine hangs; its replica is replaced after engines.hang_timeout_s.",
        ),
        Panel(
            "Time of one tick",
            Unit.SECONDS,
            quantiles("ray_pawfect_engine_tick_seconds_bucket", "engine, work", 0.5, 0.95),
            "Steps slower than last week at the same rows: another process on the GPU, heat, or a changed setting.",
        ),
        Panel(
            "Rows of one step",
            Unit.COUNT,
            quantiles("ray_pawfect_engine_batch_rows_bucket", "engine", 0.5, 0.95),
            "1 under load is right for large crops. For small ones see flux.batch_rows and flux.batch_megapixels.",
        ),
        Panel(
            "Requests that ended badly in FLUX, by kind",
            Unit.COUNT,
            (
                Query(
                    "sum by (engine, kind) (increase(ray_pawfect_engine_failures_total[$__rate_interval])) "
                    "or on () vector(0)",
                    "{{engine}} {{kind}}",
                ),
            ),
            "Five failures in a row and the replica is replaced. The same photo again and again: its dead letter.",
        ),
        Panel(
            "Out of GPU memory",
            Unit.COUNT,
            (
                Query(
                    "sum by (engine) (increase(ray_pawfect_out_of_memory_total[$__rate_interval])) or on () vector(0)",
                    "{{engine}}",
                ),
            ),
            "Lower flux.batch_megapixels, or see who else is on the GPU: the shares of its replicas must fit.",
        ),
        Panel(
            "Prompts that needed no encoding, of an hour",
            Unit.SHARE,
            (
                Query(
                    'sum(increase(ray_pawfect_prompts_total{source=~"memory|disk"}[1h])) '
                    "/ (sum(increase(ray_pawfect_prompts_total[1h])) > 0)"
                ),
            ),
            "Low: prompts differ for every photo and the encoder is always awake. A larger cache helps if they repeat.",
        ),
    ),
)
HEADSHOTS = Row(
    "Headshots",
    (
        Panel(
            "Stages of a headshot, p95",
            Unit.SECONDS,
            quantiles("ray_pawfect_headshot_stage_seconds_bucket", "stage", 0.95),
            "All slower: the node's CPU. Only the matting: the network; see headshots.threads.",
            width=12,
        ),
        Panel(
            "Photos below a limit of the quality gate",
            Unit.COUNT,
            (
                Query(
                    "sum by (reason) (increase(ray_pawfect_headshot_reasons_total[$__rate_interval])) "
                    "or on () vector(0)",
                    "{{reason}}",
                ),
            ),
            "A jump with no change of ours: the app sends other photos, thumbnails say. The limits are settings.",
            width=12,
        ),
    ),
)
