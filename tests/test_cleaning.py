"""What is done to a text before the tokenizer, step by step."""

from __future__ import annotations

import pytest

from clipdex.base.errors import CardError
from clipdex.model.card import TextSpec
from clipdex.model.cleaning import _MOST_PASSES, STEPS, clean, known_steps

pytestmark = pytest.mark.thin


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        ("none", " A  Cat!\n", " A  Cat!\n"),
        ("lower", "ΟΔΥΣΣΕΥΣ İ", "οδυσσευς i̇"),  # a sigma at the end of a word is another letter
        ("punctuation", "it's a \"cat\", isn't it? «yes»", "its a cat isnt it «yes»"),
        ("underscores", "a_red_circle", "a red circle"),
        ("whitespace", "  a\u00a0cat\t on\u3000 it \n", "a cat on it"),
        ("unescape", " &lt;b&gt; &amp;amp; caf&eacute; &copy ", "<b> & café ©"),
        ("fix", "“it’s” ﬁne", '"it\'s" fine'),
        ("fix", "ＬＯＵＤ　ＮＯＩＳＥＳ ﾀ", "LOUD NOISES タ"),
        ("fix", "e\u0301le\u0300ve", "élève"),
        ("fix", "a\x01b\ufeffc\x7f \x1b[31mred\x1b[0m", "abc red"),
        ("fix", "one\r\ntwo\u2028three\x85four", "one\ntwo\nthree…four"),
        ("fix", "&rsquo; &EACUTE; &#233; &nosuch;", "' É é &nosuch;"),
        ("fix", "a &semi; b &#59; c", "a ; b &#59; c"),  # as ftfy has it: a number that is a semicolon stays
        ("fix", "<p>&amp;</p>\n&amp;", "<p>&amp;</p>\n&amp;"),  # tags: it is HTML, and means its entities
        ("fix unescape whitespace lower", "  The “Cat”&amp;Dog ", 'the "cat"&dog'),
    ],
)
def test_steps(steps: str, text: str, expected: str) -> None:
    assert clean(text, steps) == expected


def test_steps_are_taken_in_the_order_of_the_card() -> None:
    assert clean("a_b", "underscores punctuation") == "a b"
    assert clean("a_b", "punctuation underscores") == "ab"


@pytest.mark.parametrize("cleaning", ["none", "lower", " ".join(STEPS)])
def test_a_card_names_known_steps(cleaning: str) -> None:
    assert known_steps(cleaning)
    assert TextSpec(16, 0, 1, cleaning, "0" * 64).cleaning == cleaning


@pytest.mark.parametrize("cleaning", ["", "shout", "lower  whitespace", "none lower"])
def test_others_are_refused(cleaning: str) -> None:
    with pytest.raises(CardError, match=r"text\.cleaning is .*; expected none, or steps from fix, unescape"):
        TextSpec(16, 0, 1, cleaning, "0" * 64)


def test_a_lone_surrogate_is_no_error() -> None:
    assert clean("a \ud83d cat", "fix lower")


def test_entities_in_entities_are_undone_but_not_without_end() -> None:
    """Every level is a pass over the line: thousands, made to keep a server busy, are left as they are."""
    assert clean("&" + "amp;" * 20 + "lt;b", "fix") == "<b"
    assert clean("&" + "amp;" * 5000, "fix") == "&" + "amp;" * (5000 - _MOST_PASSES)
