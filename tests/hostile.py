"""A server that answers as it likes: Triton's protocol with any card, configuration and answer."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

from fake_server import FakeTriton, serving
from tritonclient.grpc import service_pb2

from clipdex.wire import FakeTransport

CARD = FakeTransport().card


def card_json(**changes):
    """A card whose fingerprint follows from its fields, whatever they are: `{"image.size": 10}` goes below."""
    data = json.loads(CARD.to_json())
    for name, value in changes.items():
        where, _, field = name.rpartition("__")
        (data[where] if where else data)[field] = value
    space = {key: data[key] for key in ("weights_sha256", "embedding_dim", "image", "text")}
    canonical = json.dumps(space, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps(data | {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest()})


def zipped(**files):
    """A zip of card_json=..., tokenizer_json=... and others."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def with_card(text):
    """A fake whose assets hold this card instead of its own."""
    transport = FakeTransport()
    old = zipfile.ZipFile(io.BytesIO(transport._assets)).read("tokenizer.json")
    transport._assets = zipped(card_json=text, tokenizer_json=old)
    return transport


class Hostile(FakeTriton):
    """`answer` changes a ModelInferResponse before it goes out, `configure` a ModelConfigResponse."""

    answer = configure = staticmethod(lambda response: None)

    def ModelInfer(self, request, context):
        response = super().ModelInfer(request, context)
        if request.outputs[0].name == "embedding":
            type(self).answer(response)
        return response

    def ModelConfig(self, request, context):
        response = super().ModelConfig(request, context)
        type(self).configure(response)
        return response


__all__ = ["CARD", "Hostile", "card_json", "service_pb2", "serving", "with_card", "zipped"]
