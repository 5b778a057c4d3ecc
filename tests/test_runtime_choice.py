"""Which runtime computes a model on a CPU: by its configuration, the processor, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipdex.base.processor import Processor, read_processor, this_processor
from clipdex.wire.generated import model_config_pb2, text_format
from clipdex.wire.runtimes.choice import Choice, choose

pytestmark = pytest.mark.thin

AMX = Processor("x86_64", frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}))
ZEN_4 = Processor("x86_64", frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}), "AuthenticAMD")
# Intel's has instructions for bf16 that are no faster than those for float32.
COOPER_LAKE = Processor("x86_64", ZEN_4.flags, "GenuineIntel")
VNNI = Processor("x86_64", frozenset({"avx2", "avx512f", "avx512_vnni"}))
ZEN_3 = Processor("x86_64", frozenset({"avx2"}))
ARM = Processor("aarch64", frozenset({"asimd", "asimddp", "bf16", "i8mm"}))
BOTH = frozenset({"onnxruntime", "openvino"})


def config(backend: str = "onnxruntime", kind: str = "KIND_AUTO", bf16: str = "", precision: str = "") -> Any:
    text = f'name: "m_image" backend: "{backend}" instance_group [ {{ count: 1, kind: {kind} }} ]'
    if bf16:
        text += f' parameters {{ key: "HINT_BF16" value: {{ string_value: "{bf16}" }} }}'
    if precision:
        text += f' parameters {{ key: "clipdex_precision" value: {{ string_value: "{precision}" }} }}'
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("processor", [AMX, ZEN_4])
@pytest.mark.parametrize("kind", ["KIND_AUTO", "KIND_CPU"])
def test_a_model_that_allows_bf16_is_computed_in_it_where_the_processor_gains_by_it(processor, kind):
    choice = choose(config(kind=kind, bf16="YES"), processor=processor, installed=BOTH)
    assert (choice.runtime, choice.bf16) == ("openvino", True)
    assert "AVX512_BF16" in choice.why


@pytest.mark.parametrize("processor", [COOPER_LAKE, VNNI, ZEN_3, ARM])
def test_elsewhere_onnxruntime_computes_it_in_float32_and_says_why(processor):
    choice = choose(config(bf16="YES"), processor=processor, installed=BOTH)
    assert choice == Choice("onnxruntime", False, "in float32, since this processor gains nothing by bf16")


@pytest.mark.parametrize("processor", [AMX, ZEN_4, COOPER_LAKE, VNNI])
@pytest.mark.parametrize("kind", ["KIND_AUTO", "KIND_CPU"])
def test_an_int8_model_is_computed_by_openvino_where_that_is_faster(processor, kind):
    choice = choose(config(kind=kind, precision="int8"), processor=processor, installed=BOTH)
    assert choice == Choice("openvino", False, f"faster in int8 on {processor}")
    without = choose(config(kind=kind, precision="int8"), processor=processor, installed={"onnxruntime"})
    assert without.runtime == "onnxruntime" and "OpenVINO, which is not installed, would be faster" in without.why


@pytest.mark.parametrize("processor", [ZEN_3, ARM])
def test_elsewhere_onnxruntime_computes_an_int8_model(processor):
    choice = choose(config(precision="int8"), processor=processor, installed=BOTH)
    assert choice == Choice("onnxruntime", False, "its configuration names it")


def test_a_gpu_takes_an_int8_model_that_does_not_ask_for_a_cpu():
    assert choose(config(precision="int8"), processor=VNNI, installed=BOTH, gpu=True).runtime == "onnxruntime"


def test_a_model_that_promises_float32_stays_where_it_was():
    for processor in (AMX, ZEN_3, ARM):
        choice = choose(config(), processor=processor, installed=BOTH)
        assert (choice.runtime, choice.bf16) == ("onnxruntime", False)


def test_what_is_not_installed_is_named():
    choice = choose(config(bf16="YES"), processor=AMX, installed={"onnxruntime"})
    assert choice.runtime == "onnxruntime" and "OpenVINO, which is not installed, would use bf16" in choice.why


def test_openvino_alone_computes_what_is_for_onnxruntime():
    choice = choose(config(), processor=ARM, installed={"openvino"})
    assert choice == Choice("openvino", False, "onnxruntime is not installed")


def test_a_configuration_for_openvino_is_obeyed_installed_or_not():
    for installed in (BOTH, {"onnxruntime"}):
        assert choose(config("openvino", "KIND_CPU", "YES"), processor=AMX, installed=installed).bf16
        slower = choose(config("openvino", "KIND_CPU", "YES"), processor=ZEN_3, installed=installed)
        assert (slower.runtime, slower.bf16) == ("openvino", False) and "in float32" in slower.why
        whole = choose(config("openvino", "KIND_CPU"), processor=AMX, installed=installed)
        assert (whole.runtime, whole.bf16) == ("openvino", False)


def test_a_gpu_takes_what_does_not_ask_for_a_cpu():
    assert choose(config(bf16="YES"), processor=AMX, installed=BOTH, gpu=True).why == "a GPU computes it"
    assert choose(config(kind="KIND_CPU", bf16="YES"), processor=AMX, installed=BOTH, gpu=True).bf16


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_bf16\n", ("AMX", "VNNI", "AVX512", "AVX2")),
        ("processor\t: 0\nflags\t\t: fpu avx2\nprocessor\t: 1\nflags\t\t: amx_bf16\n", ("AVX2",)),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n", ("I8MM", "DOTPROD", "NEON")),
        ("model name: nothing more\n", ()),
    ],
)
def test_the_instruction_sets_are_the_first_processors(tmp_path: Path, text: str, sets: tuple[str, ...]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert read_processor(tmp_path / "cpuinfo", "x86_64").sets == sets


def test_the_vendor_decides_what_avx512_bf16_gains(tmp_path: Path) -> None:
    for vendor, gains in (("AuthenticAMD", True), ("GenuineIntel", False)):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: avx2 avx512_bf16\n")
        assert read_processor(tmp_path / "cpuinfo", "x86_64").gains_by_bf16 is gains


def test_without_cpuinfo_nothing_is_known(tmp_path: Path) -> None:
    unknown = read_processor(tmp_path / "none", "arm64")
    assert (unknown.sets, unknown.gains_by_bf16, str(unknown)) == ((), False, "arm64")
    assert str(ZEN_3) == "x86_64 with AVX2"
    assert this_processor() is this_processor()
