"""`python -m bench.cloud_calls`: what one session's edit, one job over HTTP and one headshot are billed for in
Firestore, Cloud Storage and Pub/Sub, and what a service with nothing to do costs per hour and replica.

The real service (ENV=gcp) speaks to the real emulators through proxies that count on the wire (`cloud_proxies`); the
app's own calls go past them. An idle hour is measured first, for each replica by its connections. Work is done in rows
of equal pieces, one after the other; what an idle service would have cost meanwhile is taken off, and the row ends only
when the claim loops have come to rest again. So a figure is the price of a piece that comes alone; pieces under way
together share looks for changes.

The edits run on a tiny FLUX, once with few steps and once with many, as a run that is under way costs by the second:
`edit_…` is the price at no length, `edit_second_…` that of each further second, from the claim to the end. A job over
HTTP is followed by events and its result is fetched; its caller has a history, since each request looks at as many of
the caller's jobs as its limits reach back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import yaml

from bench.chaos_gcp import PROJECT
from bench.cloud_bill import UNITS, Bill
from bench.cloud_proxies import GrpcProxy, HttpProxy, Ledger
from bench.cloud_work import Bench, edit, give_history, make_headshot, run_http_job
from bench.fake_l4s import fix_replicas
from bench.photos import detailed_photo, leash_mask
from bench.report import print_figures
from ingress.api_keys import draw_key, hash_key
from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.emulators import Emulators
from pawfect.resources import provision
from pawfect.serve_plan import CONFIG
from pawfect.service_process import ServiceProcess, find_free_port
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

WIDTH, HEIGHT = 2048, 1536
"""Pixels; a JPEG of 1.2 MB."""
MASK_SHARE = 0.15
REST_S = 22.0
"""Until the claim loops look as rarely as an idle Editor's: 0.5 + 1 + … + 4 s."""
STEPS = {"short": 20, "long": 120}
REPLICAS = {"ServeReplica:pawfect:Editor": "editor", "ServeReplica:pawfect:Ingress": "ingress"}


async def measure_idle(bench: Bench, seconds: float) -> dict[str, Bill]:
    """Per hour and replica; `others` is what no replica's connection was found for, such as Pub/Sub's pushes."""
    await asyncio.sleep(REST_S)
    before = {port: bill.copy() for port, bill in bench.ledger.by_port.items()}
    await asyncio.sleep(seconds)
    owners, idle = find_owners(), defaultdict[str, Bill](Bill)
    for port, bill in bench.ledger.by_port.items():
        idle[owners.get(port, "others")] += _scale(bill - before.get(port, Bill()), 3600 / seconds)
    return dict(idle)


def find_owners() -> dict[int, str]:
    """The replicas' local ports. Ray names a replica's process by its deployment."""
    owners: dict[int, str] = {}
    for connection in psutil.net_connections("tcp"):
        title = _read_title(connection.pid)
        for name, role in REPLICAS.items():
            if name in title:
                owners[connection.laddr.port] = role  # type: ignore[union-attr]
    return owners


def _read_title(pid: int | None) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline()) if pid else ""
    except psutil.Error:
        return ""


async def measure_row(
    bench: Bench, idle: Bill, pieces: int, work: Callable[[], Awaitable[float]]
) -> tuple[Bill, float]:
    """Units and seconds of one piece."""
    before, started = bench.ledger.sum(), time.monotonic()
    lengths = [await work() for _ in range(pieces)]
    await asyncio.sleep(REST_S)
    spent = bench.ledger.sum()
    spent.subtract(before)
    spent.subtract(_scale(idle, (time.monotonic() - started) / 3600))
    return _scale(spent, 1 / pieces), sum(lengths) / pieces


def _scale(bill: Bill, factor: float) -> Bill:
    return Bill({name: count * factor for name, count in bill.items()})


async def measure(bench: Bench, pieces: int, idle_s: float) -> dict[str, float]:
    await edit(bench, STEPS["short"])  # the models are loaded, the prompt is encoded
    await make_headshot(bench)
    before = {each.id async for each in bench.clients.firestore.collection("jobs").select([]).stream()}
    await run_http_job(bench, STEPS["short"])
    after = {each.id async for each in bench.clients.firestore.collection("jobs").select([]).stream()}
    await give_history(bench, *(after - before))
    replicas = await measure_idle(bench, idle_s)
    idle = sum(replicas.values(), Bill())
    short, short_s = await measure_row(bench, idle, pieces, lambda: edit(bench, STEPS["short"]))
    long, long_s = await measure_row(bench, idle, pieces, lambda: edit(bench, STEPS["long"]))
    job, job_s = await measure_row(bench, idle, pieces, lambda: run_http_job(bench, STEPS["short"]))
    headshot, headshot_s = await measure_row(bench, idle, pieces, lambda: make_headshot(bench))
    second = _scale(Bill({name: long[name] - short[name] for name in UNITS}), 1 / (long_s - short_s))
    base = Bill({name: short[name] - second[name] * short_s for name in UNITS})
    rows = {f"idle_{name}_hour": bill for name, bill in replicas.items()}
    rows |= {"edit": base, "edit_second": second, "edit_short": short, "edit_long": long}
    rows |= {"http_job": job, "headshot": headshot}
    lengths = {"edit_short_s": short_s, "edit_long_s": long_s, "http_job_s": job_s, "headshot_s": headshot_s}
    sizes = {"photo_bytes": float(len(bench.photo)), "pet_bytes": float(len(bench.pet))}
    counted = {f"{row}_{unit}": float(bill[unit]) for row, bill in rows.items() for unit in UNITS if bill[unit]}
    return {**sizes, **lengths, **counted}


def write_plan(path: Path) -> Path:
    """One replica of each, from the start."""
    plan = yaml.safe_load(CONFIG.read_text())
    for name in ("Editor", "Headshots", "FluxFill"):
        fix_replicas(plan, name, 1)
    path.write_text(yaml.safe_dump(plan))
    return path


def make_environment(folder: Path, key: str) -> dict[str, str]:
    from bench.tiny_flux import write_checkpoint

    rows = folder / "keys.json"
    rows.write_text(json.dumps([{"name": "bench", "sha256": hash_key(key), "users": ["*"]}]))
    return {
        "ENV": "gcp",
        "PROJECT_ID": PROJECT,
        "PAWFECT_CALLERS__KEYS_FILE": str(rows),
        "PAWFECT_FLUX__CHECKPOINTS": json.dumps({"flux-fill-dev": str(write_checkpoint(folder / "fill"))}),
        "PAWFECT_FLUX__DEVICE": "cpu",
        "PAWFECT_FLUX__PROMPT_DIR": str(folder / "prompts"),
    }


async def run(folder: Path, pieces: int, idle_s: float) -> dict[str, float]:
    ledger, key, port = Ledger(), draw_key(), find_free_port()
    settings = Settings(env="gcp", project_id=PROJECT)
    with Emulators(folder, project=PROJECT) as emulators:
        direct = emulators.environment()
        os.environ.update(direct)
        firestore = GrpcProxy(direct["FIRESTORE_EMULATOR_HOST"], ledger)
        pubsub = GrpcProxy(direct["PUBSUB_EMULATOR_HOST"], ledger)
        storage = HttpProxy(direct["STORAGE_EMULATOR_HOST"], ledger)
        pushes = HttpProxy(f"http://127.0.0.1:{port}", ledger, pushes=True)
        await asyncio.gather(storage.start(), pushes.start())
        through = {
            **direct,
            "FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{await firestore.start()}",
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{await pubsub.start()}",
            "STORAGE_EMULATOR_HOST": storage.url,
        }
        clients = make_clients(settings)
        endpoints = f"{pushes.url}/inpaint", f"{pushes.url}/headshot/push"
        await asyncio.to_thread(provision, clients, GoogleSettings(), endpoints[0], headshot_endpoint=endpoints[1])
        environment = {**make_environment(folder, key), **through}
        config, log = write_plan(folder / "serve_config.yaml"), folder / "service.log"
        with ServiceProcess(folder / "data", log, port=port, config=config, environment=environment) as service:
            await service.wait_ready()
            backend = GoogleBackend(settings)
            photo, mask = detailed_photo(WIDTH, HEIGHT), leash_mask(WIDTH, HEIGHT, share=MASK_SHARE)
            async with Client(service.url, key) as client:
                try:
                    bench = Bench(ledger, backend, clients, client, photo, mask, (SAMPLE / "pet.jpg").read_bytes())
                    result = await measure(bench, pieces, idle_s)
                except BaseException:
                    print(service.tail(60))
                    raise
            await backend.close()
        await clients.close()
        await asyncio.gather(firestore.stop(), pubsub.stop(), storage.stop(), pushes.stop())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cloud_calls", description=__doc__)
    parser.add_argument("--pieces", type=int, default=4, help="of each kind (default: 4)")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of nothing (default: 120)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pawfect-calls-") as folder:
        figures = asyncio.run(run(Path(folder), options.pieces, options.idle))
    print_figures(figures)


if __name__ == "__main__":
    main()
