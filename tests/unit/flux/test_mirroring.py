"""Filling a mirror from a hub, and what the service makes of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.flux.assembly import load_encoder, load_engine
from serve_app.flux.checkpoint import HUB, Part, find_checkpoint, list_missing, mirror_folder
from serve_app.flux.mirror import GATE, RECORD
from serve_app.flux.mirroring import main
from serve_app.flux.spec import SPECS
from serve_app.metrics import PlainSink
from serve_app.settings_sections import FluxSettings
from serve_app.weights import EMBEDDED, MANIFEST
from tests.model_hub import ModelHub
from tests.unit.flux.test_equality import Listener, make_crop
from tests.unit.flux.test_snapshot import make_request, refuse

FILL = SPECS["flux-fill-dev"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
SNAPSHOT = f"transformer-float8/{WEIGHTS}"
TOKEN = "hf_notashowntoken"
NOBODY = 65534
SNAPSHOT_OPTIONS = ("--quantization", "float8", "--dtype", "float32")  # a CPU computes in float32


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that users without privileges reach, too; pytest's own they do not."""
    with tempfile.TemporaryDirectory(prefix="mirror-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        for each in [path, *path.rglob("*")]:
            each.chmod(0o755)


@pytest.fixture
def run(place: Path) -> Callable[..., int]:
    def run(*options: str) -> int:
        folders = ["--mirror", str(place / "mirror"), "--scratch", str(place / "scratch")]
        return main([*folders, "--model", FILL.name, *options])

    return run


@pytest.fixture
def folder(place: Path) -> Path:
    """Of the model, in the mirror."""
    return mirror_folder(place / "mirror", FILL)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Modes of files mean nothing to root."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)


def forbid_writing(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | 0o444)


def read_tree(root: Path) -> dict[str, tuple[int, str]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_service_loads_from_a_filled_mirror_that_it_cannot_write(
    run: Callable[..., int], place: Path, folder: Path, hub: ModelHub
) -> None:
    assert run(*SNAPSHOT_OPTIONS) == 0
    (folder / "transformer" / WEIGHTS).write_bytes(b"")  # with a snapshot nobody reads it
    forbid_writing(place / "mirror")
    before = read_tree(place / "mirror")
    hub.requests.clear()
    values = {"checkpoints": {FILL.name: HUB}, "device": "cpu", "quantization": "float8", "mirror": place / "mirror"}
    sink, listener = PlainSink(), Listener()
    with unprivileged():
        settings = FluxSettings.model_validate({**values, "prompt_dir": place / "unwritable"})
        engine = load_engine(settings, FILL.name, refuse, sink=sink, token=None)
        engine.submit(make_request(make_crop()), listener.events.put)
        assert listener.image().shape == make_crop().image.shape
        engine.close()
        assert load_encoder(settings, FILL.name, token=None) is not None
    assert sink.value("pawfect_prompts_total", source="disk") == 1
    assert hub.requests == []
    assert read_tree(place / "mirror") == before


def test_what_lies_there_is_what_the_hub_has_of_both_parts(
    run: Callable[..., int], place: Path, folder: Path, hub: ModelHub
) -> None:
    assert run() == 0
    found = find_checkpoint(
        FILL, HUB, needs=Part.IMAGE | Part.TEXT, mirror=place / "mirror", cache=place / "cache", token=None
    )
    assert (found.folder, found.revision) == (folder, FILL.revision)
    names = {name for name in read_tree(folder) if not name.startswith("prompts/")} - {RECORD}
    assert names == {name for name in hub.files if "/" in name or name == GATE}
    assert all((folder / name).read_bytes() == hub.files[name] for name in names)
    assert {token for path, token in hub.requests if FILL.repo in path} == {f"Bearer {TOKEN}"}


def test_a_second_run_does_nothing_and_says_so(
    run: Callable[..., int], place: Path, folder: Path, hub: ModelHub, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(*SNAPSHOT_OPTIONS) == 0
    before = read_tree(folder)
    hub.requests.clear()
    shutil.rmtree(place / "scratch")
    for options in ((), ("--verify",)):
        caplog.clear()
        # A secret that nobody can read: nobody is asked.
        assert run(*SNAPSHOT_OPTIONS, "--token-secret", "projects/p/secrets/s/versions/latest", *options) == 0
        assert caplog.messages == ["flux-fill-dev: whole, nothing to do"]
    assert hub.requests == []
    assert read_tree(folder) == before
    assert not (place / "scratch").exists()


@pytest.mark.parametrize(
    "stuck", ["model_index.json", "transformer-float8/config.json", f"vae/{WEIGHTS}", "tokenizer/tokenizer.json"]
)
def test_an_interrupted_copy_is_never_taken_for_whole_and_gone_on_with(
    run: Callable[..., int], folder: Path, hub: ModelHub, stuck: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / stuck).mkdir(parents=True)  # no file can be written here
    assert run(*SNAPSHOT_OPTIONS) == 1
    assert "cannot be read or written" in capsys.readouterr().err
    for part in Part:
        assert GATE in list_missing(folder, part)
    (folder / stuck).rmdir()
    copied = read_tree(folder)
    hub.requests.clear()
    assert run(*SNAPSHOT_OPTIONS) == 0
    assert hub.asked_for() == set()
    assert (folder / stuck).is_file()
    again = read_tree(folder)
    assert {name: again[name] for name in copied if name != RECORD} == {
        name: row for name, row in copied.items() if name != RECORD
    }
    assert run(*SNAPSHOT_OPTIONS, "--verify") == 0


def test_a_whole_folder_is_not_taken_for_whole_while_it_is_changed(
    run: Callable[..., int], folder: Path, hub: ModelHub
) -> None:
    assert run() == 0
    assert list_missing(folder, Part.IMAGE) == []
    (folder / "transformer-float8" / "config.json").mkdir(parents=True)
    assert run(*SNAPSHOT_OPTIONS) == 1
    assert list_missing(folder, Part.IMAGE) == [GATE]


def test_a_copy_cut_short_is_found_and_mended(run: Callable[..., int], folder: Path, hub: ModelHub) -> None:
    assert run() == 0
    path = folder / "vae" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert run() == 0
    assert path.read_bytes() == hub.files[f"vae/{WEIGHTS}"]


def test_a_copy_with_another_byte_is_found_by_reading_all_of_it(
    run: Callable[..., int], folder: Path, hub: ModelHub, caplog: pytest.LogCaptureFixture
) -> None:
    assert run() == 0
    flip(folder / "vae" / WEIGHTS)
    assert run() == 0
    assert "whole, nothing to do" in caplog.messages[-1]
    assert run("--verify") == 0
    assert f"flux-fill-dev: lacks vae/{WEIGHTS}" in caplog.messages
    assert (folder / "vae" / WEIGHTS).read_bytes() == hub.files[f"vae/{WEIGHTS}"]


@pytest.mark.parametrize("lost", [RECORD, GATE])
def test_a_folder_without_its_record_or_its_last_file_is_not_whole(
    run: Callable[..., int], folder: Path, hub: ModelHub, lost: str
) -> None:
    assert run() == 0
    (folder / lost).unlink()
    before = read_tree(folder)
    assert run() == 0
    after = read_tree(folder)
    assert lost in after
    assert all(after[name] == before[name] for name in before if name not in {RECORD, GATE})


def test_another_wish_is_a_gap(run: Callable[..., int], folder: Path, hub: ModelHub) -> None:
    assert run() == 0
    assert run("--quantization", "float8") == 0
    bfloat16 = (folder / SNAPSHOT).read_bytes()
    assert run(*SNAPSHOT_OPTIONS) == 0
    assert (folder / SNAPSHOT).read_bytes() != bfloat16
    assert run("--prompt", "a cat on sand") == 0
    assert len(list((folder / "prompts").iterdir())) == 2
    (folder / SNAPSHOT).write_bytes(b"damaged")
    assert run(*SNAPSHOT_OPTIONS) == 0
    assert (folder / SNAPSHOT).stat().st_size > 1000


@pytest.mark.parametrize("name", [f"vae/{WEIGHTS}", "tokenizer/tokenizer.json"])
def test_other_bytes_than_the_hub_says_never_reach_the_mirror(
    run: Callable[..., int], folder: Path, hub: ModelHub, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(hub.files[name])
    content[len(content) // 2] ^= 1
    hub.sent[name] = bytes(content)
    assert run() == 1
    assert f"other bytes than it says: {name}" in capsys.readouterr().err
    assert read_tree(folder) == {}
    hub.sent.clear()
    hub.requests.clear()
    assert run() == 0
    assert hub.asked_for() == {name}


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "said"),
    [
        (403, "GatedRepo", 2, "must be accepted"),
        (401, "", 2, "must hold a token"),
        (404, "RevisionNotFound", 2, "has no revision"),
        (500, "", 1, "could not be fetched"),
    ],
)
@pytest.mark.parametrize("where", ["/api/", "/resolve/"])
def test_a_hub_that_refuses_is_said_without_the_token(
    run: Callable[..., int],
    hub: ModelHub,
    status: int,
    code: str,
    exit_code: int,
    said: str,
    where: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.refuse = lambda path: (status, code) if where in path else None
    assert run() == exit_code
    out, err = capfd.readouterr()
    assert said in err
    assert TOKEN not in out + err + caplog.text


def test_a_mirror_that_cannot_be_written_is_said_before_the_hub_is_asked(
    run: Callable[..., int], place: Path, hub: ModelHub, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mirror").mkdir()
    forbid_writing(place / "mirror")
    with unprivileged():
        assert run() == 2
    assert "must not be mounted read-only" in capsys.readouterr().err
    assert hub.requests == []


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    run: Callable[..., int], hub: ModelHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sizes[f"transformer/{WEIGHTS}"] = 10**16
    assert run("--quantization", "float8") == 2
    # the file itself, and half of it again for the snapshot
    assert "on too small a disk" in (said := capsys.readouterr().err)
    assert "1504" in said
    assert hub.asked_for() == set()


def test_the_token_comes_from_a_file(run: Callable[..., int], place: Path, hub: ModelHub) -> None:
    (place / "token").write_text("hf_fromafile\n")
    assert run("--token-file", str(place / "token")) == 0
    assert {token for path, token in hub.requests if FILL.repo in path} == {"Bearer hf_fromafile"}


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), (b" \n", "is empty"), (b"\xff", "cannot be")])
def test_a_file_without_a_token_is_said(
    run: Callable[..., int],
    place: Path,
    hub: ModelHub,
    content: bytes | None,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (place / "token").write_bytes(content)
    assert run("--token-file", str(place / "token")) == 2
    assert said in capfd.readouterr().err
    assert hub.requests == []


@pytest.fixture
def embedded(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Tiny files in place of the pinned ones, which lie on the scratch disk already."""
    contents = {}
    for name in EMBEDDED:
        content = name.encode() * 100
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(MANIFEST, name, replace(MANIFEST[name], sha256=digest, bytes=len(content), sources=()))
        contents[MANIFEST[name].file] = content
        path = place / "scratch" / "embedded" / MANIFEST[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def test_embedded_models_are_put_beside_and_mended(
    place: Path, embedded: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    target = place / "embedded"
    command = ["--mirror", str(place / "mirror"), "--scratch", str(place / "scratch"), "--embedded", str(target)]
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == embedded
    caplog.clear()
    assert main(command) == 0
    assert caplog.messages == ["embedded: whole, nothing to do"]
    first = next(iter(embedded))
    flip(target / first)
    assert main([*command, "--verify"]) == 0
    assert (target / first).read_bytes() == embedded[first]


def test_embedded_models_that_nobody_has_may_pass(
    place: Path, embedded: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place / "scratch")
    command = ["--mirror", str(place / "mirror"), "--scratch", str(place / "scratch"), "--embedded", str(place / "e")]
    assert main(command) == 1
    assert "could not be fetched" in capsys.readouterr().err
