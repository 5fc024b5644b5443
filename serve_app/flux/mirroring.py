"""`python -m serve_app.flux.mirroring`: fills a mirror, usually a mounted bucket, with everything the service loads.

Models come from the hub at their pinned commits, are checked against what the hub says of them, and get beside them
what a replica would else make at each start: the quantized transformer, and the embeddings of the default prompt. All
of it happens on a local disk, and is copied when it is complete. With all of it there already, nobody is asked.

It ends with 0, with 1 for what a retry may mend (network, an outage), and with 2 for what it does not (a token that is
not accepted, a mirror that cannot be written, too small a disk). The token is never shown.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from serve_app.errors import ConfigurationError, PawfectError
from serve_app.flux import mirror
from serve_app.flux.checkpoint import mirror_folder
from serve_app.flux.loading import DTYPES
from serve_app.flux.mirror_filling import Wish, fill, fill_embedded, list_embedded_gaps, list_gaps
from serve_app.flux.quantization import QUANTIZATIONS
from serve_app.flux.spec import SPECS, get_spec
from serve_app.google_secrets import read_secret
from serve_app.settings import Settings, load_settings

log = logging.getLogger("serve_app.flux.mirroring")  # __name__ is __main__ here

RETRY, FIX = 1, 2
"""Exit codes; 2 is argparse's, too."""


def read_token(options: argparse.Namespace, settings: Settings) -> str | None:
    """Raises ConfigurationError, and StoreUnavailable when Secret Manager does not answer."""
    if options.token_secret:
        return read_secret(options.token_secret, settings)
    if options.token_file is None:
        return settings.hf_token.get_secret_value() if settings.hf_token else None
    try:
        token: str = options.token_file.read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--token-file: {options.token_file} cannot be read: {error}") from error
    if not token:
        raise ConfigurationError(f"--token-file: {options.token_file} is empty.")
    return token


def run(options: argparse.Namespace, settings: Settings) -> None:
    encoder_dtype = DTYPES[settings.flux.encoder_dtype]
    wish = Wish(options.quantization, options.dtype, tuple(options.prompt or [settings.prompt]), encoder_dtype)
    models = [get_spec(name) for name in dict.fromkeys(options.model or [])]
    gaps = {spec.name: list_gaps(options.mirror, spec, wish, deep=options.verify) for spec in models}
    if options.embedded is not None:
        gaps["embedded"] = list_embedded_gaps(options.embedded, deep=options.verify)
    for name, missing in gaps.items():
        log.info("%s: %s", name, f"lacks {', '.join(missing)}" if missing else "whole, nothing to do")
    if not any(gaps.values()):
        return
    token = read_token(options, settings)
    if gaps.get("embedded"):
        mirror.check_writable(options.embedded)
        fill_embedded(options.embedded, options.scratch / "embedded", token)
        log.info("embedded: filled")
    for spec in models:
        if gaps[spec.name]:
            mirror.check_writable(mirror_folder(options.mirror, spec))
            copied = fill(options.mirror, options.scratch, spec, wish, token)
            log.info("%s: filled, %d files copied", spec.name, len(copied))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.flux.mirroring", description="Fill a mirror with everything the service loads."
    )
    able = [name for name, row in QUANTIZATIONS.items() if row.snapshots]
    parser.add_argument("--mirror", type=Path, required=True, help="folder for REPO/REVISION: PAWFECT_FLUX__MIRROR")
    parser.add_argument("--embedded", type=Path, help="folder for the embedded models: PAWFECT_ENGINES__WEIGHTS_DIR")
    parser.add_argument("--scratch", type=Path, required=True, help="folder on a local disk; what is there is used")
    parser.add_argument("--model", choices=SPECS, action="append", help="may be given again")
    parser.add_argument("--quantization", choices=able, help="keep the transformer so, too")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="numbers it then computes in")
    parser.add_argument("--prompt", action="append", help="instead of the configured one; may be given again")
    parser.add_argument("--verify", action="store_true", help="read every byte of what is there, not sizes only")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-secret", metavar="NAME", help="projects/PROJECT/secrets/SECRET/versions/VERSION")
    token.add_argument("--token-file", type=Path, help="with the hub's token; default: HF_TOKEN")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    logging.getLogger("serve_app").setLevel(logging.INFO)
    try:
        run(options, load_settings())
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        return FIX
    except PawfectError as error:
        print(error.message, file=sys.stderr)
        return RETRY
    return 0


if __name__ == "__main__":
    sys.exit(main())
