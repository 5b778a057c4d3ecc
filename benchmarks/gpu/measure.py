"""Every row of the table, one after the other."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import encoders
import served
from environment import Gpu
from shapes import checkpoint, export, image_flops, shape_of
from table import Row, Table, median_rate, reason

from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_index import draw_photos
from clipdex.base.errors import ClipdexError

__all__ = ["measure"]

# Label, target of the export, ONNX Runtime's provider.
ON_A_GPU = (
    ("CUDA", "cuda", "CUDAExecutionProvider"),
    ("TensorRT", "tensorrt", "TensorrtExecutionProvider"),
)
ON_THE_CPU = (("CPU", "auto", "CPUExecutionProvider"),)
# The encoder alone, for what the fused attention of `cuda` is worth: the graph for TensorRT has none.
ALONE_ON_A_GPU = (("CUDA, attention not fused", "tensorrt", "CUDAExecutionProvider"),)
ALONE_ON_THE_CPU = (("CPU, half precision and fused", "cuda", "CPUExecutionProvider"),)


def measure(arguments: argparse.Namespace, gpu: Gpu | None) -> None:
    """Print the table and write it to `arguments.json`."""
    device = "cpu" if gpu is None else "cuda"
    machine = this_machine()
    table = Table(
        file=arguments.json,
        machine=({} if gpu is None else asdict(gpu))
        | {"cpu": machine.cpu, "cores": machine.cores, "date": machine.date, "versions": versions()},
        settings={key: str(value) for key, value in vars(arguments).items()},
    )
    with ExitStack() as stack:
        directory = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipdex-gpu-")))
        directory = directory.resolve()
        try:
            table.peak_flops = encoders.peak_flops(device, arguments.seconds)
        except Exception as exc:  # as any row
            table.rows.append(Row("all", "peak of a matrix product", error=reason(exc)))
        pictures = directory / f"pictures-{arguments.pictures}"
        if not pictures.exists():
            print(f"drawing {arguments.pictures:,} pictures", file=sys.stderr)
            draw_photos(pictures, arguments.pictures)
        for name in arguments.shapes:
            _measure_shape(name, arguments, device, directory, pictures, table)
    table.write()
    print(table.markdown())


def _measure_shape(
    name: str, arguments: argparse.Namespace, device: str, directory: Path, pictures: Path, table: Table
) -> None:
    flops = image_flops(shape_of(name))
    window = {"seconds": arguments.seconds, "repeats": arguments.repeats}
    served_too, alone = (ON_A_GPU, ALONE_ON_A_GPU) if device == "cuda" else (ON_THE_CPU, ALONE_ON_THE_CPU)
    for way in (*served_too, *alone):
        label, target, provider = way
        repository: Path | None = None
        with table.row(name, f"encoder alone, ONNX Runtime, {label}", flops) as measured:
            repository = export(name, target, directory, batch=arguments.batch, instances=arguments.instances)
            run = encoders.onnxruntime_run(repository, name, provider, device, arguments.batch)
            measured(median_rate(run, **window))
            del run
        if repository is not None and way in served_too:
            _measure_served(name, label, repository, arguments, pictures, flops, table)
    for compiled in (False, True):
        with table.row(
            name, "encoder alone, PyTorch" + (", torch.compile" if compiled else ""), flops
        ) as measured:
            run = encoders.torch_run(checkpoint(name, directory), device, arguments.batch, compiled=compiled)
            measured(median_rate(run, **window))
            del run


def _measure_served(
    name: str,
    label: str,
    repository: Path,
    arguments: argparse.Namespace,
    pictures: Path,
    flops: float,
    table: Table,
) -> None:
    """One server for all rows; without it, each of them says why."""
    ways = {"gRPC": "wire", "shared memory": "shared"}
    try:
        with served.serving(repository) as client:
            for way, transfer in ways.items():
                with table.row(name, f"served, {label}, {way}", flops) as measured:
                    measured(
                        *served.full_batches(
                            client,
                            transfer,
                            batch=arguments.batch,
                            seconds=arguments.seconds,
                            repeats=arguments.repeats,
                        )
                    )
            with table.row(name, f"JPEG files to index, {label}", flops) as measured:
                measured(*served.indexed(client, pictures))
    except Exception as exc:  # the server did not start, or ended
        with table.row(name, f"served, {label}", flops):
            raise exc from None


def versions() -> str:
    """Of what computes; what is not installed is left out."""
    found = []
    for package in ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt-cu12", "tensorrt-cu13"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    with suppress(ClipdexError):
        found.append(f"Triton with the {served.backend()}")
    return ", ".join(found)
