"""Names, by their first bytes, of the kinds of files that clipdex does not read."""

from __future__ import annotations

from clipdex.base.git_lfs import is_pointer
from clipdex.model.formats.tiff_layout import is_raw_photograph

__all__ = ["named_kind"]

# Pictures, and documents that can be converted to pictures.
_PICTURES = (
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 code stream"),
    (b"II\xbc\x01", "a JPEG XR"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"%!PS", "a PostScript document (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"icns", "an icon of macOS (ICNS)"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR"),
    (b"#?RADIANCE", "a Radiance HDR"),
    (b"DDS ", "a DirectDraw surface (DDS)"),
    (b"SIMPLE  =", "a FITS"),
    (b"BPG\xfb", "a BPG"),
    (b"qoif", "a QOI"),
    (b"FLIF", "a FLIF"),
    (b"FUJIFILMCCD-RAW", "a raw photograph (RAF)"),
    (b"IIRO", "a raw photograph (ORF)"),
    (b"IIRS", "a raw photograph (ORF)"),
    (b"MMOR", "a raw photograph (ORF)"),
    (b"IIU\0", "a raw photograph (RW2)"),
    (b"FOVb", "a raw photograph (X3F)"),
    (b"\0MRM", "a raw photograph (MRW)"),
    *((b"P%d" % n, "a portable anymap (PNM)") for n in range(1, 8)),
)
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg sound or video"),
    (b"ID3", "an MP3 sound"),
    (b"fLaC", "a FLAC sound"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"\0\0\1\xb3", "an MPEG video"),
    (b"0&\xb2u\x8ef\xcf\x11", "a Windows Media video"),
    (b"FLV\1", "a Flash video"),
    (b"PK\3\4", "a ZIP archive, or a document made like one"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xd0\xcf\x11\xe0", "an old Microsoft Office document"),
    (b"\x7fELF", "a program"),
)
_RIFF = {b"AVI ": "an AVI video", b"WAVE": "a WAVE sound"}

_RAW_BRANDS = {b"crx ": "a raw photograph (CR3)"}
_PICTURE_BRANDS = (
    b"avif",
    b"avis",
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"mif1",
    b"msf1",
    b"jxl ",
)


def named_kind(data: bytes) -> tuple[str, bool] | None:
    """Return (the kind of a file, whether it is a picture); None if its first bytes do not tell."""
    if raw := is_raw_photograph(data):
        return raw, True
    for kinds, is_picture in ((_PICTURES, True), (_OTHERS, False)):
        for magic, name in kinds:
            if data.startswith(magic):
                return name, is_picture
    if is_pointer(data):
        return "a git-lfs pointer, not the file: run git lfs pull", False
    if data[128:132] == b"DICM":
        return "a DICOM", True
    if data.startswith(b"RIFF") and data[8:12] in _RIFF:
        return _RIFF[data[8:12]], False
    if data[4:8] == b"ftyp":
        if data[8:12] in _RAW_BRANDS:
            return _RAW_BRANDS[data[8:12]], True
        return None if data[8:12] in _PICTURE_BRANDS else ("a video (MP4, MOV or the like)", False)
    if data[4:8] in (b"moov", b"mdat", b"wide"):
        return "a QuickTime video", False
    return _markup(data)


def _markup(data: bytes) -> tuple[str, bool] | None:
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "an SVG drawing", True
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page", False
    return None
