"""A local server plays the official address."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest
from click.testing import CliRunner

from smt_plugin.benchmarks import download as downloads
from smt_plugin.benchmarks import names
from smt_plugin.benchmarks.download import blob_id, download
from smt_plugin.benchmarks.find import load, official_of
from smt_plugin.benchmarks.official import Official
from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from tests.file_server import Files, serve_files
from tests.official_data import write_financebench, write_longhealth, write_pdf
from tests.quality_data import write_official

STORY = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def _own_cache_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS", 0.01)
    for name in names():
        monkeypatch.delenv(f"SMT_{name.upper()}_DIR", raising=False)


def blob_of(folder: Path, content: bytes) -> str:
    (folder / "content").write_bytes(content)
    return blob_id(folder / "content")


@pytest.fixture
def story(tmp_path: Path) -> Iterator[tuple[Files, dict[str, str | None]]]:
    with serve_files({"s/story": STORY}) as files:
        yield files, {"s/story": blob_of(tmp_path, STORY)}


def test_a_blob_id_is_gits(tmp_path: Path) -> None:
    assert blob_of(tmp_path, b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_transfer_that_breaks_off_goes_on_from_where_it_was(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]]
) -> None:
    files, wanted = story
    files.breaks = 2
    download(files.url, wanted, tmp_path / "into")
    assert (tmp_path / "into" / "s" / "story").read_bytes() == STORY
    assert [start for _, start in files.asked] == [None, "bytes=512000-", "bytes=768000-"]
    assert files.sent == len(STORY)
    assert not list((tmp_path / "into").rglob("*.partial"))


def test_a_call_that_fails_leaves_its_part_for_the_next_and_what_is_there_is_not_asked_for(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]]
) -> None:
    files, wanted = story
    files.breaks = downloads.ATTEMPTS
    with pytest.raises(BadInput, match="s/story cannot be fetched"):
        download(files.url, wanted, tmp_path / "into")
    assert not (tmp_path / "into" / "s" / "story").exists()
    before = files.sent
    download(files.url, wanted, tmp_path / "into")
    assert files.sent - before == len(STORY) - before < len(STORY) / 2
    asked = len(files.asked)
    download(files.url, wanted, tmp_path / "into")
    assert len(files.asked) == asked


def test_a_wrong_checksum_is_named_and_the_file_thrown_away(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]]
) -> None:
    files, wanted = story
    files.content["s/story"] = STORY[:-1] + b"x"
    with pytest.raises(BadInput, match=f"s/story has the wrong checksum .* not {wanted['s/story']}"):
        download(files.url, wanted, tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").rglob("*")] == ["s"]
    files.content["s/story"] = STORY
    download(files.url, wanted, tmp_path / "into")
    assert (tmp_path / "into" / "s" / "story").read_bytes() == STORY


def test_a_part_of_what_is_no_longer_there_does_not_stick(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]]
) -> None:
    files, wanted = story
    partial = tmp_path / "into" / "s" / "story.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * (len(STORY) + 1))
    with pytest.raises(BadInput, match="wrong checksum"):
        download(files.url, wanted, tmp_path / "into")
    download(files.url, wanted, tmp_path / "into")
    assert files.asked == [("s/story", f"bytes={len(STORY) + 1}-"), ("s/story", None)]


def test_a_refusal_is_final_and_a_server_error_is_not(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]]
) -> None:
    files, wanted = story
    for status, asked in ((404, 1), (503, downloads.ATTEMPTS)):
        files.asked.clear()
        files.statuses["s/story"] = status
        with pytest.raises(BadInput, match=f"cannot be fetched .*{status}"):
            download(files.url, wanted, tmp_path / "into")
        assert len(files.asked) == asked


def official(monkeypatch: pytest.MonkeyPatch, name: str, url: str, folder: Path, **changes: object) -> Official:
    """Let `url` be the official address of a benchmark whose files are those in `folder`."""
    blobs = {path.relative_to(folder).as_posix(): blob_id(path) for path in folder.rglob("*") if path.is_file()}
    known = official_of(name)
    assert known is not None
    mine = replace(known, **{"address": url, "downloads": blobs, **changes})  # type: ignore[arg-type]
    monkeypatch.setattr(f"smt_plugin.benchmarks.{name}.OFFICIAL", mine)
    return mine


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_any_folder_the_official_files_are_fetched_once_and_source_and_licence_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_official(tmp_path / "source")
    with serve_files(contents(source)) as files:
        official(monkeypatch, "quality", files.url, source, documents=4, questions=8)
        assert load("quality") == load("quality", source)
        said = capsys.readouterr().err
        assert "smt: fetching quality from https://github.com/nyu-mll/quality" in said
        assert "licence: CC BY 4.0" in said
        assert len(files.asked) == 2
        load("quality")
        assert len(files.asked) == 2
        assert capsys.readouterr().err == ""
        result = CliRunner().invoke(cli, ["benchmark", "quality"])
    assert f"8 questions about 4 documents in {tmp_path / 'cache' / 'smt-plugin' / 'quality'}" in result.output
    assert "licence: CC BY 4.0" in result.output


def test_financebenchs_filings_come_with_it_and_those_that_are_missing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write_financebench(source / "data")
    for name in ("SALTWORKS_2019_10K", "KITEMILL_2023Q2_10Q"):
        write_pdf(source / "pdfs" / f"{name}.pdf", [f"Leaf {n} of {name}" for n in range(3)])
    with serve_files(contents(source)) as files:
        official(monkeypatch, "financebench", files.url, source, documents=2, questions=3)
        documents, _ = load("financebench")
        assert documents == load("financebench", source)[0]
        assert {document.meta["pages"] for document in documents} == {"all"}
        (tmp_path / "cache" / "smt-plugin" / "financebench" / "pdfs" / "SALTWORKS_2019_10K.pdf").unlink()
        files.asked.clear()
        load("financebench")
        assert files.asked == [("pdfs/SALTWORKS_2019_10K.pdf", None)]


def test_a_file_without_a_known_checksum_is_checked_by_its_counts_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_longhealth(tmp_path / "source")
    with serve_files(contents(source)) as files:
        blobs = {"benchmark_v5.json": None}
        official(monkeypatch, "longhealth", files.url, source, downloads=blobs)
        with pytest.raises(
            BadInput,
            match="thrown away, since there should be 400 questions about 20 documents, but there are 4 about 2; no",
        ):
            load("longhealth")
        assert not (tmp_path / "cache" / "smt-plugin" / "longhealth" / "benchmark_v5.json").exists()
        official(monkeypatch, "longhealth", files.url, source, downloads=blobs, documents=2, questions=4)
        files.breaks = 1
        assert len(load("longhealth")[1]) == 4
        # Never patched together of two transfers.
        assert [start for _, start in files.asked] == [None, None, None]
    assert "no checksum of benchmark_v5.json is known to us; its counts are right" in capsys.readouterr().err


def test_without_a_network_or_with_downloads_switched_off_the_message_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_official(tmp_path / "source")
    official(monkeypatch, "quality", "http://127.0.0.1:9/", source)
    wanted = ("QuALITY.v1.0.1.htmlstripped.train", "SMT_QUALITY_DIR", "--metadata", str(tmp_path / "cache"))
    with pytest.raises(BadInput) as error:
        load("quality")
    for part in ("http://127.0.0.1:9/QuALITY.v1.0.1.htmlstripped", "cannot be fetched", *wanted):
        assert part in str(error.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput) as error:
        load("quality")
    for part in ("HF_HUB_OFFLINE is set", *wanted):
        assert part in str(error.value)


def test_every_official_download_is_complete_and_pinned_where_we_know_the_commit() -> None:
    published = {name: known for name in names() if (known := official_of(name))}
    assert len(published["financebench"].downloads) == 2 + published["financebench"].documents
    for name, known in published.items():
        assert {Path(path).name for path in known.downloads} >= set(known.files)
        assert known.address.startswith("https://")
        assert known.address.endswith("/")
        for path, blob in known.downloads.items():
            assert blob is None or len(bytes.fromhex(blob)) == 20, path
            assert (blob is None) == (name == "longhealth")


def test_a_redirection_from_an_encrypted_address_to_one_that_is_not_is_refused() -> None:
    asked = Request("https://files.example/story")
    for target in ("http://elsewhere.example/story", "ftp://elsewhere.example/story"):
        with pytest.raises(HTTPError, match="which is not encrypted"):
            downloads._Redirects().redirect_request(asked, None, 302, "Found", {}, target)
    followed = downloads._Redirects().redirect_request(asked, None, 302, "Found", {}, "https://elsewhere.example/story")
    assert followed is not None
    assert followed.full_url == "https://elsewhere.example/story"


def test_a_file_without_end_is_given_up(
    tmp_path: Path, story: tuple[Files, dict[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_LARGEST", 100_000)
    files, wanted = story
    with pytest.raises(BadInput, match=r"s/story gives more than 100\.0 kB"):
        download(files.url, wanted, tmp_path / "into")
    assert not list((tmp_path / "into").rglob("story*"))
