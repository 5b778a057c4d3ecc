"""What a picture's file says of itself: read from each format, bounded, and never a reason to fail."""

import io
import struct
import time
import unicodedata
import zlib

import pytest
from conftest import noise
from pictures_with_exif import bag, exif_block, in_jpeg, packet, picture, tiff
from PIL import Image, features

from clipdex import Exif
from clipdex.base.exif import exif_from_json
from clipdex.model.picture_exif import exif_of, sidecar_of

pytestmark = pytest.mark.thin

FULL = exif_block(
    offset="+02:00",
    place=(48.1371, 11.5754),
    lens="EF50mm f/1.8",
    make="Google",
    model="Pixel 7",
    description="in the garden",
    rating=4,
)
SAID = Exif(
    taken="2024-06-01T17:30:00",
    taken_offset="+02:00",
    make="Google",
    camera="Pixel 7",
    lens="EF50mm f/1.8",
    latitude=48.1371,
    longitude=11.5754,
    rating=4,
    description="in the garden",
)


def kinds():
    return ["JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("kind", kinds())
def test_exif_is_read_from_every_format_that_has_it(kind):
    assert exif_of(picture(kind, FULL)) == SAID


@pytest.mark.parametrize("kind", kinds())
def test_xmp_is_read_from_every_format_that_has_it(kind):
    xmp = packet(bag("dc:subject", "Strand", "Urlaub"), 'xmp:Rating="5"')
    assert exif_of(picture(kind, None, xmp)) == Exif(rating=5, keywords=("Strand", "Urlaub"))


def test_a_picture_that_says_nothing_says_nothing():
    for kind in (*kinds(), "GIF", "BMP"):
        found = exif_of(picture(kind))
        assert found == Exif() and not found, kind
    assert exif_of(b"") == exif_of(b"no picture at all") == Exif()


def test_a_png_may_say_it_behind_its_pixels():
    data = picture("PNG", FULL, packet(bag("dc:subject", "a")))
    chunks, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at:end])
        at = end
    behind = [chunk for chunk in chunks if chunk[4:8] in (b"eXIf", b"iTXt")]
    assert len(behind) == 2
    rest = [chunk for chunk in chunks if chunk not in behind]
    moved = data[:8] + b"".join([*rest[:-1], *behind, rest[-1]])
    assert exif_of(moved).taken == SAID.taken and exif_of(moved).keywords == ("a",)


@pytest.mark.slow
def test_packed_xmp_in_a_png_is_unpacked_within_bounds():
    def with_text(packed):
        body = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + packed
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = picture("PNG")
        return data[:33] + chunk + data[33:]

    assert exif_of(with_text(zlib.compress(packet(bag("dc:subject", "a"))))).keywords == ("a",)
    bomb = zlib.compress(b" " * (200 << 20))
    assert exif_of(with_text(bomb)) == Exif()
    assert exif_of(with_text(b"not deflate")) == Exif()


def test_keywords_and_texts_are_read_from_iptc():
    def dataset(record, number, value):
        return bytes((0x1C, record, number)) + struct.pack(">H", len(value)) + value

    iim = dataset(1, 90, b"\x1b%G") + dataset(2, 25, "Käse".encode()) + dataset(2, 25, b"Brot")
    iim += dataset(2, 5, b"Lunch") + dataset(2, 120, b"on a table")
    resource = b"8BIM" + struct.pack(">H", 0x0404) + b"\0\0" + struct.pack(">I", len(iim)) + iim
    other = b"8BIM" + struct.pack(">H", 0x03ED) + b"\1x" + struct.pack(">I", 3) + b"abc\0"
    body = b"Photoshop 3.0\0" + other + resource
    plain = picture()
    data = plain[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    expected = Exif(keywords=("Käse", "Brot"), title="Lunch", description="on a table")
    assert exif_of(data) == expected
    for end in range(20, len(body)):  # cut anywhere
        cut = body[:end]
        exif_of(plain[:2] + b"\xff\xed" + struct.pack(">H", len(cut) + 2) + cut + plain[2:])


@pytest.mark.parametrize(
    ("elements", "attributes", "expected"),
    [
        ("<xmp:Rating>3</xmp:Rating>", "", Exif(rating=3)),
        ("", 'xmp:Rating="-1"', Exif(rating=-1)),
        ("", 'xmp:Rating="2.0"', Exif(rating=2)),
        ("", 'xmp:Rating="6"', Exif()),
        ("", 'xmp:Rating="1e9"', Exif()),
        (
            '<dc:title><rdf:Alt><rdf:li xml:lang="de">Haus</rdf:li><rdf:li xml:lang="x-default">House</rdf:li>'
            "</rdf:Alt></dc:title>",
            "",
            Exif(title="House"),
        ),
        ("", 'exif:DateTimeOriginal="2024-06-01T17:30:00.25+02:00"', Exif("2024-06-01T17:30:00", "+02:00")),
        ("", 'photoshop:DateCreated="2024-06-01T17:30:00Z"', Exif("2024-06-01T17:30:00", "+00:00")),
        ("", 'xmp:CreateDate="2024-06-01T17:30"', Exif("2024-06-01T17:30:00")),
        ("", 'photoshop:DateCreated="1923-05-04"', Exif("1923-05-04T00:00:00")),
        ("", 'photoshop:DateCreated="1923"', Exif()),
        (
            "",
            'exif:DateTimeOriginal="2024-02-30T00:00:00" xmp:CreateDate="2024-03-01"',
            Exif("2024-03-01T00:00:00"),
        ),
        (
            "",
            'exif:GPSLatitude="48,8.226N" exif:GPSLongitude="11,34,31.44W"',
            Exif(latitude=48.1371, longitude=-11.5754),
        ),
        ("", 'exif:GPSLatitude="48,8.226N"', Exif()),
        ("", 'exif:GPSLatitude="91,0.0N" exif:GPSLongitude="11,0.0E"', Exif()),
        (
            "",
            'tiff:Make="Canon" tiff:Model="Canon EOS R5" aux:Lens="RF 50"',
            Exif(make="Canon", camera="Canon EOS R5", lens="RF 50"),
        ),
        (bag("dc:subject", "a", "b", "a", " ", "c&amp;d"), "", Exif(keywords=("a", "b", "c&d"))),
    ],
)
def test_what_xmp_says(elements, attributes, expected):
    assert exif_of(b"", packet(elements, attributes)) == expected
    assert exif_of(picture(xmp=packet(elements, attributes))) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"taken": "0000:00:00 00:00:00"}, Exif()),
        ({"taken": "2024:13:01 00:00:00"}, Exif()),
        ({"taken": "    :  :     :  :  "}, Exif()),
        ({"taken": "2024:06:01 24:30:00"}, Exif()),
        ({"taken": "yesterday"}, Exif()),
        ({"offset": "+25:00"}, Exif("2024-06-01T17:30:00")),
        ({"offset": "   :  "}, Exif("2024-06-01T17:30:00")),
        ({"place": (0.0, 0.0)}, Exif("2024-06-01T17:30:00")),
        ({"place": (-33.8568, 151.2153)}, Exif("2024-06-01T17:30:00", latitude=-33.8568, longitude=151.2153)),
        ({"place": (90.5, 10)}, Exif("2024-06-01T17:30:00")),
        ({"place": (10, 180.5)}, Exif("2024-06-01T17:30:00")),
        ({"rating": 99}, Exif("2024-06-01T17:30:00")),
        ({"make": "  Canon\0\0junk"}, Exif("2024-06-01T17:30:00", make="Canon")),
        ({"model": "a\x1b[31mb\r\nc"}, Exif("2024-06-01T17:30:00", camera="a [31mb c")),
        ({"description": "x" * 60_000}, Exif("2024-06-01T17:30:00", description="x" * 10_000)),
        ({"model": "y" * 300}, Exif("2024-06-01T17:30:00", camera="y" * 200)),
    ],
)
def test_what_exif_says_is_checked(options, expected):
    assert exif_of(picture(exif=exif_block(**options))) == expected


def test_a_place_divided_by_zero_is_none():
    exif = exif_block(place=(48.1371, 11.5754))
    raw = exif.tobytes()
    for fraction in (struct.pack(">II", 48, 1), struct.pack(">II", 8, 1)):  # of the latitude
        assert raw.count(fraction) == 1
        for zero in (struct.pack(">II", 0, 0), struct.pack(">II", 7, 0)):
            said = exif_of(picture(exif=raw.replace(fraction, zero)))
            assert (said.latitude, said.longitude, said.taken) == (None, None, "2024-06-01T17:30:00")
    assert exif_of(picture(exif=raw)).latitude == 48.1371


def test_texts_are_composed_as_filters_are():
    said = exif_of(b"", packet(bag("dc:subject", unicodedata.normalize("NFD", "Café"))))
    assert said.keywords == ("Café",)


def test_a_sidecar_counts_before_the_file_and_exif_before_its_xmp():
    file = picture(
        exif=exif_block(model="from EXIF", description="from EXIF"),
        xmp=packet(bag("dc:description", "from XMP") + bag("dc:subject", "x"), 'tiff:Model="from XMP"'),
    )
    assert exif_of(file) == Exif(
        "2024-06-01T17:30:00", camera="from EXIF", description="from XMP", keywords=("x",)
    )
    beside = packet(bag("dc:subject", "s"), 'xmp:Rating="2" exif:DateTimeOriginal="2001-02-03T04:05:06+01:00"')
    said = exif_of(file, beside)
    assert (said.taken, said.taken_offset, said.rating, said.keywords) == (
        *("2001-02-03T04:05:06", "+01:00"),
        *(2, ("s",)),
    )
    assert said.camera == "from EXIF"


def test_a_date_takes_no_offset_of_another_source():
    file = picture(exif=exif_block(offset="+02:00"))
    said = exif_of(file, packet("", 'exif:DateTimeOriginal="2001-02-03T04:05:06"'))
    assert (said.taken, said.taken_offset) == ("2001-02-03T04:05:06", None)


EVIL_XML = [
    b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    + packet("<dc:title>&b;</dc:title>")[60:],
    b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    b"<x:xmpmeta" * 1000,
    b"<a>" * 100_000,
    b"<a>" + b"<b/>" * 200_000 + b"</a>",
    packet("<dc:title>&undefined;</dc:title>"),
    packet("<dc:title>ABC</dc:title>").replace(b"ABC", b"\xff\xfe"),
    packet(bag("dc:subject", "a"))[:-60],
    packet(bag("dc:subject", "a")) + b" " * (1 << 20),
    '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY e "1">]><x>&e;</x>'.encode("utf-16"),
    b'<?xml version="1.0" encoding="no-such"?><x/>',
    b"\0" * 1000,
    b"%PDF-1.4",
]


@pytest.mark.parametrize("xml", EVIL_XML)
def test_an_evil_packet_says_nothing(xml):
    began = time.perf_counter()
    assert exif_of(picture(), xml) == Exif()
    assert exif_of(picture(exif=FULL), xml) == SAID
    assert time.perf_counter() - began < 20  # not a timing: it would not end


def test_a_document_type_is_refused_even_if_it_is_harmless():
    """Without the refusal, this packet would be read: entities of its own are what it may not have."""
    harmless = packet("<dc:title>&t;</dc:title>")
    at = harmless.index(b"<x:xmpmeta")
    with_type = harmless[:at] + b'<!DOCTYPE x [<!ENTITY t "a title">]>' + harmless[at:]
    assert exif_of(b"", with_type) == Exif()
    assert exif_of(b"", harmless.replace(b"&t;", b"a title")) == Exif(title="a title")


def test_thousands_of_keywords_are_cut():
    said = exif_of(b"", packet(bag("dc:subject", *(f"word {i}" for i in range(5_000)))))
    assert said.keywords == tuple(f"word {i}" for i in range(500))


def test_counts_and_offsets_are_not_believed():
    long = (0x010F, 2, 0xFFFFFFFF, struct.pack("<I", 8))
    outside = (0x0110, 2, 100, struct.pack("<I", 0x7FFFFFFF))
    loop = (0x8769, 4, 1, struct.pack("<I", 8))
    negative = (0x8825, 4, 1, struct.pack("<I", 0xFFFFFFFF))
    odd_type = (0x010E, 99, 5, b"abcd")
    assert exif_of(in_jpeg(tiff(long, outside, loop, negative, odd_type))) == Exif()
    # A directory that claims 65,535 entries, of which each refers to the whole block.
    block = b"II*\0" + struct.pack("<IH", 8, 0xFFFF)
    block += struct.pack("<HHII", 0x010F, 2, 60_000, 0) * 4_000
    assert exif_of(in_jpeg(block)).make is None
    for start in (b"", b"II", b"II*\0", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff"):
        assert exif_of(in_jpeg(start)) == Exif()


def test_a_block_that_is_cut_anywhere_is_read_as_far_as_it_goes():
    block = FULL.tobytes()
    whole = exif_of(in_jpeg(block.removeprefix(b"Exif\0\0")))
    assert whole == SAID
    for end in range(len(block)):
        said = exif_of(in_jpeg(block[:end].removeprefix(b"Exif\0\0")))
        for name, value in said.as_dict().items():
            assert value == getattr(SAID, name) or isinstance(value, str), (end, name)


def test_a_file_that_is_cut_or_flipped_anywhere_raises_nothing():
    for kind in kinds():
        data = picture(kind, FULL, packet(bag("dc:subject", "a")))
        step = max(1, len(data) // 150)
        for at in range(0, len(data), step):
            exif_of(data[:at])
            flipped = bytearray(data)
            flipped[at] ^= 0xFF
            exif_of(bytes(flipped))


def test_big_endian_is_read_as_well():
    value = (0x0110, 2, 3, b"R5\0\0")
    assert exif_of(in_jpeg(tiff(value, order=">"))) == exif_of(in_jpeg(tiff(value))) == Exif(camera="R5")


def test_a_sidecar_is_found_by_either_name(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    assert sidecar_of(path) == b""
    (tmp_path / "a.xmp").write_bytes(b"one")
    assert sidecar_of(str(path)) == b"one"
    (tmp_path / "a.jpg.xmp").write_bytes(b"two")
    assert sidecar_of(bytes(path)) == b"two"


def test_a_sidecar_that_is_no_small_file_is_left(tmp_path):
    import os

    (tmp_path / "a.xmp").mkdir()
    os.mkfifo(tmp_path / "b.xmp")
    (tmp_path / "c.xmp").write_bytes(b" " * ((1 << 20) + 1))
    (tmp_path / "d.xmp").symlink_to("nothing")
    assert [sidecar_of(tmp_path / f"{name}.jpg") for name in "abcd"] == [b""] * 4


def test_json_of_it_is_read_back_and_what_is_impossible_left_out():
    assert exif_from_json(SAID.as_json()) == SAID
    assert exif_from_json(Exif().as_json()) == Exif()
    odd = '{"taken":5,"rating":true,"latitude":NaN,"longitude":1,"keywords":[1,"a",null],"other":1,"make":["x"]}'
    assert exif_from_json(odd) == Exif(keywords=("a",))
    with pytest.raises(ValueError):
        exif_from_json("[]")


def test_half_a_surrogate_pair_becomes_a_mark():
    assert Exif.of(title="a\ud83d").title == "a?"


def test_exif_of_another_orientation_is_not_in_the_way():
    exif = exif_block(model="R5")
    exif[0x0112] = 6
    buffer = io.BytesIO()
    noise(1).save(buffer, "JPEG", exif=exif)
    assert exif_of(buffer.getvalue()).camera == "R5"
    assert isinstance(Image.open(buffer), Image.Image)
