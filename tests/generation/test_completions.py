import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from smt_plugin.backends.base import Reply, Request
from smt_plugin.errors import BadInput
from smt_plugin.generation import completions
from smt_plugin.generation.completions import Completion, CompletionStore, completion_key


def make(number: int, text: str = "text") -> Completion:
    return Completion(
        key=f"{number:032x}",
        status="done",
        reason="",
        doc_id="d",
        prompt="a/b",
        prompt_hash="h",
        model="m",
        sampling={"temperature": 0.7},
        sample=1,
        attempt=0,
        variables={"strategy": "one"},
        reply=Reply(text, "stop", 10, 4, 5),
        seconds=0.5,
    )


async def put_all(folder: Path, completions: list[Completion]) -> None:
    store = CompletionStore(folder)
    await asyncio.gather(*(store.put(completion) for completion in completions))
    await store.close()


def test_what_was_put_comes_back_whole_after_closing(tmp_path: Path) -> None:
    asyncio.run(put_all(tmp_path, [make(n, f"text {n} ü\n") for n in range(300)]))

    async def read() -> None:
        store = CompletionStore(tmp_path)
        assert len(list(store.all())) == 300
        assert store.get(f"{7:032x}") == make(7, "text 7 ü\n")
        assert store.get(f"{300:032x}") is None
        assert sorted(completion.key for completion in store.all())[:2] == [f"{0:032x}", f"{1:032x}"]
        await store.close()

    asyncio.run(read())


def test_a_completion_is_found_while_others_are_being_written_and_a_retry_replaces_a_tombstone(tmp_path: Path) -> None:
    async def main() -> None:
        store = CompletionStore(tmp_path)
        await store.put(replace(make(1, "no"), status="refused"))
        puts = [asyncio.create_task(store.put(make(n))) for n in range(1, 200)]
        await asyncio.sleep(0)
        early, absent = await asyncio.gather(store.find(f"{1:032x}"), store.find(f"{500:032x}"))
        assert early is not None
        assert absent is None
        await asyncio.gather(*puts)
        assert await store.find(f"{1:032x}") == make(1)
        assert len(list(store.all())) == 199
        await store.close()

    asyncio.run(main())


def test_a_store_in_the_first_form_opens_and_goes_on(tmp_path: Path) -> None:
    asyncio.run(put_all(tmp_path, [make(n) for n in range(20)]))
    with closing(sqlite3.connect(tmp_path / "completions.sqlite")) as connection:
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'completions'").fetchone()[0]
        old = schema.replace("key BLOB NOT NULL UNIQUE", "key BLOB PRIMARY KEY") + " WITHOUT ROWID"
        connection.executescript(
            "DROP INDEX completions_of_document; ALTER TABLE completions RENAME TO new;"
            f"{old}; INSERT INTO completions SELECT * FROM new; DROP TABLE new"
        )
    asyncio.run(put_all(tmp_path, [make(n) for n in range(15, 30)]))

    async def read() -> None:
        store = CompletionStore(tmp_path)
        assert [store.get(f"{n:032x}") for n in range(30)] == [make(n) for n in range(30)]
        assert store.tokens_of_documents() == {"d": 30 * 5}
        await store.close()

    asyncio.run(read())


def test_the_key_depends_on_what_is_asked_and_not_on_the_document_or_the_schema() -> None:
    request = Request([{"role": "user", "content": "x"}], {"temperature": 1.0, "top_p": 1.0}, 0, None, "d1")
    key = completion_key(request, "m")
    assert len(key) == 32
    assert key == completion_key(replace(request, affinity="d2", schema={}), "m")
    assert key == completion_key(replace(request, sampling={"top_p": 1.0, "temperature": 1.0}), "m")
    others = {
        completion_key(replace(request, messages=[{"role": "user", "content": "y"}]), "m"),
        completion_key(replace(request, sampling={"temperature": 0.9, "top_p": 1.0}), "m"),
        completion_key(replace(request, sample=1), "m"),
        completion_key(request, "other"),
    }
    assert key not in others
    assert len(others) == 4


def test_the_key_is_what_it_was_when_completions_were_first_paid_for() -> None:
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Hello"}]
    sampling = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096}
    key = completion_key(Request(messages, sampling, 4, {"type": "object"}, "d"), "m")
    assert key == "62a2d9da63cb0abc9727a32605270eb3"


def test_a_second_process_is_refused_with_the_pid_and_host_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;from smt_plugin.generation.completions import CompletionStore\n"
        "store = CompletionStore(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(BadInput, match=f"in use by process {owner.pid} on "):
            CompletionStore(tmp_path)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    asyncio.run(put_all(tmp_path, [make(1)]))


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "completions.sqlite").write_text("this is no database, by any means" * 100)
    with pytest.raises(BadInput, match=r"completions.sqlite is not a whole completions store"):
        CompletionStore(tmp_path)


def test_a_completion_that_unpacks_to_anything_is_named_and_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(put_all(tmp_path, [make(1)]))
    monkeypatch.setattr(completions, "_LARGEST_BODY", 10)

    async def read() -> None:
        store = CompletionStore(tmp_path)
        try:
            for look in (lambda: store.get(make(1).key), lambda: list(store.all())):
                with pytest.raises(
                    BadInput, match=r"not a whole completions store \(not whole, or more than 10 bytes\)"
                ):
                    look()
        finally:
            await store.close()

    asyncio.run(read())


def test_a_process_killed_while_it_writes_leaves_a_store_that_opens_with_every_durable_completion(
    tmp_path: Path,
) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from smt_plugin.generation.completions import CompletionStore\n"
        "from tests.generation.test_completions import make\n"
        "async def main():\n"
        "    store = CompletionStore(Path(sys.argv[1]))\n"
        "    for n in range(100000):\n"
        "        await store.put(make(n))\n"
        "        print(n, flush=True)\n"
        "asyncio.run(main())"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    durable = [int(writer.stdout.readline()) for _ in range(50)]
    writer.kill()
    durable += [int(line) for line in writer.stdout.read().splitlines()]
    writer.wait()
    writer.stdout.close()

    async def read() -> None:
        store = CompletionStore(tmp_path)
        assert all(store.get(f"{n:032x}") is not None for n in durable)
        assert len(list(store.all())) - len(durable) in (0, 1)
        await store.close()

    asyncio.run(read())
