"""Downloaded programs: pinned by our own checksums, and refused when one byte differs."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from pathlib import Path

import pytest

from sandbox.servers import jars
from sandbox.servers.processes import ServerError, StartCancelledError

ONE, TWO = "example.group:one:1.0", "example.group:two:2.0:all:zip"
FILES = {"one-1.0.jar": b"first", "two-2.0-all.zip": b"second"}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> jars.Bundle:
    """A bundle of two files, downloaded by copying them."""
    made = jars.Bundle("example", "Example", "1.0", (jars.Coordinates.parse(ONE),))
    checksums = tmp_path / "example.sha256"
    checksums.write_text(f"{_sha256(b'first')}  {ONE}\n{_sha256(b'second')}  {TWO}\n", encoding="ascii")
    monkeypatch.setattr(jars.Bundle, "checksum_path", checksums)
    monkeypatch.setenv(jars.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "_download_apart", _copy)
    return made


def _copy(_bundle: jars.Bundle, partial: Path, _cancel: threading.Event | None) -> None:
    (partial / "files").mkdir()
    for name, content in FILES.items():
        (partial / "files" / name).write_bytes(content)


def test_what_is_cached_is_not_downloaded_again(bundle: jars.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = jars.installed(bundle)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES

    def offline(*_: object) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(jars, "_download_apart", offline)
    assert jars.installed(bundle) == folder


@pytest.mark.parametrize("damage", ["changed", "missing", "additional"])
def test_a_tampered_cache_is_refused(bundle: jars.Bundle, damage: str) -> None:
    folder = jars.installed(bundle)
    if damage == "changed":
        (folder / "one-1.0.jar").write_bytes(b"First")
    elif damage == "missing":
        (folder / "one-1.0.jar").unlink()
    else:
        (folder / "extra.jar").write_bytes(b"on the class path by a wildcard")
    with pytest.raises(jars.ChecksumError, match="Nothing was started"):
        jars.installed(bundle)


def test_a_tampered_download_never_reaches_the_cache(bundle: jars.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "one-1.0.jar", b"other")
    with pytest.raises(jars.ChecksumError, match=r"one-1\.0\.jar"):
        jars.installed(bundle)
    assert [path.name for path in jars.cache_directory().iterdir()] == ["example.lock"]


def test_what_an_interrupted_download_left_is_removed(bundle: jars.Bundle) -> None:
    stale = jars.cache_directory() / "example.partial-left"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"half")
    jars.installed(bundle)
    assert not stale.exists()


def test_the_second_of_two_waits_for_the_first_and_can_be_told_to_stop(bundle: jars.Bundle) -> None:
    jars.cache_directory().mkdir(parents=True)
    cancel = threading.Event()
    with jars._only_one(jars.cache_directory() / "example.lock", bundle, None):
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(StartCancelledError):
            jars.installed(bundle, cancel=cancel)


def test_an_unpacked_archive_is_checked_as_a_tree(tmp_path: Path) -> None:
    (tmp_path / "a" / "lib").mkdir(parents=True)
    (tmp_path / "a" / "lib" / "one.jar").write_bytes(b"one")
    before = jars.tree_sha256(tmp_path / "a")
    (tmp_path / "a" / "lib" / "one.jar").rename(tmp_path / "a" / "one.jar")
    assert jars.tree_sha256(tmp_path / "a") != before


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(jars.ChecksumError, match="does not belong"):
        jars.unpack(archive, tmp_path / "inside")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    "text",
    ["", "no checksum", f"{'0' * 63}  {ONE}\n", f"{'0' * 64} {ONE}\n", f"{'0' * 64}  {ONE}\n{'1' * 64}  {ONE}\n"],
)
def test_a_damaged_checksum_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.sha256"
    path.write_text(text, encoding="ascii")
    with pytest.raises(ServerError):
        jars.read_checksums(path)


@pytest.mark.parametrize("bundle", jars.BUNDLES.values(), ids=jars.BUNDLES)
def test_the_committed_checksum_files_name_files_and_no_addresses(bundle: jars.Bundle) -> None:
    text = bundle.checksum_path.read_text(encoding="ascii")
    assert "/" not in text
    names = [name for name in jars.read_checksums(bundle.checksum_path) if name != jars.UNPACKED]
    items = [jars.Coordinates.parse(name) for name in names]
    assert [str(item) for item in items] == names
    assert set(bundle.roots) <= set(items)
    file_names = {item.file_name for item in items}
    assert len(file_names) == len(items), "two files would overwrite each other"
    if not bundle.is_archive:
        kafka_versions = {item.version for item in items if item.group == "org.apache.kafka"}
        assert kafka_versions == {bundle.version}


def test_coordinates_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="not Maven coordinates"):
        jars.Coordinates.parse("group:artifact")
