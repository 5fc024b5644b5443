"""Finding a checkpoint: in a folder, in a mirror, and from a hub that speaks the real one's protocol over HTTP."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.flux.checkpoint import HUB, WHOLE_BYTES, Checkpoint, Part, find_checkpoint
from serve_app.flux.spec import SPECS
from tests.model_hub import ModelHub, direct_to

FILL = SPECS["flux-fill-dev"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
BOTH = Part.IMAGE | Part.TEXT


def find(folder: Path, needs: Part = BOTH) -> Checkpoint:
    return find_checkpoint(FILL, str(folder), needs=needs, mirror=None, cache=None, token=None)


@pytest.fixture
def copy(tiny_fill: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_fill, tmp_path / "copy")


# -- a local folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needs", [Part.IMAGE, Part.TEXT, BOTH])
def test_a_whole_folder_is_found_and_known_by_the_same_revision_on_every_side(tiny_fill: Path, needs: Part) -> None:
    found = find(tiny_fill, needs)
    assert found.folder == tiny_fill
    assert found.revision == find(tiny_fill).revision
    assert len(found.revision) == 16
    assert int(found.revision, 16) >= 0


def test_a_copy_has_the_same_revision(tiny_fill: Path, copy: Path) -> None:
    (copy / "text_encoder" / ".cache").mkdir()
    (copy / "text_encoder" / ".cache" / "download.lock").write_text("left behind by a tool")
    (copy / "README.md").write_text("a note")
    assert find(copy).revision == find(tiny_fill).revision


def test_another_transformer_leaves_the_embeddings_valid(copy: Path) -> None:
    before = find(copy).revision
    (copy / "transformer" / WEIGHTS).write_bytes(b"others")
    assert find(copy).revision == before


@pytest.mark.parametrize("file", ["tokenizer/tokenizer.json", "text_encoder_2/model.safetensors"])
def test_another_byte_in_the_encoders_is_another_revision(copy: Path, file: str) -> None:
    before = find(copy).revision
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    assert find(copy).revision != before


def test_another_name_is_another_revision(copy: Path) -> None:
    (copy / "tokenizer_2" / "added_tokens.json").write_text("{}")
    before = find(copy).revision
    (copy / "tokenizer_2" / "added_tokens.json").rename(copy / "tokenizer_2" / "special_tokens_map.json")
    assert find(copy).revision != before


@pytest.mark.parametrize("change", [0, WHOLE_BYTES - 1, 4 * WHOLE_BYTES - 1, None])
def test_a_large_file_counts_with_its_ends_and_its_size(copy: Path, change: int | None) -> None:
    file = copy / "text_encoder_2" / "model.safetensors"
    content = bytearray(4 * WHOLE_BYTES)
    file.write_bytes(content)
    before = find(copy).revision
    if change is None:
        content += b"\0"
    else:
        content[change] = 1
    file.write_bytes(content)
    assert find(copy).revision != before


def test_a_folder_without_encoders_serves_the_image_side_under_a_revision_of_its_own(
    tiny_fill: Path, copy: Path
) -> None:
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(copy / name)
    revision = find(copy, Part.IMAGE).revision
    assert revision != find(tiny_fill).revision
    with pytest.raises(ConfigurationError, match=r"lacks text_encoder/config\.json, text_encoder/model\.safetensors,"):
        find(copy, Part.TEXT)
    (copy / "scheduler" / "scheduler_config.json").write_text("{}")
    assert find(copy, Part.IMAGE).revision != revision


def test_a_folder_of_encoders_alone_serves_the_text_side_under_the_same_revision(tiny_fill: Path, copy: Path) -> None:
    for name in ("transformer", "vae", "scheduler"):
        shutil.rmtree(copy / name)
    assert find(copy, Part.TEXT).revision == find(tiny_fill).revision
    with pytest.raises(ConfigurationError, match=r"lacks transformer/config\.json.*vae/.*scheduler/scheduler_config"):
        find(copy, Part.IMAGE)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("model_index.json", "lacks model_index.json."),
        ("vae/config.json", "lacks vae/config.json."),
        (f"transformer/{WEIGHTS}", f"lacks transformer/{WEIGHTS}."),
        ("scheduler/scheduler_config.json", "lacks scheduler/scheduler_config.json."),
        ("tokenizer/tokenizer.json", "lacks tokenizer/tokenizer.json or vocab.json."),
        ("tokenizer_2/tokenizer.json", "lacks tokenizer_2/tokenizer.json or spiece.model."),
        ("text_encoder_2/model.safetensors", "lacks text_encoder_2/model.safetensors."),
    ],
)
def test_what_a_folder_lacks_is_named(copy: Path, lost: str, named: str) -> None:
    (copy / lost).unlink()
    with pytest.raises(ConfigurationError) as caught:
        find(copy)
    assert caught.value.message.endswith(named)


def test_weights_may_lie_in_shards_and_every_one_is_needed(copy: Path) -> None:
    folder = copy / "transformer"
    (folder / WEIGHTS).rename(folder / "1.safetensors")
    (folder / "2.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert find(copy).folder == copy
    (folder / "2.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"lacks transformer/2\.safetensors\.$"):
        find(copy)


@pytest.mark.parametrize("content", ["", "[]", '{"weights": {}}', '{"weight_map": ["a"]}'])
def test_an_index_that_is_none_is_named(copy: Path, content: str) -> None:
    index = copy / "vae" / f"{WEIGHTS}.index.json"
    (copy / "vae" / WEIGHTS).unlink()
    index.write_text(content)
    with pytest.raises(ConfigurationError, match=f"{index} is not an index of weights"):
        find(copy)


def test_no_folder_is_answered_with_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no folder .*nowhere; give one in diffusers' layout, or the word 'hub'"
    ):
        find(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_read_may_pass(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").symlink_to(tmp_path / ("x" * 300))  # the name is too long for the file system
    with pytest.raises(WeightsUnavailable, match="flux-fill-dev cannot be read"):
        find(tmp_path)


# -- the hub ---------------------------------------------------------------------------------------------------------


def fetch(cache: Path, *, needs: Part = Part.TEXT, mirror: Path | None = None, token: str | None = None) -> Checkpoint:
    return find_checkpoint(FILL, HUB, needs=needs, mirror=mirror, cache=cache, token=token)


@pytest.mark.parametrize("needs", [Part.IMAGE, Part.TEXT])
def test_only_what_is_needed_comes_from_the_hub(tiny_fill: Path, tmp_path: Path, hub: ModelHub, needs: Part) -> None:
    found = fetch(tmp_path, needs=needs, token="hf_secret")
    assert found.revision == FILL.revision
    assert found.folder.is_relative_to(tmp_path)
    folders = {
        Part.IMAGE: {"transformer", "vae", "scheduler"},
        Part.TEXT: {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"},
    }[needs]
    wanted = {name for name in hub.files if name.split("/")[0] in folders or name == "model_index.json"}
    assert hub.asked_for() == wanted
    assert all((found.folder / name).read_bytes() == (tiny_fill / name).read_bytes() for name in wanted)
    assert {token for path, token in hub.requests if FILL.repo in path} == {"Bearer hf_secret"}


def test_what_came_once_is_found_again_while_the_hub_is_away(tmp_path: Path, hub: ModelHub) -> None:
    first = fetch(tmp_path)
    hub.refuse = lambda path: (503, "")
    assert fetch(tmp_path) == first
    with pytest.raises(WeightsUnavailable):
        fetch(tmp_path, needs=Part.IMAGE)


def test_a_whole_mirror_keeps_the_hub_out(tiny_fill: Path, tmp_path: Path, hub: ModelHub) -> None:
    folder = tmp_path / "mirror" / FILL.repo / FILL.revision
    shutil.copytree(tiny_fill, folder)
    assert fetch(tmp_path / "cache", mirror=tmp_path / "mirror", needs=BOTH) == Checkpoint(folder, FILL.revision)
    assert hub.requests == []


def test_a_mirror_with_gaps_is_passed_over_and_said_so(
    tiny_fill: Path, tmp_path: Path, hub: ModelHub, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mirror" / FILL.repo / FILL.revision
    shutil.copytree(tiny_fill, folder)
    (folder / "text_encoder" / "model.safetensors").unlink()
    found = fetch(tmp_path / "cache", mirror=tmp_path / "mirror")
    assert found.folder.is_relative_to(tmp_path / "cache")
    assert "lacks text_encoder/model.safetensors: asking the hub" in caplog.text
    hub.requests.clear()
    assert fetch(tmp_path / "cache", mirror=tmp_path / "mirror", needs=Part.IMAGE).folder == folder
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "GatedRepo"), (403, "GatedRepo"), (401, "RepoNotFound"), (404, "RepoNotFound"), (401, ""), (403, "")],
)
@pytest.mark.parametrize("place", ["/api/", "/resolve/"])
def test_a_refusal_says_what_to_do(tmp_path: Path, hub: ModelHub, place: str, status: int, code: str) -> None:
    hub.refuse = lambda path: (status, code) if place in path else None
    with pytest.raises(ConfigurationError) as caught:
        fetch(tmp_path)
    assert caught.value.message.startswith(f"The hub does not give us {FILL.repo}. Its licence (FLUX.1 [dev]")
    assert "must be accepted" in caught.value.message
    assert "HF_TOKEN" in caught.value.message


def test_an_unknown_revision_is_permanent(tmp_path: Path, hub: ModelHub) -> None:
    hub.refuse = lambda path: (404, "RevisionNotFound")
    with pytest.raises(ConfigurationError, match=f"{FILL.repo} has no revision {FILL.revision} on the hub"):
        fetch(tmp_path)


@pytest.mark.parametrize("place", ["/api/", "/resolve/"])
def test_a_hub_in_trouble_is_transient(tmp_path: Path, hub: ModelHub, place: str) -> None:
    hub.refuse = lambda path: (500, "") if place in path else None
    with pytest.raises(WeightsUnavailable, match=f"{FILL.repo} could not be fetched from the hub: .*Error: "):
        fetch(tmp_path)


def test_a_hub_out_of_reach_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(WeightsUnavailable, match=r"could not be fetched from the hub: .*Connection refused"):
        fetch(tmp_path)


def test_a_repository_with_gaps_is_named_and_asked_again(tmp_path: Path, hub: ModelHub) -> None:
    lost = hub.files.pop("tokenizer_2/tokenizer.json")
    with pytest.raises(WeightsUnavailable, match=r"did not come whole .* lacks tokenizer_2/tokenizer\.json or spiece"):
        fetch(tmp_path / "early")
    hub.files["tokenizer_2/tokenizer.json"] = lost
    assert fetch(tmp_path / "late").revision == FILL.revision


def test_a_disk_that_takes_nothing_is_transient(tmp_path: Path, hub: ModelHub) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsUnavailable, match="could not be fetched"):
        fetch(tmp_path / "file" / "cache")


@pytest.mark.parametrize("revision", ["main", "358293d", ""])
def test_nothing_unpinned_is_ever_asked_for(tmp_path: Path, hub: ModelHub, revision: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is '{revision}'; give a commit"):
        find_checkpoint(replace(FILL, revision=revision), HUB, needs=BOTH, mirror=tmp_path, cache=tmp_path, token=None)
    assert hub.requests == []
