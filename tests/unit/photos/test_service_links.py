"""Links that the service signs itself: what they allow, and that nobody else can make one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from serve_app.errors import ConfigurationError, Forbidden, Gone
from serve_app.photos.links import check_path, write_disposition
from serve_app.photos.service_links import KEY_BYTES, Grant, ServiceLinks, open_key
from serve_app.settings_headshots import LinkSettings
from tests.tokens import NOW, HandClock

PATH = "headshots/outputs/job-1/outputs/print.png"
BASE = "https://pets.example"


def make_links(key: bytes = bytes(KEY_BYTES), **settings: int) -> ServiceLinks:
    return ServiceLinks(key, BASE, LinkSettings(**settings), HandClock())


def verify(links: ServiceLinks, method: str, url: str, now: float = NOW) -> Grant:
    """As the route does: the path decoded, the query as it is."""
    path, _, query = url.removeprefix(f"{BASE}/files/").partition("?")
    return links.verify(method, unquote(path), query, now)


async def test_a_download_allows_what_it_was_signed_for() -> None:
    links = make_links(download_ttl_s=60)
    link = await links.sign_download(PATH, "image/png", "print.png")
    assert link.expires_at == NOW + 60
    assert link.url.startswith(f"{BASE}/files/{PATH}?expires={NOW + 60}&")
    for method in ("GET", "HEAD"):
        assert verify(links, method, link.url) == Grant(PATH, "image/png", "print.png", 0, NOW + 60)


async def test_an_upload_allows_what_it_was_signed_for() -> None:
    links = make_links(upload_ttl_s=30)
    link = await links.sign_upload(PATH, "image/heic", 1000)
    assert (link.method, link.headers, link.expires_at) == ("PUT", {"Content-Type": "image/heic"}, NOW + 30)
    assert verify(links, "PUT", link.url) == Grant(PATH, "image/heic", "", 1000, NOW + 30)


@pytest.mark.parametrize(
    "name", ["a b.png", "Fußgänger ☃.png", "100%.png", "a+b&c=d;e.png", "?#.png", "%2e%2e", "~'()*!", "...", "a\\b"]
)
async def test_odd_names_are_encoded_and_come_back(name: str) -> None:
    links = make_links()
    path = f"headshots/originals/{name}"
    link = await links.sign_download(path, "image/png", name)
    assert re.fullmatch(r"[!-~]+", link.url)
    assert urlsplit(link.url).fragment == ""
    grant = verify(links, "GET", link.url)
    assert (grant.path, grant.file_name) == (path, name)


async def test_no_single_character_can_be_changed_dropped_or_added() -> None:
    links = make_links()
    download = await links.sign_download(PATH, "image/png", "print.png")
    upload = await links.sign_upload(PATH, "image/png", 1000)
    refused = 0
    for method, url in (("GET", download.url), ("PUT", upload.url)):
        for i in range(len(f"{BASE}/files/"), len(url)):
            flipped = url[i].swapcase() if url[i].isalpha() else chr(ord(url[i]) ^ 1)
            for changed in (url[:i] + flipped + url[i + 1 :], url[:i] + url[i + 1 :], url[:i] + "0" + url[i:]):
                if changed == url:
                    continue
                with pytest.raises(Forbidden, match="not signed by this service"):
                    verify(links, method, changed)
                refused += 1
    assert refused > 800


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "get", "PATCH", ""])
async def test_a_download_allows_no_other_method(method: str) -> None:
    link = await make_links().sign_download(PATH, "image/png", "print.png")
    with pytest.raises(Forbidden):
        verify(make_links(), method, link.url)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_an_upload_allows_no_other_method(method: str) -> None:
    link = await make_links().sign_upload(PATH, "image/png", 1000)
    with pytest.raises(Forbidden):
        verify(make_links(), method, link.url)


@pytest.mark.parametrize(
    "path",
    [
        "headshots/outputs/job-2/outputs/print.png",
        PATH + "/",
        "/" + PATH,
        "./" + PATH,
        PATH.replace("/outputs/print", "/outputs/../outputs/print"),
        PATH.replace("/", "//", 1),
        PATH.upper(),
        PATH + "\0",
        "",
        "..",
        "../link.key",
    ],
)
async def test_a_signature_is_for_one_path(path: str) -> None:
    links = make_links()
    query = (await links.sign_download(PATH, "image/png", "print.png")).url.partition("?")[2]
    with pytest.raises(Forbidden):
        links.verify("GET", path, query, NOW)


def rewrite(url: str, change: str) -> str:
    base, _, query = url.partition("?")
    expires, kind, name, signature = query.split("&")
    queries = {
        "swapped": [kind, expires, name, signature],
        "signature first": [signature, expires, kind, name],
        "doubled first": [f"expires={NOW * 2}", expires, kind, name, signature],
        "doubled in the middle": [expires, f"expires={NOW * 2}", kind, name, signature],
        "doubled last": [expires, kind, name, signature, f"expires={NOW * 2}"],
        "two signatures": [expires, kind, name, signature, signature],
        "a parameter more": [expires, kind, name, "limit=9", signature],
        "one behind": [expires, kind, name, signature, "x=y"],
        "one less": [expires, kind, signature],
        "an empty one": [expires, kind, "", name, signature],
        "encoded name": [expires, kind, name.replace("name", "n%61me"), signature],
        "lower-case escape": [expires, kind.replace("%2F", "%2f"), name, signature],
        "no escape": [expires, kind.replace("%2F", "/"), name, signature],
        "escape where none is": [expires, kind, name.replace(".", "%2E"), signature],
        "unicode digits": [expires.replace("1", "١"), kind, name, signature],
        "plus": [expires.replace("=", "=+"), kind, name, signature],
        "space": [expires, kind, name, signature + " "],
        "leading zero": [expires.replace("=", "=0"), kind, name, signature],
        "upper-case signature": [expires, kind, name, "signature=" + signature.partition("=")[2].upper()],
        "no signature": [expires, kind, name],
        "empty signature": [expires, kind, name, "signature="],
        "unicode signature": [expires, kind, name, "signature=é"],
        "surrogate signature": [expires, kind, name, "signature=\udcff"],
        "nothing": [],
    }
    return base + "?" + "&".join(queries[change])


CHANGES = re.findall(r'^        "(.+?)": \[', Path(__file__).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_query_has_one_spelling(change: str) -> None:
    links = make_links()
    link = await links.sign_download(PATH, "image/png", "print.png")
    assert verify(links, "GET", link.url)
    with pytest.raises(Forbidden):
        verify(links, "GET", rewrite(link.url, change))


async def test_what_two_links_mean_cannot_be_shifted_between_path_and_query() -> None:
    links = make_links()
    query = (await links.sign_download("a", "image/png", 'b", "c')).url.partition("?")[2]
    for method, path in (('GET", "a', ""), ("GET", 'a", "'), ("GETa", "")):
        with pytest.raises(Forbidden):
            links.verify(method, path, query, NOW)


async def test_another_key_signs_nothing_here() -> None:
    link = await make_links(b"1" * KEY_BYTES).sign_download(PATH, "image/png", "print.png")
    with pytest.raises(Forbidden):
        verify(make_links(b"2" * KEY_BYTES), "GET", link.url)


async def test_a_link_ends_at_its_second_and_only_a_signed_one_says_so() -> None:
    links = make_links(download_ttl_s=60)
    link = await links.sign_download(PATH, "image/png", "print.png")
    assert verify(links, "GET", link.url, NOW + 59.999)
    for now in (NOW + 60, NOW + 60.001, NOW + 10**9):
        with pytest.raises(Gone, match=r"has expired; ask for a new one\.$"):
            verify(links, "GET", link.url, now)
    with pytest.raises(Forbidden):
        verify(links, "GET", link.url.replace("print.png", "other.png"), NOW + 10**9)


async def test_a_lifetime_is_counted_from_the_whole_second() -> None:
    clock = HandClock()
    clock.time = NOW + 0.9
    link = await ServiceLinks(bytes(KEY_BYTES), BASE, LinkSettings(download_ttl_s=1), clock).sign_download(
        PATH, "image/png", "x"
    )
    assert link.expires_at == NOW + 1


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0", "\udcff"])
async def test_what_is_no_path_is_not_signed(path: str) -> None:
    with pytest.raises(ValueError, match="not an object path"):
        check_path(path)
    with pytest.raises(ValueError, match="not an object path"):
        await make_links().sign_download(path, "image/png", "x")
    with pytest.raises(ValueError, match="not an object path"):
        await make_links().sign_upload(path, "image/png", 1)


@pytest.mark.parametrize("kind", ["", "png", "image/", "image/png\r\nSet-Cookie: a=b", "image/png; charset=x", "ä/b"])
async def test_what_is_no_media_type_is_not_signed(kind: str) -> None:
    with pytest.raises(ValueError, match="not a media type"):
        await make_links().sign_download(PATH, kind, "x")
    with pytest.raises(ValueError, match="not a media type"):
        await make_links().sign_upload(PATH, kind, 1)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("print.png", 'inline; filename="print.png"'),
        ("a b.png", 'inline; filename="a b.png"'),
        ('a"b\r\nX: y', "inline; filename=\"a_b__X: y\"; filename*=UTF-8''a%22b%0D%0AX%3A%20y"),
        ("ü.png", "inline; filename=\"_.png\"; filename*=UTF-8''%C3%BC.png"),
    ],
)
def test_a_file_name_stays_inside_its_header(name: str, header: str) -> None:
    assert write_disposition(name) == header


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "data" / "link.key"
    key = open_key(file)
    assert len(key) == KEY_BYTES
    assert file.read_bytes() == key == open_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in file.parent.iterdir()] == ["link.key"]
    assert open_key(tmp_path / "other" / "link.key") != key


def test_processes_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    """They wait for one moment, and each says which key it has got."""
    code = (
        "import sys, time; from pathlib import Path; from serve_app.photos.service_links import open_key\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); print(open_key(Path(sys.argv[1])).hex())"
    )
    for attempt in range(3):
        file = tmp_path / str(attempt) / "link.key"
        moment = str(time.time() + 1.5)
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(file), moment], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        keys = {process.communicate(timeout=60)[0].strip() for process in running}
        assert keys == {file.read_bytes().hex()}


def test_a_loser_of_the_race_takes_the_winners_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process comes between the look and the making."""
    file = tmp_path / "link.key"
    winner = bytes(range(KEY_BYTES))

    def draw(size: int) -> bytes:
        file.write_bytes(winner)
        return bytes(size)

    monkeypatch.setattr("serve_app.photos.service_links.secrets.token_bytes", draw)
    assert open_key(file) == winner


@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_BYTES + 1), bytes(10_000)])
def test_a_key_of_another_length_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "link.key"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"link\.key has \d+ bytes where the links' key has 32; remove it"):
        open_key(file)
    assert file.read_bytes() == content


def test_a_key_that_cannot_be_had_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "link.key").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be had: Is a directory"):
        open_key(tmp_path / "link.key")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be had"):
        open_key(tmp_path / "file" / "link.key")


async def test_paths_are_quoted_but_for_their_slashes() -> None:
    link = await make_links().sign_download("a b/c&d", "image/png", "x")
    assert f"/files/{quote('a b')}/c%26d?" in link.url
