"""How long does `smt review` take to start and to answer, and how much memory does it hold?

    python benchmarks/review.py --records 10000 [--folder FOLDER]

Records about 200 documents of some 20,000 characters are made up, each of five sentences of its document; a fifth have
a finding. The command runs in a process of its own and is asked over HTTP, as the page asks it: for the list of all
records, and of those with findings about one document; for 300 records, each about another document than the one
before, so that none is at hand; and to reject each of them, which is taken back: in a FOLDER of one's own these lines
stay in `rejects.jsonl`. With `--picture FILE` the system's chromium shows the first
record.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chromium import opened
from tests.review_server import Served, make_large_run, served

ASKED = 300


def main() -> None:
    """Make the run, ask, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="one with a smt.yaml and its run, in place of a made-up one")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or make_large_run(Path(scratch), options.records)
        begin = time.perf_counter()
        with served(folder) as server:
            print(f"start: {time.perf_counter() - begin:.2f} s, imports included")
            measure(server)
            if options.picture:
                with opened(server.address, Path(scratch)) as tab:
                    tab.wait("document.body?.dataset.shown")
                    tab.picture(options.picture)


def measure(server: Served) -> None:
    """Print the time of each kind of request, and the memory."""
    numbers = server.get("records")["numbers"]
    print(f"{len(numbers):,} records")
    # Odd, so that neighbours are about different documents.
    step = len(numbers) // ASKED | 1
    some = numbers[::step][:ASKED]
    told("list of all", [timed(lambda: server.get("records")) for _ in range(20)])
    told("list of a choice", [timed(lambda: server.get("records?finding=any&document=7")) for _ in range(20)])
    told("the first record", [timed(lambda: server.get(f"record?number={some[0]}"))])
    told("a record", [timed(lambda number=number: server.get(f"record?number={number}")) for number in some])
    ids = {number: server.get(f"record?number={number}")["id"] for number in some}

    def reject(number: int) -> None:
        status, _, _ = server.ask("verdict", {"number": number, "id": ids[number], "verdict": "reject"})
        assert status == 200

    told("a reject", [timed(lambda number=number: reject(number)) for number in some])
    for number in some:
        server.decide(number, "open")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"memory at most: {memory / 1000:.0f} MB")


def timed(act: Callable[[], object]) -> float:
    """Milliseconds that something takes."""
    begin = time.perf_counter()
    act()
    return (time.perf_counter() - begin) * 1000


def told(what: str, times: list[float]) -> None:
    """Print median and maximum."""
    print(f"{what}: median {statistics.median(times):.1f} ms, at most {max(times):.1f} ms, of {len(times)}")


if __name__ == "__main__":
    main()
