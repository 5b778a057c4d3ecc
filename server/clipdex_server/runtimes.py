"""The runtime of each model of a local server, and the repository in which its configurations name it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from clipdex.base.errors import ClipdexError
from clipdex.base.extras import require_installed
from clipdex.wire.runtimes.choice import BF16_PARAMETER, ONNXRUNTIME, OPENVINO, Choice, asks_for_bf16, choose

__all__ = ["choices", "serves_tf32", "write_repository"]


def choices(repository: Path, models: Collection[str] | None, *, gpu: bool) -> dict[str, Choice]:
    """Choose the runtime of each model to be served, by name. models: None for all of the repository.

    A model whose configuration cannot be read, or names another backend, has none: Triton itself reports it.

    Raises:
        MissingExtra: a model is for OpenVINO, which is not installed.
    """
    from clipdex.wire.model_config import read_config

    found = {}
    for path in sorted(repository.glob("*/config.pbtxt")):
        name = path.parent.name
        if models is not None and name not in models:
            continue
        with suppress(ClipdexError):
            config = read_config(path)
            if config.backend in (ONNXRUNTIME, OPENVINO):
                found[name] = choose(config, gpu=gpu)
    for name, choice in found.items():
        if choice.runtime == OPENVINO:
            require_installed("openvino", "openvino", "openvino", f"serving {name}, which is for OpenVINO,")
    return found


def serves_tf32(repository: Path, models: Collection[str] | None) -> bool:
    """Return whether a model to be served is in TensorFloat-32 and none for TensorRT, which has no such option."""
    from clipdex.wire.model_config import asks_for_tf32, read_config

    asked = False
    for path in sorted(repository.glob("*/config.pbtxt")):
        if models is not None and path.parent.name not in models:
            continue
        with suppress(ClipdexError):
            config = read_config(path)
            used = config.optimization.execution_accelerators.gpu_execution_accelerator
            if any(one.name == "tensorrt" for one in used):
                return False
            asked = asked or asks_for_tf32(config)
    return asked


def write_repository(directory: Path, repository: Path, chosen: Mapping[str, Choice]) -> Path:
    """Make `directory` show the repository, with the chosen runtime and precision of each model; return it.

    It is a link, unless a configuration has to differ: then a directory of links, with that configuration anew.
    """
    from clipdex.wire.model_config import parameters_of, read_config, write_config

    differing = set()
    for name, choice in chosen.items():
        config = read_config(repository / name / "config.pbtxt")
        unheeded = choice.runtime == OPENVINO and asks_for_bf16(parameters_of(config)) and not choice.bf16
        if config.backend != choice.runtime or unheeded:
            differing.add(name)
    if not differing:
        directory.symlink_to(repository, target_is_directory=True)
        return directory
    directory.mkdir()
    for model in repository.iterdir():
        if model.name not in differing:
            (directory / model.name).symlink_to(model, target_is_directory=model.is_dir())
            continue
        (directory / model.name).mkdir()
        for part in model.iterdir():
            if part.name != "config.pbtxt":
                (directory / model.name / part.name).symlink_to(part, target_is_directory=part.is_dir())
        config = read_config(model / "config.pbtxt")
        config.backend = chosen[model.name].runtime
        if not chosen[model.name].bf16:
            config.parameters.pop(BF16_PARAMETER, None)
        config.default_model_filename = config.default_model_filename or "model.onnx"  # OpenVINO's is another
        for group in config.instance_group:
            group.kind = group.KIND_CPU
        write_config(config, directory / model.name / "config.pbtxt")
    return directory
