"""The command line: `pawfect serve`, `pawfect demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serve_app.errors import ConfigurationError
from serve_app.settings import load_settings


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        return int(options.run(options))
    except ConfigurationError as error:
        print(f"cannot start: {error.message}", file=sys.stderr)
        return 2


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("pawfect", description="Serves pet-photo edits.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the service in the foreground until SIGTERM or Ctrl-C")
    serve.add_argument("--port", type=int, help="HTTP port (default: PAWFECT_PORT or 8000)")
    serve.add_argument(
        "--data", type=Path, help="folder of the database and the photos (default: PAWFECT_DATA_DIR or data)"
    )
    serve.set_defaults(run=_serve)
    demo = commands.add_parser("demo", help="start the service, edit one photo, stop")
    demo.add_argument("--photo", type=Path, help="a JPEG, PNG, WebP or GIF (default: the shipped sample)")
    demo.add_argument("--mask", type=Path, help="white where the photo is to be edited (default: the sample's)")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for what comes out (default: demo-out)"
    )
    demo.set_defaults(run=_demo)
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace) -> int:
    from pawfect.server import run

    given = {"port": options.port, "data_dir": options.data}
    run(load_settings(**{name: value for name, value in given.items() if value is not None}))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pawfect.demo import SAMPLE, run

    if (options.photo is None) != (options.mask is None):
        print("PHOTO and MASK belong together: give both, or neither for the shipped sample.", file=sys.stderr)
        return 2
    return run(options.photo or SAMPLE / "original.jpg", options.mask or SAMPLE / "mask_auto.png", options.out)
