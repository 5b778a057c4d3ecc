"""Token ids equal those of the families' own tokenizers: OpenCLIP's SimpleTokenizer, SigLIP's SentencePiece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.model.cleaning import clean
from clipdex.model.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_tokens_equal_hf import texts  # noqa: E402
from tiny_families import write_siglip  # noqa: E402
from torchvision_standin import import_open_clip  # noqa: E402

from clipdex_export.families import load_checkpoint  # noqa: E402
from clipdex_export.families.open_clip_tokenizer import convert  # noqa: E402
from clipdex_export.sentences import GATE_TEXTS  # noqa: E402
from clipdex_export.tokenizer_json import spec_of  # noqa: E402

# Entities, quotes, width, escapes: what OpenCLIP repairs before it reads.
REPAIRED = (
    "&rsquo;x &EACUTE; &#233;", "<p>&amp;</p>\n&amp;", "x &amp;lt; y", "\x1b[31mred\x1b[0m", "ＬＯＵＤ　Ｎ",
    "it’s “so”", "ŉ", "a\x85b \x93c\x94", "a\r\nb\rc\u2028d", "ﬁne ﬂowers",
)  # fmt: skip


def batch() -> tuple[list[str], list[str]]:
    """Texts that people write, and seeded mixtures of scripts that nobody does; as a client gets them."""
    everything = [text.encode("utf-8", "replace").decode() for text in texts()]
    mixtures = everything[len(GATE_TEXTS) + 300 : -99]
    assert len(mixtures) == 300
    return [text for text in everything if text not in set(mixtures)], mixtures


def differing(ours: Tokenizer, theirs: Any, given: list[str]) -> list[str]:
    found, expected = ours(given), np.asarray(theirs(given))
    return [text for text, a, b in zip(given, found, expected, strict=True) if (a != b).any()]


@pytest.fixture(scope="module")
def open_clip() -> tuple[Tokenizer, Any]:
    own = import_open_clip().get_tokenizer("ViT-B-32")
    tokens = convert(own)
    spec = spec_of(
        tokens.tokenizer_json,
        vocabulary=49_408,
        context_length=77,
        pad_id=tokens.pad_id,
        end_id=tokens.end_id,
        cleaning=tokens.cleaning,
    )
    return Tokenizer(tokens.tokenizer_json, spec), own


def test_open_clip_s_own(open_clip: tuple[Tokenizer, Any]) -> None:
    ours, own = open_clip
    people, mixtures = batch()
    assert differing(ours, own, [*people, *REPAIRED]) == []
    # The two libraries know other editions of Unicode: what is a letter in one is none in the other.
    assert len(differing(ours, own, mixtures)) <= 0.03 * len(mixtures)


def test_a_mark_of_the_end_in_a_text(open_clip: tuple[Tokenizer, Any]) -> None:
    ours, own = open_clip
    assert differing(ours, own, ["a <end_of_text> b", "<start_of_text>a cat"]) == []


def test_what_is_not_repaired_is_mojibake(open_clip: tuple[Tokenizer, Any]) -> None:
    """ftfy guesses at text that was decoded wrongly; a client does not. The only repair it leaves out."""
    ours, own = open_clip
    assert differing(ours, own, ["schÃ¶n", "schön"]) == ["schÃ¶n"]


def test_the_repairs_are_ftfy_s() -> None:
    ftfy = pytest.importorskip("ftfy")
    people, mixtures = batch()
    given = [*people, *mixtures, *REPAIRED]
    assert [text for text in given if clean(text, "fix") != ftfy.fix_text(text)] == []


def test_siglip_s_sentence_piece(tmp_path: Path) -> None:
    from transformers import SiglipTokenizer

    text = load_checkpoint(write_siglip(tmp_path)).text
    reference = SiglipTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer(text.tokenizer_json, text.spec)

    def theirs(given: list[str]) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": text.spec.context_length}
        return reference(given, **options)["input_ids"]

    people, mixtures = batch()
    assert differing(ours, theirs, people) == []
    # tokenizers normalises by grapheme: marks that combine with nothing they belong to.
    assert len(differing(ours, theirs, mixtures)) <= 0.02 * len(mixtures)
    assert len(set(ours(people).ravel().tolist())) > 500


@pytest.mark.parametrize("mode", ["simple", "random", "shuffle"])
def test_a_tokenizer_that_leaves_out_words_is_refused(mode: str) -> None:
    from clipdex.base.errors import CheckpointError

    own = import_open_clip().tokenizer.SimpleTokenizer(reduction_mask=mode)
    with pytest.raises(CheckpointError, match="drops words at random"):
        convert(own)
