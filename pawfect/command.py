"""The command line: `pawfect serve`, `demo`, `headshot`, `seed-session`, and the operators' `pawfect.controls`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path

from ingress.schemas import ID_RULE
from pawfect import controls, forget
from serve_app.errors import ConfigurationError
from serve_app.jobs.model import ID_PATTERN, Session
from serve_app.settings import Settings, load_settings


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        return int(options.run(options))
    except ConfigurationError as error:
        print(f"cannot start: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells have it


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("pawfect", description="Serves pet-photo edits.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the service in the foreground until SIGTERM or Ctrl-C")
    serve.add_argument("--port", type=int, help="HTTP port (default: PAWFECT_PORT or 8000)")
    serve.add_argument(
        "--data", type=Path, help="folder of the database and the photos (default: PAWFECT_DATA_DIR or data)"
    )
    serve.add_argument("--config", type=Path, help="the deployments and their numbers (default: serve_config.yaml)")
    serve.set_defaults(run=_serve)
    seed = commands.add_parser(
        "seed-session", help="put a session in place, as the app's backend does; with ENV=gcp publish it, too"
    )
    seed.add_argument("--user", default="demo", help="user id (default: demo)")
    seed.add_argument("--session", default="first", help="session id (default: first)")
    seed.add_argument("--data", type=Path, help="the data folder of the service (default: PAWFECT_DATA_DIR or data)")
    _add_pictures(seed)
    seed.set_defaults(run=_seed)
    demo = commands.add_parser("demo", help="start the service, edit one photo, stop")
    _add_pictures(demo)
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for what comes out (default: demo-out)"
    )
    demo.set_defaults(run=_demo)
    headshot = commands.add_parser("headshot", help="start the service, make one headshot, stop")
    headshot.add_argument("--photo", type=Path, help="a JPEG, PNG, WebP or HEIC of a pet (default: the shipped sample)")
    headshot.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for what comes out (default: demo-out)"
    )
    headshot.set_defaults(run=_headshot)
    controls.add_commands(commands)
    forget.add_commands(commands)
    return parser.parse_args(arguments)


def _add_pictures(command: argparse.ArgumentParser) -> None:
    command.add_argument("--photo", type=Path, help="a JPEG, PNG, WebP or GIF (default: the shipped sample)")
    command.add_argument("--mask", type=Path, help="white where the photo is to be edited (default: the sample's)")


def _find_pictures(options: argparse.Namespace) -> tuple[Path, Path]:
    if (options.photo is None) != (options.mask is None):
        raise ConfigurationError("PHOTO and MASK belong together: give both, or neither for the shipped sample.")
    from pawfect.demo import SAMPLE

    photo, mask = options.photo or SAMPLE / "original.jpg", options.mask or SAMPLE / "mask_auto.png"
    for given in (photo, mask):
        if not given.is_file():
            raise ConfigurationError(f"There is no file {given}.")
    return photo, mask


def _serve(options: argparse.Namespace) -> int:
    from pawfect.serve_plan import CONFIG
    from pawfect.server import run

    given = {"port": options.port, "data_dir": options.data}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    run(settings, options.config or CONFIG)
    return 0


def _seed(options: argparse.Namespace) -> int:
    for name in ("user", "session"):
        if not re.fullmatch(ID_PATTERN, getattr(options, name)):
            raise ConfigurationError(f"--{name} must be {ID_RULE}.")
    photo, mask = _find_pictures(options)
    given = {} if options.data is None else {"data_dir": options.data}
    settings = load_settings(**given)
    seed = _seed_google if settings.env == "gcp" else _seed_embedded
    print(asyncio.run(seed(settings, Session(options.user, options.session), photo.read_bytes(), mask.read_bytes())))
    return 0


async def _seed_embedded(settings: Settings, session: Session, photo: bytes, mask: bytes) -> str:
    from pawfect.sessions import Backend

    backend = Backend(settings.data_dir.expanduser())
    await backend.create(session, photo, mask)
    backend.close()
    return f"{session.path} is in place"


async def _seed_google(settings: Settings, session: Session, photo: bytes, mask: bytes) -> str:
    from pawfect.sessions import GoogleBackend

    backend = GoogleBackend(settings)
    await backend.create(session, photo, mask)
    message_id = await backend.publish_session(session)
    await backend.close()
    return f"{session.path} is in place and published as message {message_id}"


def _demo(options: argparse.Namespace) -> int:
    from pawfect.demo import edit

    return edit(*_find_pictures(options), options.out)


def _headshot(options: argparse.Namespace) -> int:
    from pawfect.demo import SAMPLE, make_headshot

    photo = options.photo or SAMPLE / "pet.jpg"
    if not photo.is_file():
        raise ConfigurationError(f"There is no file {photo}.")
    return make_headshot(photo, options.out)
