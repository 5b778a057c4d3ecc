"""--same-as: the fingerprint of a model is taken where its vectors are given, and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from clipdex.base.errors import ClipdexError, InvalidArgument, ParityError

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_gate  # noqa: E402
from onnx_layouts import hf_model, write_vision  # noqa: E402

from clipdex_export import export_model, same_space  # noqa: E402

SEVERAL = ["transformers_js", "optimum", "fastembed"]


@pytest.fixture(autouse=True)
def gate_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    small_gate.use_it(monkeypatch)


@pytest.fixture(scope="module")
def from_pytorch(onnx_source: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `original`, exported from PyTorch."""
    repository = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        small_gate.use_it(patch)
        export_model(f"{onnx_source('transformers_js')}-checkpoint", name="original", repository=repository)
    return repository


@pytest.fixture
def repository(from_pytorch: Path, tmp_path: Path) -> Path:
    """A copy, to install in."""
    return Path(shutil.copytree(from_pytorch, tmp_path / "models"))


def export(source: object, repository: Path, name: str = "m", **options: Any) -> Any:
    return export_model(str(source), name=name, repository=repository, **options).card


@pytest.mark.slow
@pytest.mark.parametrize("case", SEVERAL)
def test_one_model_of_two_kinds_of_file_shares_a_fingerprint(
    onnx_source: Callable[[str], str], from_pytorch: Path, repository: Path, case: str
) -> None:
    """Three tools, and PyTorch: the files differ, the vectors do not."""
    plain = export(onnx_source(case), repository, "plain")
    proven = export(onnx_source(case), repository, same_as="original")
    with_torch = same_space.find_other(Path("original"), repository).card
    assert plain.fingerprint != with_torch.fingerprint == proven.fingerprint
    parity = proven.parity
    assert parity["same_as"] == "original" and parity["own_weights_sha256"] == plain.weights_sha256
    assert (
        parity["same_as_floor"]
        == 0.9999
        < min(parity["same_as_image_cosine_min"], parity["same_as_text_cosine_min"])
    )
    assert (proven.logit_scale, proven.logit_bias) == (with_torch.logit_scale, with_torch.logit_bias)
    assert parity["logit_scale"] == "original" and proven.source == onnx_source(case)


@pytest.mark.slow
def test_an_index_is_shared(
    onnx_source: Callable[[str], str], repository: Path, pictures: Path, tmp_path: Path
) -> None:
    """Written with PyTorch's export, searched and written to with the adopted one."""
    import clipdex

    export(onnx_source("transformers_js"), repository, same_as="original")
    with clipdex.connect(f"inproc:{repository}", model="original") as client:
        clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1)
    (pictures / "0.png").rename(pictures / "first.png")
    with clipdex.connect(f"inproc:{repository}", model="m") as client:
        report = clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1)
        assert report.failed == 0
        with clipdex.Index.open(tmp_path / "x") as index:
            assert len(index.search(client.embed_texts(["a cat"]), top_k=3)[0]) == 3


def refused(source: object, repository: Path, same_as: object, **options: Any) -> str:
    before = sorted(path.name for path in repository.iterdir())
    with pytest.raises(ClipdexError) as caught:
        export(source, repository, "refused", same_as=same_as, **options)
    assert sorted(path.name for path in repository.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_another_model_is_refused(onnx_source: Callable[[str], str], repository: Path, tmp_path: Path) -> None:
    """A fine-tuned one: nearly the same, but for a hundredth of one matrix."""
    import torch

    model = hf_model(Path(f"{onnx_source('transformers_js')}-checkpoint"))
    with torch.no_grad():
        weight = model.visual_projection.weight
        weight += 0.03 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    source = Path(shutil.copytree(onnx_source("transformers_js"), tmp_path / "tuned"))
    write_vision(model, source / "onnx" / "vision_model.onnx")
    message = refused(source, repository, "original")
    assert message.startswith("refused is not the same as original: the smallest cosine is 0.99")
    assert "for pictures and 1.000000 for texts, the floor is 0.9999;" in message
    assert "are the same, the floor is 95%" in message
    message = refused(onnx_source("immich"), repository, "original")
    assert (
        message == "refused is not the same as original: it has vectors of 24 dimensions, and original has "
        "vectors of 40 dimensions"
    )


def test_force_does_not_force_that(onnx_source: Callable[[str], str], repository: Path) -> None:
    assert "is not the same as" in refused(onnx_source("immich"), repository, "original", force=True)


@pytest.mark.slow
def test_what_proves_nothing(
    onnx_source: Callable[[str], str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = onnx_source("transformers_js")
    export(source, repository, "chained", same_as="original")
    assert refused(source, repository, "chained").endswith(
        "proves nothing: chained has its own fingerprint from original: compare with that"
    )
    export(source, repository, "forced", same_as=None)
    forge(repository, "forced", forced=True, problem="the gate said so")
    assert refused(source, repository, "forced").endswith("was installed although the gate said so")
    forge(repository, "forced", forced=False, random_weights=3)
    assert refused(source, repository, "forced").endswith("was never compared with a trained checkpoint")
    forge(repository, "forced", random_weights=0, image_cosine_min=None)
    assert refused(source, repository, "forced").endswith("was never compared with a trained checkpoint")


def test_int8_proves_nothing(onnx_source: Callable[[str], str], repository: Path) -> None:
    forge(repository, "original", "int8")
    message = refused(onnx_source("transformers_js"), repository, "original")
    assert message.endswith("original is in int8: compare with the same model in fp32 or fp16")


def forge(repository: Path, name: str, precision: str | None = None, **changes: Any) -> None:
    """Change the parity of an installed card; None removes an entry."""
    from dataclasses import replace

    from clipdex.model.assets import pack_assets, unpack_assets
    from clipdex_export.assets_model import write_assets_model

    path = repository / f"{name}_assets" / "1" / "model.onnx"
    zipped = next(tensor for tensor in onnx.load(path).graph.initializer if tensor.name == "zip")
    assets = unpack_assets(zipped.raw_data)
    parity = {key: value for key, value in ({**assets.card.parity} | changes).items() if value is not None}
    card = replace(assets.card, parity=parity, precision=precision or assets.card.precision)
    write_assets_model(pack_assets(card, assets.tokenizer_json), path)


def test_a_model_elsewhere_and_none(onnx_source: Callable[[str], str], from_pytorch: Path, tmp_path: Path) -> None:
    source = onnx_source("transformers_js")
    with pytest.raises(InvalidArgument, match=r"same_as is original: .* has no model original"):
        export(source, tmp_path / "new", same_as="original")
    card = export(source, tmp_path / "new", same_as=from_pytorch / "original")
    assert card.parity["same_as"] == "original"
    (tmp_path / "new" / "m_assets" / "1" / "model.onnx").write_bytes(b"x")
    with pytest.raises(InvalidArgument, match=r"same_as is m: .* cannot be read"):
        export(source, tmp_path / "new", "n", same_as="m")


@pytest.mark.slow
def test_half_precision_is_proven_before_it_is_rounded(
    onnx_source: Callable[[str], str], repository: Path
) -> None:
    """The towers are compared as they come, in float32; the gate judges what the precision costs."""
    proven = export(onnx_source("transformers_js"), repository, same_as="original", precision="fp16")
    assert proven.precision == "fp16" and proven.parity["same_as_image_cosine_min"] > 0.9999999
    assert np.isclose(proven.parity["same_as_floor"], 0.9999)


def test_a_tower_that_is_swapped_for_a_look_alike_is_refused(
    onnx_source: Callable[[str], str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts count as much as the pictures."""
    right: Any = vars(same_space)["export_side"]
    calls: list[int] = []

    def side(*given: Any) -> Any:
        from dataclasses import replace

        found = right(*given)
        calls.append(1)
        return replace(found, text=found.text[::-1].copy()) if len(calls) == 1 else found

    monkeypatch.setattr(same_space, "export_side", side)
    with pytest.raises(ParityError, match="is not the same as original"):
        export(onnx_source("transformers_js"), repository, same_as="original")
