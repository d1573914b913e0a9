"""A million chunks: what does a search take in faiss (what `smt` uses), LanceDB and DuckDB, in time and in memory?

    pip install faiss-cpu lancedb duckdb pyarrow
    python benchmarks/vector_stores.py --vectors 1000000

Random unit vectors as long as MiniLM's. Each store runs in a process of its own; all search exactly, all are asked for
the 128 nearest. Memory is the process's peak, less that before the store; the vectors come in batches.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

SIZE, NEAREST, BATCH = 384, 128, 20_000
STORES = ("faiss", "lancedb", "duckdb")
Vectors = NDArray[np.float32]
Search = Callable[[Vectors], list[int]]


def batches(count: int) -> Iterator[Vectors]:
    """Random unit vectors, the same ones each time."""
    rng = np.random.default_rng(0)
    for start in range(0, count, BATCH):
        vectors = rng.standard_normal((min(BATCH, count - start), SIZE), dtype=np.float32)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def faiss(count: int, folder: Path) -> Search:
    import faiss

    index = faiss.IndexFlatIP(SIZE)
    for vectors in batches(count):
        index.add(vectors)
    return lambda query: index.search(query[None], NEAREST)[1][0].tolist()  # type: ignore[no-any-return]


def lancedb(count: int, folder: Path) -> Search:
    import lancedb
    import pyarrow as pa

    schema = pa.schema([("number", pa.int64()), ("vector", pa.list_(pa.float32(), SIZE))])

    def tables() -> Iterator[pa.RecordBatch]:
        start = 0
        for vectors in batches(count):
            numbers = pa.array(range(start, start + len(vectors)))
            rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), SIZE)
            yield pa.RecordBatch.from_arrays([numbers, rows], schema=schema)
            start += len(vectors)

    table = lancedb.connect(folder).create_table("chunks", tables(), schema=schema)
    return lambda query: table.search(query).distance_type("dot").limit(NEAREST).to_arrow()["number"].to_pylist()  # type: ignore[no-any-return]


def duckdb(count: int, folder: Path) -> Search:
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(folder / "chunks.duckdb")
    connection.execute(f"CREATE TABLE chunks (number BIGINT, vector FLOAT[{SIZE}])")
    start = 0
    for vectors in batches(count):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), SIZE)
        batch = pa.table({"number": pa.array(range(start, start + len(vectors))), "vector": rows})
        connection.register("batch", batch)
        connection.execute("INSERT INTO chunks SELECT * FROM batch")
        start += len(vectors)
    nearest = f"array_inner_product(vector, ?::FLOAT[{SIZE}]) DESC LIMIT {NEAREST}"
    query_text = f"SELECT number FROM chunks ORDER BY {nearest}"
    return lambda query: [row[0] for row in connection.execute(query_text, [query.tolist()]).fetchall()]


def measure(store: str, count: int, queries: int) -> dict[str, object]:
    """Fill a store and search it; the first search, which may read from disk, is told apart."""
    wanted = next(batches(BATCH))[:queries]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TemporaryDirectory() as folder:
        started = time.monotonic()
        search = {"faiss": faiss, "lancedb": lancedb, "duckdb": duckdb}[store](count, Path(folder))
        filled = time.monotonic() - started
        # The stored vectors are the queries: each must find itself.
        assert search(wanted[0])[0] == 0
        times = []
        for number, query in enumerate(wanted):
            started = time.monotonic()
            assert search(query)[0] == number
            times.append(time.monotonic() - started)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"store": store, "fill": filled, "search": float(np.median(times)), "mib": peak / 1024, "disk": size / 2**20}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--store", choices=STORES, help="only this one, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.store:
        print(json.dumps(measure(arguments.store, arguments.vectors, arguments.queries)))
        return
    print("| store | filled in, s | one search, ms (median) | peak memory, MiB | on disk, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for store in STORES:
        command = [sys.executable, __file__, "--store", store]
        command += ["--vectors", str(arguments.vectors), "--queries", str(arguments.queries)]
        r = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        cells = (f"{r['fill']:.0f}", f"{1000 * r['search']:,.0f}", f"{r['mib']:,.0f}", f"{r['disk']:,.0f}")
        print(f"| {store} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
