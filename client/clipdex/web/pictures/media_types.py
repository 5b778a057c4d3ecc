"""Media types of picture files by their first bytes, never by name, and never a type that a browser runs."""

from __future__ import annotations

__all__ = ["media_type"]

_BEGINS = (
    (b"\xff\xd8\xff", "image/jpeg", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", "image/png", ".png"),
    (b"GIF87a", "image/gif", ".gif"),
    (b"GIF89a", "image/gif", ".gif"),
    (b"BM", "image/bmp", ".bmp"),
    (b"II*\0", "image/tiff", ".tif"),
    (b"MM\0*", "image/tiff", ".tif"),
    (b"II+\0", "image/tiff", ".tif"),
    (b"MM\0+", "image/tiff", ".tif"),
)
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def media_type(head: bytes) -> tuple[str, str]:
    """Return the media type and the suffix of a file with these first bytes: at least 12, or all."""
    for begins, kind, suffix in _BEGINS:
        if head.startswith(begins):
            return kind, suffix
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp", ".webp"
    if head[4:8] == b"ftyp" and head[8:12] in _AVIF:
        return "image/avif", ".avif"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        return "image/heic", ".heic"
    return "application/octet-stream", ""
