"""`pawfect controls`, `pause`, `resume`, `scale`: what operators set by hand, written where every replica reads it.

The service need not be asked: whoever may write its store may do this.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pawfect.serve_plan import CONFIG, list_idle
from serve_app.errors import ConfigurationError, StoreUnavailable
from serve_app.jobs.controls import Controls, Hand, Pause
from serve_app.settings import Settings, load_settings
from serve_app.stores import open_stores

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds."""

Decide = Callable[[Controls], Controls]


def add_commands(commands: Any) -> None:
    """Of argparse's subparsers."""
    show = commands.add_parser("controls", help="show what operators have set by hand")
    show.set_defaults(run=lambda options: _run(options, None))
    pause = commands.add_parser("pause", help="begin nothing more, answer pushes 503; begun jobs finish")
    _add_reason(pause, required=True)
    pause.set_defaults(run=lambda options: _run(options, _pause(options)))
    resume = commands.add_parser("resume", help="end a pause")
    resume.set_defaults(run=lambda options: _run(options, lambda controls: controls.with_pause(None)))
    scale = commands.add_parser("scale", help="set the replicas of a deployment by hand, or leave them to the policy")
    scale.add_argument("deployment", help="as in serve_config.yaml, e.g. FluxFill")
    how = scale.add_mutually_exclusive_group(required=True)
    how.add_argument("--pin", type=_count, help="exactly so many replicas")
    how.add_argument("--floor", type=_count, help="at least so many, more where the policy wants them")
    how.add_argument("--auto", action="store_true", help="as the policy wants")
    _add_reason(scale, required=False)
    scale.add_argument("--config", type=Path, default=CONFIG, help="the deployments (default: serve_config.yaml)")
    scale.set_defaults(run=lambda options: _run(options, _scale(options)))
    for command in (show, pause, resume, scale):
        command.add_argument(
            "--data", type=Path, help="the data folder of the service (default: PAWFECT_DATA_DIR or data)"
        )


def _add_reason(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--why", default="", required=required, help="shown to whoever looks, and to callers")
    command.add_argument("--for", dest="duration_s", type=_duration, help="ends by itself: 30m, 2h, 3d")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more; to have nothing done, pause")
    return int(text)


def _duration(text: str) -> float:
    """Seconds."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError("must be a number and s, m, h or d, such as 30m")
    return float(int(found[1]) * UNITS[found[2]])


def _pause(options: argparse.Namespace) -> Decide:
    now = time.time()
    pause = Pause(now, options.why, getpass.getuser(), _find_end(now, options.duration_s))
    return lambda controls: controls.with_pause(pause)


def _scale(options: argparse.Namespace) -> Decide:
    most = find_most_replicas(options.config, options.deployment)
    if options.auto:
        return lambda controls: controls.with_hand(options.deployment, None)
    check_checkpoint(_load_settings(options), options.deployment)
    if (options.pin or options.floor) > most:  # no error: the running config may have been changed in place
        print(f"{options.deployment} has at most {most} replicas in {options.config}; Serve keeps to what runs.")
    now = time.time()
    until = _find_end(now, options.duration_s)
    hand = Hand(now, options.why, getpass.getuser(), options.pin, options.floor, until)
    return lambda controls: controls.with_hand(options.deployment, hand)


def _find_end(now: float, duration_s: float | None) -> float | None:
    return None if duration_s is None else now + duration_s


def find_most_replicas(config: Path, name: str) -> int:
    """A deployment's max_replicas. Raises ConfigurationError for one that is not scaled."""
    try:
        deployments = yaml.safe_load(config.read_text())["applications"][0]["deployments"]
        most = {each["name"]: each["autoscaling_config"]["max_replicas"] for each in deployments if _is_scaled(each)}
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(f"{config} cannot be read: {type(error).__name__} {error}.") from None
    if name not in most:
        raise ConfigurationError(f"{name} is not scaled; {', '.join(most)} are. Others have num_replicas in {config}.")
    return int(most[name])


def check_checkpoint(settings: Settings, name: str) -> None:
    """Raises ConfigurationError for a deployment whose replicas would have no checkpoint to load."""
    if name in list_idle(settings):
        raise ConfigurationError(
            f"{name} has no checkpoint here, so that no replica of it would load; "
            "PAWFECT_FLUX__CHECKPOINTS is to name one."
        )


def _is_scaled(deployment: dict[str, Any]) -> bool:
    return "autoscaling_config" in deployment


def _load_settings(options: argparse.Namespace) -> Settings:
    return load_settings(**({} if options.data is None else {"data_dir": options.data}))


def _run(options: argparse.Namespace, decide: Decide | None) -> int:
    settings = _load_settings(options)
    try:
        controls = asyncio.run(_apply(settings, decide))
    except StoreUnavailable as error:
        print(f"nothing is changed: {error.message}")
        return 1
    print("\n".join(describe(controls, time.time())))
    return 0


async def _apply(settings: Settings, decide: Decide | None) -> Controls:
    stores = open_stores(settings)
    try:
        return await (stores.controls.read() if decide is None else stores.controls.change(decide))
    finally:
        await stores.close()


def describe(controls: Controls, now: float) -> list[str]:
    """Lines for a person; `now` is a Unix time."""
    pause = controls.find_pause(now)
    lines = ["consumption: running" if pause is None else f"consumption: PAUSED {_tell(pause)}"]
    for name, hand in sorted(controls.list_hands(now).items()):
        number = f"exactly {hand.pin}" if hand.pin is not None else f"at least {hand.floor}"
        lines.append(f"{name}: {number} {_tell(hand)}")
    return lines if len(lines) > 1 else [*lines, "replicas: as the policy wants"]


def _tell(setting: Pause | Hand) -> str:
    until = f" until {_show(setting.until)}" if setting.until is not None else ""
    why = f": {setting.why}" if setting.why else ""
    return f"since {_show(setting.at)}{until}, by {setting.by}{why}"


def _show(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
