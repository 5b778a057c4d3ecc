"""How many candidates a query of a Milvus server's graph must look at, to find what exact search finds.

.venv-stores/bin/python benchmarks/milvus_graph.py [--pictures 20000] [--dim 512] [--queries 30]

The vectors are those of prove_stores.py: rank 48 with noise. Prints recall@10 and the time of a query for each
number of candidates (`ef`), before the server has built its graphs, and afterwards, for two sizes of the graph.
Figures: docs/vector-databases.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from prove_stores import vectors
from pymilvus import DataType, MilvusClient
from rounds import where as machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from real_milvus import milvus_port

EFFORTS = (64, 128, 256, 512)
GRAPHS = ({"M": 16, "efConstruction": 200}, {"M": 32, "efConstruction": 400})


def fill(client: MilvusClient, name: str, graph: dict[str, int], rows: np.ndarray) -> None:
    """Create a collection with such a graph, and insert the rows, numbered."""
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=rows.shape[1])
    indexes = client.prepare_index_params()
    indexes.add_index("vector", index_type="HNSW", metric_type="COSINE", params=graph)
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")
    for first in range(0, len(rows), 1000):
        some = rows[first : first + 1000]
        client.insert(name, [{"number": first + i, "vector": row.tolist()} for i, row in enumerate(some)])


def await_graph(client: MilvusClient, name: str) -> None:
    """Wait until the server has built its graphs and asks them."""
    client.flush(name)
    client.load_collection(name)
    while int(client.describe_index(name, "vector").get("pending_index_rows", 0)):
        time.sleep(0.5)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if all(each.index_id > 0 for each in client.list_loaded_segments(name)):
            return
        time.sleep(0.5)


def asked(client: MilvusClient, name: str, queries: np.ndarray, exact: list[set[int]], effort: int) -> str:
    """Ask all queries -> recall@10 and the median time."""
    found, took = 0, []
    for query, right in zip(queries, exact, strict=True):
        began = time.perf_counter()
        hits = client.search(
            name,
            [query.tolist()],
            limit=10,
            search_params={"metric_type": "COSINE", "params": {"ef": effort}},
            consistency_level="Strong",
        )[0]
        took.append(time.perf_counter() - began)
        found += len(right & {int(hit["id"]) for hit in hits})
    return f"ef {effort}: {found / (10 * len(queries)):.3f}, {1e3 * statistics.median(took):.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=30)
    given = parser.parse_args()
    print(machine())
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((48, given.dim), dtype=np.float32)
    rows, queries = vectors(rng, basis, given.pictures), vectors(rng, basis, given.queries)
    exact = [set(np.argsort(-(rows @ query))[:10].tolist()) for query in queries]
    client = MilvusClient(uri=f"http://127.0.0.1:{milvus_port()}", timeout=120)
    for number, graph in enumerate(GRAPHS):
        name = f"graph{number}"
        fill(client, name, graph, rows)
        if number == 0:
            print("before the graph:", asked(client, name, queries, exact, 128), flush=True)
        await_graph(client, name)
        print(
            f"{graph}:", "; ".join(asked(client, name, queries, exact, effort) for effort in EFFORTS), flush=True
        )
        client.drop_collection(name)
    client.close()


if __name__ == "__main__":
    main()
