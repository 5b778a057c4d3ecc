"""What `clipdex export` prints at its end: a table of the towers, for people and for programs."""

import json
import re
from dataclasses import replace

import pytest
from conftest import MODEL_REPOSITORY

from clipdex.client.held_models import list_models

exporting = pytest.importorskip("clipdex_export.exporting")


@pytest.fixture
def report(tmp_path):
    """An export of the demo model, whose gate measured what its card says."""
    (held,) = [model for model in list_models(str(MODEL_REPOSITORY)) if model.name == "demo"]
    paths = {part: MODEL_REPOSITORY / f"demo_{part}" for part in ("image", "text", "assets")}
    return exporting.ExportReport(held.card, MODEL_REPOSITORY, paths, held.bytes_on_disk, (), ())


@pytest.fixture
def export(run, report, monkeypatch):
    def export(*words, report=report):
        monkeypatch.setattr(exporting, "export_model", lambda source, **options: report)
        return run("export", "checkpoint", "--name", "demo", *words)

    return export


def test_an_export_ends_in_a_table_and_the_next_command(export, report, monkeypatch):
    monkeypatch.chdir(MODEL_REPOSITORY.parent)
    status, out, err = export()
    assert (status, err) == (0, "")
    first, head, image, text, overlap, fingerprint, last = out.splitlines()
    card = report.card
    assert (
        first == f"demo: {card.embedding_dim} dimensions, {card.image.size} px, {card.text.context_length} tokens"
    )
    assert re.split("  +", head) == ["tower", "precision", "size", "lowest cosine", "mean cosine"]
    for tower, line in (("image", image), ("text", text)):
        cells = re.split("  +", line)
        assert cells[:2] == [tower, "fp32"]
        bytes_ = sum(p.stat().st_size for p in report.paths[tower].rglob("*") if p.is_file())
        assert cells[2] == f"{bytes_ / 1e6:,.1f} MB"
        assert float(cells[3]) == pytest.approx(card.parity[f"{tower}_cosine_min"], abs=1e-6)
        assert line.index(cells[2]) + len(cells[2]) == head.index("size") + 4, "the columns are not aligned"
    assert overlap.startswith(f"top-10 overlap with the checkpoint: {card.parity['top10_overlap']:.3f}, ")
    assert fingerprint == f"fingerprint {card.fingerprint}"
    assert last == "installed in model_repository; next:  clipdex serve --repository model_repository"


def test_towers_of_two_precisions_and_an_unmeasured_gate(export, report):
    card = replace(report.card, precision="int8", parity={"text_precision": "fp32", "image_cosine_min": 0.9971})
    out = export(report=replace(report, card=card))[1]
    assert re.search(r"^image +int8 +[\d.]+ MB +0\.997100 +not measured$", out, re.M)
    assert re.search(r"^text +fp32 +[\d.]+ MB +not measured +not measured$", out, re.M)
    assert "top-10 overlap with the checkpoint: not measured\n" in out


def test_an_export_as_json(export, report):
    status, out, err = export("--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert (found["name"], found["fingerprint"]) == ("demo", report.card.fingerprint)
    assert [tower["tower"] for tower in found["towers"]] == ["image", "text"]
    assert found["towers"][0]["cosine_min"] == report.card.parity["image_cosine_min"]
    assert found["bytes_on_disk"] >= sum(tower["bytes"] for tower in found["towers"])


def test_counts_of_weights_are_right_in_number(export, report):
    err = export(report=replace(report, unused_weights=("a",), random_weights=("a", "b")))[2]
    assert "1 weight of the checkpoint is not used by the model: a\n" in err
    assert "2 weights are random: the vectors are meaningless\n" in err
