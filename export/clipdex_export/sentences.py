"""The texts of the parity gate: what people type, and what breaks tokenizers."""

from __future__ import annotations

__all__ = ["GATE_TEXTS"]

GATE_TEXTS: tuple[str, ...] = (
    # queries and captions
    "a cat sleeping on a couch",
    "a red circle",
    "two small blue squares above a yellow triangle",
    "a photo of a dog",
    "an astronaut in an orange suit smiling in front of a flag",
    "a cup of black coffee on a wooden table, seen from above",
    "a rocket on the launch pad at night",
    "sunset over the mountains",
    "people walking in the rain with umbrellas",
    "a close-up photograph of a bee on a purple flower",
    "street market in Marrakech, 1970s, grainy film",
    "the word STOP on a sign",
    "black and white portrait of an old man with a beard",
    "not a car",
    "cat",
    "A",
    # letters of every case, digits, punctuation, contractions
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "MiXeD CaSe WoRdS",
    "I'm sure they've said it's what we'd do, isn't it? You'll see: they're gone.",
    "1234567890",
    "3.14159 and 1,000,000 and 50%",
    "invoice #4711, due 2024-02-29 (paid!)",
    "https://example.com/path?query=a%20b&x=1#top",
    "someone@example.com",
    "<b>bold</b> &amp; &lt;tag&gt;",
    "C:\\Users\\me\\Pictures\\IMG_0001.JPG",
    "!!!???...---___***",
    "quotes \"double\" 'single' “curly” ‘curly’ «angle»",
    "don't—stop… really?!",
    # white space
    "",
    " ",
    "   leading and trailing   ",
    "tabs\tand\nline breaks\r\nand\u00a0no-break\u2003em\u3000ideographic spaces",
    # other scripts, composed and decomposed letters
    "Ein schöner Tag in München, große Straßenfeste",
    "una niña comiendo piña en la montaña",
    "el\u0301e\u0300ve franc\u0327ais",
    "élève français",
    "кошка спит на диване",
    "一只猫在沙发上睡觉",
    "ソファで寝ている猫",
    "소파에서 자는 고양이",
    "قطة نائمة على الأريكة",
    "חתול ישן על הספה",
    "सोफे पर सोती हुई बिल्ली",
    "แมวนอนหลับบนโซฟา",
    "İstanbul'da ılık bir akşam",
    "ΟΔΥΣΣΕΥΣ και ς",
    "ﬁne ﬂowers, ½ cup, Ⅷ, x², ℃",
    # emoji, joined and flagged, and characters nobody sees
    "🐱 on a 🛋️",
    "👨‍👩‍👧‍👦 at the 🏖️ 🇯🇵 👍🏽",
    "zero\u200bwidth\u200djoiner\ufeffbom",
    "control \x01\x02 characters \x7f",
    "private \ue000 use and 𝒻𝒶𝓃𝒸𝓎 𝔩𝔢𝔱𝔱𝔢𝔯𝔰 𐍈",
    # longer than any context, and the tokens that mark start and end written out
    "a photo of " + "a very " * 100 + "long text",
    "cats and dogs " * 12,
    "word" * 120,
    "🎉" * 90,
    "<|startoftext|> a cat <|endoftext|>",
    "a cat <|endoftext|> a dog",
)
