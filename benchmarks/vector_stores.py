"""A million chunks: what does a search take in each store, in time and in memory?

    pip install faiss-cpu chromadb lancedb duckdb pyarrow
    python benchmarks/vector_stores.py --vectors 1000000

`smt` keeps its vectors in faiss, or on a Chroma server that `vector_store` names; LanceDB and DuckDB stand beside them.
Random unit vectors as long as MiniLM's. Each store runs in a process of its own, all are asked for the 128 nearest;
all but Chroma search exactly, and how many of the nearest it finds is told. Memory is the process's peak, less that
before the store, with the server's, if there is one; the vectors come in batches.
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
STORES = ("faiss", "chroma", "lancedb", "duckdb")
Vectors = NDArray[np.float32]
Search = Callable[[Vectors], list[int]]


def batches(count: int) -> Iterator[Vectors]:
    """Random unit vectors, the same ones each time."""
    rng = np.random.default_rng(0)
    for start in range(0, count, BATCH):
        vectors = rng.standard_normal((min(BATCH, count - start), SIZE), dtype=np.float32)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


servers: list[subprocess.Popen[bytes]] = []


def faiss(count: int, folder: Path) -> Search:
    import faiss

    index = faiss.IndexFlatIP(SIZE)
    for vectors in batches(count):
        index.add(vectors)
    return lambda query: index.search(query[None], NEAREST)[1][0].tolist()  # type: ignore[no-any-return]


def chroma(count: int, folder: Path) -> Search:
    import socket

    import chromadb

    from smt_plugin.retrieval.chroma import HNSW

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    servers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for _ in range(300):
        try:
            client = chromadb.HttpClient(port=port, settings=chromadb.Settings(anonymized_telemetry=False))
            break
        except ValueError:  # not yet
            time.sleep(0.1)
    collection = client.create_collection("chunks", configuration={"hnsw": HNSW}, embedding_function=None)
    start = 0
    for vectors in batches(count):
        for part in np.array_split(vectors, max(1, len(vectors) // 1000)):
            collection.add(ids=[str(start + number) for number in range(len(part))], embeddings=part)
            start += len(part)
    return lambda query: [
        int(found)
        for found in collection.query(query_embeddings=[query.tolist()], n_results=NEAREST, include=[])["ids"][0]
    ]


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
        stores = {"faiss": faiss, "chroma": chroma, "lancedb": lancedb, "duckdb": duckdb}
        search = stores[store](count, Path(folder))
        filled = time.monotonic() - started
        # The stored vectors are the queries: each must find itself.
        assert search(wanted[0])[0] == 0
        times, answers = [], []
        for number, query in enumerate(wanted):
            started = time.monotonic()
            answers.append(search(query))
            times.append(time.monotonic() - started)
            assert answers[-1][0] == number
        for server in servers:
            server.terminate()
            server.wait()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if servers:
        peak += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found = [len(set(a) & set(b)) / len(b) for a, b in zip(answers, nearest(wanted, count), strict=True)]
    return {
        "store": store,
        "fill": filled,
        "search": float(np.median(times)),
        "found": sum(found) / len(found),
        "mib": peak / 1024,
        "disk": size / 2**20,
    }


def nearest(queries: Vectors, count: int) -> list[list[int]]:
    """The numbers of the nearest vectors of each query, by computing all cosines."""
    cosines = np.concatenate([queries @ vectors.T for vectors in batches(count)], axis=1)
    return np.argsort(-cosines, axis=1)[:, :NEAREST].tolist()  # type: ignore[no-any-return]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument(
        "--stores",
        nargs="+",
        choices=STORES,
        default=["faiss", "lancedb", "duckdb"],
        help="which; chroma takes hours to fill with a million",
    )
    parser.add_argument("--store", choices=STORES, help="only this one, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.store:
        print(json.dumps(measure(arguments.store, arguments.vectors, arguments.queries)))
        return
    print("| store | filled in, s | one search, ms (median) | of the nearest | peak memory, MiB | on disk, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for store in arguments.stores:
        command = [sys.executable, __file__, "--store", store]
        command += ["--vectors", str(arguments.vectors), "--queries", str(arguments.queries)]
        r = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        cells = (f"{r['fill']:.0f}", f"{1000 * r['search']:,.0f}", f"{r['found']:.1%}")
        cells += (f"{r['mib']:,.0f}", f"{r['disk']:,.0f}")
        print(f"| {store} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
