"""Which library multiplies int8 rows with a query fastest: bare kernels over a million rows of 512, on all cores.

    .venv-dev/bin/python benchmarks/search_kernels.py [--alone]

Each on blocks of the same memory, from as many threads as there are cores, unless it has threads of its own.
Without a top-k, but for faiss and usearch, which give nothing less. What was chosen: docs/search-engine.md.

First one query alone, in nanoseconds of processor time for a row: of 2,000 rows that stay in a core's second-level
cache, the least of 400 calls by one thread; and from memory, the median of nine rounds in turn on all cores. None
packs or copies the rows, but where it says so. With --alone, nothing else. Needs 4 GB of disk, for the libraries.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from peers import PEERS, TORCH, peers_python
from search_data import alternating, bare_read, show

from clipdex.search.spans import Span, cores, spans_of, work_through

ROWS, DIM = 1_000_000, 512
IN_CACHE = 2000

Kernel = Callable[[np.ndarray, np.ndarray], object]  # rows of int8, and where to write their products: float32


def on_all_cores(kernel, step: int = 32_768):
    """Call a kernel with the first and last row of each block."""

    def block(span: Span) -> None:
        kernel(span.first, span.end)

    return lambda: work_through(spans_of(0, ROWS, step, 1 << 62), block, cores())


def sides(count: int, codes: np.ndarray, queries: np.ndarray) -> dict:
    """The libraries, for the first `count` queries."""
    import faiss
    import numkong
    import simsimd
    import usearch.index

    some = queries[:count]
    packed = numkong.dots_pack(some)
    out = np.empty(ROWS, np.float32)  # one query alone
    wide = some.astype(np.float32).T
    flat = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    flat.train(codes[:10].astype(np.float32))
    for first in range(0, ROWS, 100_000):
        flat.add(codes[first : first + 100_000].astype(np.float32))
    found = {"bare read": bare_read(codes)}
    if count == 1:
        found["NumKong dot"] = on_all_cores(lambda a, b: numkong.dot(codes[a:b], some, out=out[a:b]))
    found |= {
        "NumKong dots_packed": on_all_cores(lambda a, b: numkong.dots_packed(codes[a:b], packed), 2048),
        "NumKong dots_packed, rows packed": on_all_cores(
            lambda a, b: numkong.dots_packed(some, numkong.dots_pack(codes[a:b])), 1024
        ),
        # Its out= loses a reference to None at every call (6.5.16), which ends Python < 3.12 in the long run.
        "SimSIMD cdist": on_all_cores(lambda a, b: simsimd.cdist(some, codes[a:b], "dot")),
        "NumPy, int8 to float32, BLAS": lambda: [
            codes[a : a + 512].astype(np.float32) @ wide for a in range(0, ROWS, 512)
        ],
        "faiss QT_8bit_direct_signed, top 10": lambda: flat.search(some.astype(np.float32), 10),
    }
    if count == 1:
        found["usearch exact i8, top 10"] = lambda: usearch.index.search(
            codes, some, 10, usearch.index.MetricKind.IP, exact=True, threads=cores()
        )
    return found


def kernels_for_one(query: np.ndarray) -> dict[str, Kernel]:
    """The libraries for a query (1, D) alone; what is not float32 is written to the same memory."""
    import numkong
    import simsimd

    packed = numkong.dots_pack(query)
    four = numkong.dots_pack(np.concatenate([query, np.zeros((3, DIM), np.int8)]))
    unsigned = query.view(np.uint8)
    return {
        "bare read, np.add of int64": lambda rows, out: np.add.reduce(rows.reshape(-1).view(np.int64)),
        "bare read, np.maximum of int8": lambda rows, out: np.maximum.reduce(rows.reshape(-1)),
        "NumKong dot to int32": lambda rows, out: numkong.dot(rows, query, out=out.view(np.int32)),
        "NumKong dot to float32": lambda rows, out: numkong.dot(rows, query, out=out),
        "NumKong dot, query first": lambda rows, out: numkong.dot(query, rows, out=out),
        "NumKong dot as uint8": lambda rows, out: numkong.dot(rows.view(np.uint8), unsigned, out=out),
        "NumKong cdist": lambda rows, out: numkong.cdist(query, rows, "dot", out=out[None]),
        "NumKong dots_packed": lambda rows, out: numkong.dots_packed(rows, packed),
        "NumKong dots_packed, with three of zeros": lambda rows, out: numkong.dots_packed(rows, four),
        "SimSIMD cdist": lambda rows, out: simsimd.cdist(query, rows, "dot"),
        "numba (LLVM)": numba_kernel(query),
        "torch._int_mm (oneDNN)": torch_kernel(query),
        "ONNX Runtime MatMulInteger": onnx_kernel(query),
        "OpenVINO MatMul of int32": openvino_kernel(query),
    }


def numba_kernel(query: np.ndarray) -> Kernel:
    import numba

    @numba.njit(nogil=True)
    def dots(rows, wide, out):
        for i in range(rows.shape[0]):
            total = np.int32(0)
            for j in range(rows.shape[1]):
                total += np.int32(np.int16(rows[i, j])) * np.int32(wide[j])
            out[i] = total

    wide = query[0].astype(np.int16)
    return lambda rows, out: dots(rows, wide, out.view(np.int32))


def torch_kernel(query: np.ndarray) -> Kernel:
    import torch

    column = torch.from_numpy(query).T

    def dots(rows: np.ndarray, out: np.ndarray) -> None:
        torch.set_num_threads(1)  # of the calling thread
        torch._int_mm(torch.from_numpy(rows), column, out=torch.from_numpy(out.view(np.int32)[:, None]))

    return dots


def onnx_kernel(query: np.ndarray) -> Kernel:
    import onnxruntime
    from onnx import TensorProto, helper

    rows_in = helper.make_tensor_value_info("rows", TensorProto.INT8, ["n", DIM])
    query_in = helper.make_tensor_value_info("query", TensorProto.INT8, [DIM, 1])
    out = helper.make_tensor_value_info("out", TensorProto.INT32, ["n", 1])
    node = helper.make_node("MatMulInteger", ["rows", "query"], ["out"])
    model = helper.make_model(
        helper.make_graph([node], "dots", [rows_in, query_in], [out]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    column = np.ascontiguousarray(query.T)
    return lambda rows, out: session.run(None, {"rows": rows, "query": column})


def openvino_kernel(query: np.ndarray) -> Kernel:
    import openvino
    from openvino import opset13

    rows_in = opset13.parameter([-1, DIM], np.int8)
    wide = opset13.constant(query.astype(np.int32))
    product = opset13.matmul(opset13.convert(rows_in, "i32"), wide, False, True)
    model = openvino.Core().compile_model(
        openvino.Model([product], [rows_in]), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 2}
    )
    return lambda rows, out: model.create_infer_request().infer([rows], share_inputs=True)


def alone(codes: np.ndarray, query: np.ndarray) -> None:
    """Print what each kernel takes for a row, from a core's cache and from memory."""
    import numkong

    kernels, out = kernels_for_one(query), np.empty(ROWS, np.float32)
    few, to = codes[:IN_CACHE], out[:IN_CACHE]
    cached = {name: 1e9 * least_of(partial(act, few, to)) / IN_CACHE for name, act in kernels.items()}
    whole = numkong.dots_pack(few)
    packed_before = 1e9 * least_of(lambda: numkong.dots_packed(query, whole)) / IN_CACHE
    packing = 1e9 * least_of(lambda: numkong.dots_pack(few)) / IN_CACHE
    sides = {name: on_all_cores(lambda a, b, act=act: act(codes[a:b], out[a:b])) for name, act in kernels.items()}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(10):
        for name, act in sides.items():
            if turn > 2 and took[name][0] > 100:  # no candidate
                continue
            began = time.process_time()
            act()
            if turn:
                took[name].append(1e9 * (time.process_time() - began) / ROWS)
    print("one query, ns of processor time a row: in a core's cache, from memory")
    for name in sides:
        print(f"  {name:42} {cached[name]:6.1f} {statistics.median(took[name]):6.1f}")
    print(
        f"  {'NumKong dots_packed of rows packed before':42} {packed_before:6.1f}; packing {packing:.1f}",
        flush=True,
    )


def least_of(act: Callable[[], object]) -> float:
    """The least seconds of this thread's processor time of 400 calls."""
    took = []
    for _ in range(400):
        began = time.thread_time()
        act()
        took.append(time.thread_time() - began)
    return min(took)


def main() -> None:
    if sys.prefix != str(PEERS):
        libraries = ("faiss-cpu==1.15.1", "numkong==7.8.6", "simsimd==6.5.16", "usearch==2.26.6", "numba==0.68.1")
        runtimes = (TORCH, "onnxruntime==1.32.0", "onnx==1.23.2", "openvino==2026.4.1")
        python = peers_python(*libraries, *runtimes)
        raise SystemExit(subprocess.run([python, *sys.argv]).returncode)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true", help="only one query alone")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    codes = np.empty((ROWS, DIM), np.int8)
    for first in range(0, ROWS, 50_000):
        codes[first : first + 50_000] = rng.integers(-127, 128, (50_000, DIM), dtype=np.int8)
    queries = rng.integers(-127, 128, (64, DIM), dtype=np.int8)
    print(f"{ROWS:,} x {DIM} int8, {cores()} cores, load {os.getloadavg()[0]:.1f}")
    alone(codes, queries[:1])
    if asked.alone:
        return
    for count, rounds in ((1, 11), (64, 3)):
        print(f"{count} quer{'y' if count == 1 else 'ies'}")
        show(alternating(sides(count, codes, queries), rounds), ours="bare read")


if __name__ == "__main__":
    main()
