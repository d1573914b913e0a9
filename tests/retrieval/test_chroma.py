import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import chromadb
import orjson
import pytest
from click.testing import CliRunner

from smt_plugin.benchmarks.find import load
from smt_plugin.cli.app import cli
from smt_plugin.config import RetrievalSettings, retrieval_settings
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.question import Question
from smt_plugin.retrieval import index, retrieve
from smt_plugin.retrieval.index import index_key
from smt_plugin.retrieval.retrieve import build_retrieval, read_retrieval, retrieval_key
from tests.endpoint import MODEL, embedding, serve_in_thread
from tests.processes import wait_for
from tests.quality_data import write_own

Data = tuple[list[Document], list[Question]]


class Chroma:
    """A real server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        program = str(Path(sys.executable).parent / "chroma")
        command = [program, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert wait_for(self.answers, 60)

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/api/v2/heartbeat"):
                return True
        except OSError:
            return False

    def collection(self, documents: list[Document], settings: RetrievalSettings) -> Any:
        client = chromadb.HttpClient(host=self.url, settings=chromadb.Settings(anonymized_telemetry=False))
        return client.get_collection(f"smt-{index_key(documents, settings)}", embedding_function=None)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def chroma(tmp_path: Path) -> Iterator[Chroma]:
    server = Chroma(tmp_path / "chroma")
    yield server
    server.stop()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Four stories with eight questions, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load("quality", write_own(tmp_path / "data"))


def ferries(count: int) -> Data:
    documents = [Document(f"d{n}", f"Ferry {n}", f"It brought {n} pears to Holm.") for n in range(count)]
    return documents, [Question("q", "d50", "Which ferry brought pears?", None, "50")]


def test_a_server_gives_the_chunks_and_cosines_that_memory_gives_and_nothing_is_embedded_or_kept_twice(
    chroma: Chroma, tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("dense", "hybrid"):
        build_retrieval(*data, tmp_path / f"{mode}-memory.jsonl", RetrievalSettings(mode=mode, top_k=3))
    at_server = RetrievalSettings(top_k=3, vector_store=chroma.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    manifest = build_retrieval(*data, tmp_path / "dense-server.jsonl", at_server)
    assert (manifest["chunks"], manifest["document_recall@1"]) == (4, 1.0)
    assert not list((tmp_path / "empty" / "smt-plugin").rglob("*"))
    monkeypatch.setattr(index, "_embed", None)
    build_retrieval(*data, tmp_path / "hybrid-server.jsonl", at_server.changed({"mode": "hybrid"}))
    for mode in ("dense", "hybrid"):
        memory, server = (read_retrieval(tmp_path / f"{mode}-{place}.jsonl", data[1]) for place in ("memory", "server"))
        for question_id, chunks in memory.items():
            assert [(c.text, c.page) for c in chunks] == [(c.text, c.page) for c in server[question_id]]
            assert [c.score for c in chunks] == pytest.approx([c.score for c in server[question_id]], abs=2e-6)
    # A whole collection is searched without the documents being cut again.
    monkeypatch.setattr(index, "chunks_of", None)
    assert build_retrieval(*data, tmp_path / "again.jsonl", at_server)["chunks"] == 4
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "dense-server.jsonl").read_bytes()


def test_a_build_that_was_killed_is_never_searched_half_and_goes_on_where_it_stopped(
    chroma: Chroma, tmp_path: Path
) -> None:
    documents, questions = ferries(600)
    killed = Event()

    def until_killed(text: str) -> list[float]:
        if len(server.embedded) > 300:
            killed.wait(300)
        return embedding(text)

    with serve_in_thread(lambda prompt, count: "") as server:
        server.embed = until_killed
        settings = RetrievalSettings(embedding=MODEL, embedding_endpoint=server.url, vector_store=chroma.url)
        # 16 requests at once with 4 chunks each, 4 times: 256 chunks are there before the others are embedded.
        code = (
            "from tests.retrieval.test_chroma import *\nindex._BATCH = 4\n"
            f"build_retrieval(*ferries(600), Path('unused.jsonl'), {settings!r})"
        )
        build = subprocess.Popen([sys.executable, "-c", code])
        try:
            assert wait_for(lambda: len(server.embedded) > 300, 300)
        finally:
            build.kill()
            build.wait()
            killed.set()
        there = chroma.collection(documents, settings)
        assert there.count() == 256
        assert "chunks" not in there.metadata
        server.embedded.clear()
        manifest = build_retrieval(documents, questions, tmp_path / "r.jsonl", settings)
    embedded = [text for text in server.embedded if text.endswith("pears to Holm.")]
    assert len(embedded) == len(set(embedded)) == 600 - 256
    assert manifest["chunks"] == len(read_retrieval(tmp_path / "r.jsonl", questions)["q"]) * 75 == 600
    assert chroma.collection(documents, settings).metadata["chunks"] == 600


def test_a_collection_that_somebody_changed_is_filled_up_or_refused(chroma: Chroma, tmp_path: Path, data: Data) -> None:
    settings = RetrievalSettings(vector_store=chroma.url)
    build_retrieval(*data, tmp_path / "one.jsonl", settings)
    collection = chroma.collection(data[0], settings)
    collection.delete(ids=collection.get(limit=1)["ids"])
    build_retrieval(*data, tmp_path / "two.jsonl", settings)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    collection.add(ids=["foreign"], embeddings=[[0.1] * 384])
    with pytest.raises(BadInput, match=r"holds 5 chunks, not 4; delete that collection"):
        build_retrieval(*data, tmp_path / "three.jsonl", settings)


def test_another_embedding_model_behind_the_same_name_is_refused(chroma: Chroma, tmp_path: Path, data: Data) -> None:
    with serve_in_thread(lambda prompt, count: "") as server:
        settings = RetrievalSettings(embedding=MODEL, embedding_endpoint=server.url, vector_store=chroma.url)
        build_retrieval(*data, tmp_path / "r.jsonl", settings)
        server.embed = lambda text: embedding(text)[::-1]
        with pytest.raises(BadInput, match=r"the collection smt-\w+ at .* was made with another embedding model"):
            build_retrieval(*data, tmp_path / "r.jsonl", settings)


def test_a_store_that_is_not_there_or_is_none_is_one_sentence_and_one_that_goes_away_another(
    chroma: Chroma, tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_own(tmp_path / "own")
    arguments = ["retrieve", "corpus", "--data", str(folder), "--output", str(tmp_path / "r.jsonl")]
    found = CliRunner().invoke(cli, [*arguments, "--set", "vector_store=http://127.0.0.1:9"])
    assert isinstance(found.exception, BadInput)
    assert str(found.exception).startswith("the vector store at http://127.0.0.1:9 cannot be used (Could not connect")
    with serve_in_thread(lambda prompt, count: "") as server, pytest.raises(BadInput, match="start a Chroma server"):
        build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(vector_store=server.url))
    settings = RetrievalSettings(vector_store=chroma.url)
    build_retrieval(*data, tmp_path / "r.jsonl", settings)
    look_up = retrieve._retrieve

    def after_its_end(*rest: Any) -> Any:
        chroma.stop()
        return look_up(*rest)

    monkeypatch.setattr(retrieve, "_retrieve", after_its_end)
    with pytest.raises(RuntimeError, match=rf"the vector store at {chroma.url} failed \(.*refused\); see the server's"):
        build_retrieval(*data, tmp_path / "r.jsonl", settings)


def test_the_key_comes_from_the_environment_alone(
    chroma: Chroma, tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Proxy(BaseHTTPRequestHandler):
        """Lets requests with the right key through to the server."""

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 401, orjson.dumps({"error": "AuthorizationError", "message": "no such key"})
            if self.headers.get("Authorization") == "Bearer secret":
                request = Request(chroma.url + self.path, body or None, {"Content-Type": "application/json"})
                request.method = self.command
                try:
                    with urlopen(request) as response:
                        status, answer = response.status, response.read()
                except HTTPError as error:
                    status, answer = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=proxy.serve_forever)
    thread.start()
    settings = RetrievalSettings(vector_store=f"http://127.0.0.1:{proxy.server_port}")
    try:
        for wrong in (None, "wrong"):
            if wrong:
                monkeypatch.setenv("SMT_VECTOR_STORE_API_KEY", wrong)
            with pytest.raises(BadInput, match=r"no such key.*fix vector_store or SMT_VECTOR_STORE_API_KEY") as error:
                build_retrieval(*data, tmp_path / "r.jsonl", settings)
            assert not wrong or wrong not in str(error.value)
        monkeypatch.setenv("SMT_VECTOR_STORE_API_KEY", "secret")
        assert build_retrieval(*data, tmp_path / "r.jsonl", settings)["document_recall@1"] == 1.0
        assert b"secret" not in (tmp_path / "r.jsonl.manifest.json").read_bytes()
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    with pytest.raises(BadInput, match="vector_store: a URL must hold no user and password") as error:
        retrieval_settings("quality", {"vector_store": "http://me:secret@127.0.0.1:8000"})
    assert "secret" not in str(error.value)


def test_a_retrieval_does_not_depend_on_the_servers_address(data: Data) -> None:
    keys = {
        retrieval_key(*data, RetrievalSettings(vector_store=url))
        for url in ("", "http://one:8000", "https://two/chroma")
    }
    assert len(keys) == 2


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(BadInput, match=r"chromadb is not installed; .* 'smt-plugin\[vectors\]'"):
        build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(vector_store="http://127.0.0.1:9"))
