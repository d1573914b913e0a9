"""`smt review` over HTTP: what it shows, what is written, and whom it refuses."""

import codecs
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from smt_plugin.faithfulness.check import KINDS
from smt_plugin.rejects import Verdict, add_verdicts, read_verdicts, rejects_path
from tests.review_server import HOSTILE, METHODS, ODD, Served, make_run, served


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "folder"))


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def untouched(made: Path) -> Iterator[Served]:
    """One server for all tests that decide nothing."""
    with served(made) as found:
        yield found


def rows(folder: Path, place: str = "records") -> list[dict[str, Any]]:
    files = [folder / "run" / place / f"{name}.jsonl" for name in sorted(METHODS)]
    return [json.loads(line) for file in files if file.is_file() for line in file.read_text().splitlines()]


def text_of(record: dict[str, Any]) -> str:
    return "".join(text for turn in record["turns"] for text, _ in turn["pieces"])


def test_the_worst_records_come_first_and_all_of_them_are_there(untouched: Served, made: Path) -> None:
    answer = untouched.get("records")
    records, found = rows(made), {row["id"]: row["findings"] for row in rows(made, "faithfulness")}
    assert sorted(answer["numbers"]) == list(range(len(records)))
    assert answer["methods"] == sorted(METHODS)
    assert answer["counts"] == {"open": len(records), "reject": 0, "keep": 0}
    badness = [
        (sum(each["kind"] != "name" for each in found.get(records[n]["id"], ())), len(found.get(records[n]["id"], ())))
        for n in answer["numbers"]
    ]
    assert badness == sorted(badness, reverse=True)
    assert badness[0][0] == 5
    assert len(found) > 5


def test_a_choice_by_method_finding_and_document_shows_those_that_fit(untouched: Served, made: Path) -> None:
    records, found = rows(made), {row["id"]: row["findings"] for row in rows(made, "faithfulness")}
    kinds = [{each["kind"] for each in found.get(row["id"], ())} for row in records]
    everything = range(len(records))

    def chosen(**choice: str) -> set[int]:
        return set(untouched.get("records?" + "&".join(f"{key}={value}" for key, value in choice.items()))["numbers"])

    for kind in KINDS:
        assert chosen(finding=kind) == {n for n in everything if kind in kinds[n]}
    assert chosen(finding="any") == {n for n in everything if kinds[n]}
    assert chosen(finding="none", method="synthetic_qa") == {
        n for n in everything if not kinds[n] and records[n]["method"] == "synthetic_qa"
    }
    some = records[0]["doc_id"]
    assert chosen(document=some.upper()) == {n for n in everything if some in records[n]["doc_id"]}
    assert chosen(document="nowhere") == set()
    assert chosen(verdict="reject") == set()


def test_a_record_comes_with_its_findings_and_the_passage_of_its_document(untouched: Served, made: Path) -> None:
    documents = {row["doc_id"]: row for row in map(json.loads, (made / "archive/documents.jsonl").open())}
    for number, row in enumerate(rows(made)):
        record = untouched.get(f"record?number={number}")
        assert (record["id"], record["doc_id"]) == (row["id"], row["doc_id"])
        assert text_of(record) == (row["text"] or "".join(turn["content"] for turn in row["messages"]))
        source = record["source"]
        whole = source["before"] + source["passage"] + source["after"]
        assert whole == documents[row["doc_id"]]["text"]
        assert source["note"] in ("", "no passage shares a word with it")
        marked = [text for turn in record["turns"] for text, kind in turn["pieces"] if kind]
        assert set(marked) == {found["said"] for found in record["findings"]}


def test_texts_are_data_and_a_finding_is_marked_at_its_place_behind_any_sign(untouched: Served) -> None:
    number = untouched.get("records")["numbers"][0]
    record = untouched.get(f"record?number={number}")
    assert text_of(record) == ODD
    assert record["turns"][0]["pieces"][1] == ["77,777", "number"]
    status, headers, _ = untouched.ask(f"record?number={number}")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert HOSTILE.encode() not in untouched.ask("")[2]


def test_a_verdict_is_on_disk_when_it_is_answered_and_can_be_taken_back(server: Served, folder: Path) -> None:
    run = folder / "run"
    held = server.decide(3, "reject", reason="wrong year")
    identity = rows(folder)[3]["id"]
    assert read_verdicts(run) == {identity: Verdict(identity, "focal_rewrite", reason="wrong year")}
    assert (held["verdict"], held["reason"], held["counts"]["reject"]) == ("reject", "wrong year", 1)
    assert server.get("records?verdict=reject")["numbers"] == [3]
    assert server.get("record?number=3")["verdict"] == "reject"
    assert server.decide(3, "keep")["counts"]["keep"] == 1
    assert server.decide(3, "open")["counts"]["keep"] == 0
    assert read_verdicts(run) == {}
    assert len(rejects_path(run).read_text().splitlines()) == 3


def test_what_was_decided_before_and_by_the_gate_is_known(folder: Path) -> None:
    records = rows(folder)
    add_verdicts(folder / "run", [Verdict(records[0]["id"], by="gate", reason="a date")])
    add_verdicts(folder / "run", [Verdict(records[1]["id"], verdict="keep")])
    with served(folder) as server:
        assert server.get("records")["counts"] == {"open": len(records) - 2, "reject": 1, "keep": 1}
        assert server.get("record?number=0")["by"] == "gate"
        assert server.decide(0, "keep")["verdict"] == "keep"
        assert server.decide(0, "open")["verdict"] == "reject"
    assert read_verdicts(folder / "run")[records[0]["id"]].by == "gate"


def test_it_ends_on_ctrl_c_with_a_sentence(server: Served, folder: Path) -> None:
    server.decide(1, "reject")
    said = server.stop()
    assert said.splitlines()[-1] == (
        f"ended: 1 of {len(rows(folder)):,} records are rejected and 0 kept, as {rejects_path(folder / 'run')} says; "
        "`smt mix` leaves out what is rejected"
    )
    assert server.process.returncode == 0
    assert not (folder / "run/review.lock").exists()


def test_killed_while_it_rejects_it_leaves_whole_lines_and_all_that_it_answered(folder: Path) -> None:
    answered = set()
    for begin in (0, 20, 40):
        with served(folder) as server:
            for number in range(begin, begin + 15):
                server.decide(number, "reject", reason="wrong " * 50)
                answered.add(rows(folder)[number]["id"])
            body = {"number": begin + 15, "id": rows(folder)[begin + 15]["id"], "verdict": "reject"}
            with socket.create_connection((server.host.split(":")[0], int(server.host.split(":")[1]))) as half:
                sent = json.dumps(body).encode()
                head = (
                    f"POST {server.path}verdict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
                )
                half.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
                server.process.kill()
        text = rejects_path(folder / "run").read_text()
        assert text.endswith("\n")
        assert answered <= set(read_verdicts(folder / "run"))


@pytest.mark.parametrize("path", ["", "records", "record?number=0", "review.js", "review.css"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_a_page_from_elsewhere_is_told_nothing(untouched: Served, path: str, headers: dict[str, str]) -> None:
    status, answered, body = untouched.ask(path, **headers)
    assert (status, json.loads(body)) == (403, {"error": "not from this page"})
    assert "Access-Control-Allow-Origin" not in answered


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "none"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_page_from_elsewhere_can_reject_nothing(untouched: Served, made: Path, headers: dict[str, str]) -> None:
    body = {"number": 0, "id": rows(made)[0]["id"], "verdict": "reject"}
    assert untouched.ask("verdict", body, **headers)[0] == 403
    assert not rejects_path(made / "run").exists()


@pytest.mark.parametrize("path", ["/", "/records", "/verdict", "/favicon.ico", "/TOKEN/records", "//records"])
def test_without_the_token_nothing_is_answered(untouched: Served, path: str) -> None:
    wrong = path.replace("TOKEN", "x" * len(untouched.path.strip("/")))
    assert untouched.ask(wrong)[0] == 403
    assert untouched.ask(wrong, {"number": 0})[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        *("../smt.yaml", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "review.py"),
        *("review.js/../review.py", "review.js%00.py", "/etc/passwd", "reviewed.py", "records/", "./review.html"),
    ],
)
def test_no_path_leads_to_a_file(untouched: Served, path: str) -> None:
    status, headers, body = untouched.ask(path)
    assert status in (403, 404)
    assert set(json.loads(body)) == {"error"}
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("number", ["", "-1", "99999", "1e3", "x", "1" * 5000])
def test_a_record_that_is_not_there_is_a_sentence(untouched: Served, number: str) -> None:
    status, _, body = untouched.ask(f"record?number={number}")
    assert (status, json.loads(body)) == (400, {"error": "there is no such record, or it cannot be asked for so"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"number": 0, "id": "another", "verdict": "reject"},
        {"number": 99999, "id": "x", "verdict": "reject"},
        {"number": 0, "id": "x", "verdict": "destroy"},
        {"number": 0, "id": "x", "verdict": "reject", "run": "/etc"},
    ],
)
def test_a_verdict_that_is_none_changes_nothing(untouched: Served, made: Path, body: Any) -> None:
    assert untouched.ask("verdict", body)[0] == 400
    assert untouched.ask("verdict", {"number": 0, "id": "x" * 20_000, "verdict": "reject"})[0] == 413
    assert not rejects_path(made / "run").exists()


def test_the_page_loads_nothing_from_elsewhere_and_allows_itself_no_other_script(untouched: Served) -> None:
    status, headers, page = untouched.ask("", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")
    assert status == 200
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert re.findall(r'(?:src|href)="([^"]*)"', page.decode()) == ["data:,", "review.css", "review.js"]
    for name in ("review.js", "review.css"):
        text = untouched.ask(name)[2].decode()
        assert "http" not in text
        assert "url(" not in text
        assert "innerHTML" not in text


def test_it_is_not_served_to_other_machines(untouched: Served) -> None:
    port = int(untouched.host.split(":")[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        if not str(address).startswith("127."):
            with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
                socket.create_connection((str(address), port), timeout=2)
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = [local for _, local, _, state, *_ in listening if state == "0A" and int(local.split(":")[1], 16) == port]
    assert own == [f"0100007F:{port:04X}"]


def test_two_reviews_of_a_run_do_not_go_side_by_side(untouched: Served, made: Path) -> None:
    assert untouched.process.poll() is None
    with pytest.raises(BadInput, match=r"is in use by process \d+ .*review\.lock"):
        review(made)


def review(folder: Path, *options: str) -> None:
    result = CliRunner().invoke(cli, ["review", str(folder / "smt.yaml"), *options])
    assert result.exception is not None
    raise result.exception


def test_a_port_that_is_taken_is_a_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} cannot be had .*; give another --port"):
            review(folder, "--port", str(port))


def test_without_records_nothing_is_made(folder: Path) -> None:
    shutil.rmtree(folder / "run")
    with pytest.raises(BadInput, match="holds no records; run `smt generate"):
        review(folder)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("place", ["records", "faithfulness"])
def test_a_broken_line_is_named(folder: Path, place: str) -> None:
    path = folder / "run" / place / "focal_rewrite.jsonl"
    path.write_text(path.read_text() + '{"id": 7}\n')
    count = len(path.read_text().splitlines())
    with pytest.raises(BadInput, match=f"focal_rewrite.jsonl, line {count}: .*run `smt generate .* anew"):
        review(folder)


def test_records_that_an_editor_has_saved_are_read_as_before(folder: Path, untouched: Served, made: Path) -> None:
    for path in (folder / "run").glob("*/*.jsonl"):
        path.write_bytes(codecs.BOM_UTF8 + b"\r\n\r\n".join(path.read_bytes().splitlines()) + b"\n \n")
    with served(folder) as server:
        assert server.get("records") == untouched.get("records")
        for number in range(len(rows(made))):
            assert server.get(f"record?number={number}") == untouched.get(f"record?number={number}")


def test_a_document_that_has_changed_or_is_gone_is_told(folder: Path) -> None:
    documents = folder / "archive/documents.jsonl"
    first, second, *others = map(json.loads, documents.read_text().splitlines())
    second["text"] += " And more."
    documents.write_text("".join(json.dumps(row) + "\n" for row in [second, *others]))
    notes = {}
    with served(folder) as server:
        for number, row in enumerate(rows(folder)):
            notes.setdefault(row["doc_id"], server.get(f"record?number={number}")["source"]["note"])
    assert notes[first["doc_id"]] == "its document, or the part of it, is not in the corpus any more"
    assert notes[second["doc_id"]] == "its document has changed since"


def test_a_verdict_that_cannot_be_written_is_told_and_the_record_stays_open(server: Served, folder: Path) -> None:
    rejects_path(folder / "run").mkdir()
    body = {"number": 0, "id": rows(folder)[0]["id"], "verdict": "reject"}
    status, _, answer = server.ask("verdict", body)
    assert status == 500
    assert "rejects.jsonl" in json.loads(answer)["error"]
    assert server.get("record?number=0")["verdict"] == "open"


def test_answers_come_within_a_tenth_of_a_second(server: Served) -> None:
    times = []
    for number in range(30):
        begin = time.perf_counter()
        server.get(f"record?number={number}")
        server.decide(number, "reject")
        times.append(time.perf_counter() - begin)
    assert sorted(times)[15] < 0.1
