"""Showing the dead letters and sending chosen ones back: `python -m pawfect.replay [--id ID … | --all]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from pawfect.dead_letters import Letter, Source, StoredLetters, SubscriptionLetters
from serve_app.errors import ConfigurationError, PawfectError, StoreUnavailable
from serve_app.google_clients import make_clients
from serve_app.jobs.sqlite_database import SqliteDatabase
from serve_app.settings import Settings, load_settings

SUBSCRIPTION = "session-processing-dead-letter-replay"
COLUMNS = (("SESSION", 40), ("REASON", 24), ("MESSAGE", 80))
"""Beside the id, with the most characters that are shown."""


async def replay(source: Source, ids: Collection[str] = (), *, everything: bool = False) -> int:
    """Show what is there and send back the chosen ones. Returns 0 when every chosen letter went back, else 1."""
    try:
        letters = await source.look()
        print_table(letters)
        chosen = [letter for letter in letters if everything or letter.id in ids]
        results = await asyncio.gather(*(_send(source, letter) for letter in chosen))
        unknown = sorted(set(ids) - {letter.id for letter in letters})
        for letter_id in unknown:
            print(f"there is no dead letter {letter_id}")
        if chosen:
            print(f"{sum(results)} of {len(chosen)} sent back")
        return 0 if all(results) and not unknown else 1
    finally:
        await source.release()


async def _send(source: Source, letter: Letter) -> bool:
    if not letter.replayable:
        print(f"{letter.id}: its data was too large to keep; publish it again from where it came.")
        return False
    try:
        await source.send_back(letter)
    except StoreUnavailable as error:
        print(f"{letter.id}: {error.message}")
        return False
    return True


def print_table(letters: Sequence[Letter]) -> None:
    if not letters:
        print("no dead letters")
        return
    rows = [["ID", *(name for name, _ in COLUMNS)]]
    for letter in letters:
        cells = zip((letter.session, letter.reason, letter.message), COLUMNS, strict=True)
        # An id is there to be copied, so it is never cut.
        rows.append([letter.id, *(_shorten(cell, most) for cell, (_, most) in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _shorten(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


@asynccontextmanager
async def open_source(settings: Settings, subscription: str, topic: str, url: str) -> AsyncIterator[Source]:
    """Raises ConfigurationError."""
    if settings.env == "local":
        path = settings.data_dir.expanduser().resolve() / "pawfect.db"
        if not path.is_file():
            raise ConfigurationError(f"There is no database {path}; name the service's data folder with --data.")
        database = SqliteDatabase(path)
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                yield StoredLetters(database, http)
        finally:
            database.close()
        return
    clients = make_clients(settings)
    try:
        yield SubscriptionLetters(
            clients.subscriber,
            clients.publisher,
            clients.subscription(subscription),
            clients.topic(topic),
            clients.topic(settings.google.headshot_topic),
            settings.google,
        )
    finally:
        await clients.close()


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    url = options.url or f"http://127.0.0.1:{settings.port}"
    async with open_source(settings, options.subscription, options.topic or settings.google.topic, url) as source:
        return await replay(source, options.id, everything=options.all)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("replay", description="Show the dead letters, and send chosen ones back.")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--id", nargs="+", default=[], help="send these back")
    chosen.add_argument("--all", action="store_true", help="send all of them back")
    parser.add_argument("--subscription", default=SUBSCRIPTION, help=f"gcp: where they wait (default: {SUBSCRIPTION})")
    parser.add_argument("--topic", help="gcp: where they go back to (default: PAWFECT_GOOGLE__TOPIC)")
    parser.add_argument("--url", help="local: the running service (default: the configured port of this machine)")
    parser.add_argument("--data", type=Path, help="local: the service's data folder (default: PAWFECT_DATA_DIR)")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(**({} if options.data is None else {"data_dir": options.data}))
        return asyncio.run(_run(settings, options))
    except PawfectError as error:
        print(f"cannot replay: {error.message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
