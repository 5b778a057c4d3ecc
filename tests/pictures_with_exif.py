"""Pictures whose files say something of themselves, for tests."""

from __future__ import annotations

import io
import struct
from typing import Any

from conftest import noise
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

XMP = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
    xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" %b>
   %b
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def packet(elements: str = "", attributes: str = "") -> bytes:
    """Make an XMP packet of properties."""
    return XMP % (attributes.encode(), elements.encode())


def bag(name: str, *values: str) -> str:
    """Write a property with several values."""
    return f"<{name}><rdf:Bag>{''.join(f'<rdf:li>{v}</rdf:li>' for v in values)}</rdf:Bag></{name}>"


def exif_block(
    taken: str | None = "2024:06:01 17:30:00",
    offset: str | None = None,
    place: tuple[float, float] | None = None,
    lens: str | None = None,
    **first: Any,
) -> Image.Exif:
    """Make EXIF. first: `make`, `model`, `description`, `rating` of the first directory."""
    exif = Image.Exif()
    tags = {"make": 0x010F, "model": 0x0110, "description": 0x010E, "rating": 0x4746}
    for name, value in first.items():
        exif[tags[name]] = value
    inner = exif.get_ifd(0x8769)
    if taken is not None:
        inner[0x9003] = taken
    if offset is not None:
        inner[0x9011] = offset
    if lens is not None:
        inner[0xA434] = lens
    if place is not None:
        latitude, longitude = place
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = "S" if latitude < 0 else "N", _sexagesimal(latitude)
        gps[3], gps[4] = "W" if longitude < 0 else "E", _sexagesimal(longitude)
    return exif


def _sexagesimal(degrees: float) -> tuple[IFDRational, ...]:
    seconds = round(abs(degrees) * 3600 * 10_000)
    whole, rest = divmod(seconds, 3600 * 10_000)
    minutes, rest = divmod(rest, 60 * 10_000)
    return IFDRational(whole), IFDRational(minutes), IFDRational(rest, 10_000)


def picture(
    kind: str = "JPEG", exif: Image.Exif | bytes | None = None, xmp: bytes | None = None, seed: int = 0
) -> bytes:
    """Encode a picture of a format with EXIF and XMP."""
    options: dict[str, Any] = {} if exif is None else {"exif": exif}
    if xmp is not None and kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None and kind == "TIFF":
        options["tiffinfo"] = exif if isinstance(exif, Image.Exif) else Image.Exif()
        options["tiffinfo"][700] = xmp
        options.pop("exif", None)
    elif xmp is not None:
        options["xmp"] = xmp
    if kind == "TIFF" and isinstance(options.get("exif"), Image.Exif):
        options["exif"] = options["exif"].tobytes()  # else Pillow forgets the inner directories
    buffer = io.BytesIO()
    noise(seed).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(*entries: tuple[int, int, int, bytes], order: str = "<", more: bytes = b"") -> bytes:
    """Write a TIFF structure by hand: (tag, type, count, 4 bytes of value or offset)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(entries))
    body += b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + body + bytes(4) + more


def in_jpeg(exif: bytes, plain: bytes | None = None) -> bytes:
    """Put an EXIF block, whatever it is, into a JPEG."""
    plain = picture() if plain is None else plain
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + plain[2:]
