"""The assets zip: deterministic, checked, cached by its hash."""

import hashlib
import io
import zipfile

import pytest

from clipdex.base.errors import CardError
from clipdex.model.assets import cached_assets, pack_assets, unpack_assets
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

CARD = FakeTransport().card
ZIP = pack_assets(CARD, b'{"a": "tokenizer"}')
SHA256 = hashlib.sha256(ZIP).hexdigest()


def test_packing_twice_gives_the_same_bytes():
    assert pack_assets(CARD, b'{"a": "tokenizer"}') == ZIP


def test_what_is_packed_is_unpacked():
    assets = unpack_assets(ZIP)
    assert (assets.card, assets.tokenizer_json) == (CARD, b'{"a": "tokenizer"}')


def _zip(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"no zip", ZIP[:-30], _zip(card_json="{}"), _zip(card_json="{}", tokenizer_json="")],
    ids=["empty", "noise", "cut", "no tokenizer", "no card"],
)
def test_anything_else_is_refused(data):
    with pytest.raises(CardError):
        unpack_assets(data)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5])
def test_a_flipped_bit_is_noticed(part):
    at = int(len(ZIP) * part)  # in the compressed data, which the zip's own CRC guards
    with pytest.raises(CardError):
        unpack_assets(ZIP[:at] + bytes([ZIP[at] ^ 1]) + ZIP[at + 1 :])


def test_the_second_time_nothing_is_fetched(tmp_path):
    fetched = []

    def fetch():
        fetched.append(1)
        return ZIP

    for _ in range(2):
        assert cached_assets(SHA256, fetch, tmp_path).card == CARD
    assert len(fetched) == 1


def test_a_damaged_copy_is_fetched_again(tmp_path):
    cached_assets(SHA256, lambda: ZIP, tmp_path)
    (kept,) = tmp_path.rglob("*.zip")
    kept.write_bytes(b"damaged")
    assert cached_assets(SHA256, lambda: ZIP, tmp_path).card == CARD
    assert kept.read_bytes() == ZIP


def test_a_server_whose_bytes_are_not_those_it_states_is_refused(tmp_path):
    with pytest.raises(CardError, match="the server states"):
        cached_assets("0" * 64, lambda: ZIP, tmp_path)
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize("hostile", ["../" * 10 + "etc/passwd", "a" * 63, "A" * 64, "/" * 64])
def test_a_server_never_names_a_path(tmp_path, hostile):
    with pytest.raises(CardError, match="as the sha256"):
        cached_assets(hostile, lambda: ZIP, tmp_path)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "assets").write_text("in the way")
    assert cached_assets(SHA256, lambda: ZIP, tmp_path).card == CARD
