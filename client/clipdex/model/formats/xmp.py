"""XMP: the properties of an RDF packet, parsed without entities, and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

__all__ = ["LONGEST_PACKET", "xmp_properties"]

LONGEST_PACKET = 1 << 20  # bytes
_DEEPEST, _MOST_ELEMENTS, _MOST_VALUES = 64, 50_000, 1_000
_LONGEST_VALUE = 65_536  # characters

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_PREFIXES = {
    "http://purl.org/dc/elements/1.1/ ": "dc:",
    "http://ns.adobe.com/xap/1.0/ ": "xmp:",
    "http://ns.adobe.com/photoshop/1.0/ ": "photoshop:",
    "http://ns.adobe.com/exif/1.0/ ": "exif:",
    "http://cipa.jp/exif/1.0/ ": "exifEX:",
    "http://ns.adobe.com/exif/1.0/aux/ ": "aux:",
    "http://ns.adobe.com/tiff/1.0/ ": "tiff:",
}


class _Refused(Exception):
    """The packet is not plain XMP."""


@dataclass
class _Reader:
    """Expat's handlers. found: the values of each property, in the order of the packet."""

    found: dict[str, list[str]] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    elements: int = 0
    length: int = 0
    is_default: bool = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self.elements += 1
        if len(self.path) >= _DEEPEST or self.elements > _MOST_ELEMENTS:
            raise _Refused
        self.path.append(name)
        self.text, self.length = [], 0
        self.is_default = attributes.get(_LANGUAGE, "") == "x-default"
        if self.path[-2:] == [_RDF + "RDF", _RDF + "Description"]:
            for key, value in attributes.items():
                self.note(key, value)

    def end(self, name: str) -> None:
        text, self.text = "".join(self.text), []
        if self.path[-3:-1] == [_RDF + "RDF", _RDF + "Description"]:
            self.note(name, text)
        elif name == _RDF + "li" and self.path[-5:-3] == [_RDF + "RDF", _RDF + "Description"]:
            self.note(self.path[-3], text, first=self.is_default)
        self.path.pop()

    def characters(self, text: str) -> None:
        self.length += len(text)
        if self.length <= _LONGEST_VALUE:
            self.text.append(text)

    def note(self, name: str, value: str, *, first: bool = False) -> None:
        space, blank, local = name.rpartition(" ")
        prefix = _PREFIXES.get(space + blank)
        if prefix is None or not value.strip():
            return
        values = self.found.setdefault(prefix + local, [])
        if len(values) < _MOST_VALUES:
            values.insert(0 if first else len(values), value.strip()[:_LONGEST_VALUE])

    def refuse(self, *_: object) -> NoReturn:
        raise _Refused


def xmp_properties(packet: bytes) -> dict[str, list[str]]:
    """Parse a packet -> the values of its properties, by names such as `dc:subject`; none if it is not XMP.

    A document type, which could define entities, is refused. The default language comes first.
    """
    if not packet or len(packet) > LONGEST_PACKET:
        return {}
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = reader.refuse  # without a document type, no entity can be defined
    try:
        parser.Parse(packet.strip(b"\0 \r\n\t"), True)
    except (_Refused, expat.ExpatError, ValueError, LookupError):
        return {}
    return reader.found
