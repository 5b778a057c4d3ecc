"""What a server says is counted and measured before it is used."""

import contextlib
import hashlib
import os
import re
import resource
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY
from hostile import CARD, Hostile, card_json, serving, with_card, zipped

import clipdex
from clipdex.base.errors import CardError, FingerprintMismatch, ServerFault
from clipdex.client.classification import probabilities
from clipdex.client.request_size import requests_in_flight, rows_of_pixels, rows_of_texts
from clipdex.model.assets import fetch_zip, unpack_assets
from clipdex.model.card import ModelCard
from clipdex.model.tokenizer import Tokenizer
from clipdex.wire import FakeTransport, RetryPolicy, open_transport
from clipdex.wire.messages import output_array
from clipdex.wire.model_config import from_message, read_config
from clipdex.wire.transport import FINGERPRINT_PARAMETER

pytestmark = pytest.mark.thin

ONCE = RetryPolicy(max_attempts=1)


@contextlib.contextmanager
def hostile(transport=None, **tricks):
    """A client's way to a server with these tricks."""
    kind = type("Tricky", (Hostile,), {name: staticmethod(trick) for name, trick in tricks.items()})
    with serving(transport, servicer=kind) as server:
        yield server.address


def connect(address):
    return clipdex.connect(address, retry=ONCE, timeout_s=20)


BEYOND = [
    ("image__size", 100_000),
    ("image__size", 2**63),
    ("image__size", True),
    ("image__size", "32"),
    ("image__size", 32.0),
    ("image__size", None),
    ("image__resize_to", 10**9),
    ("image__resize", ["squash"]),
    ("image__crop", {}),
    ("image__fill", [0, 0, True]),
    ("image__fill", "abc"),
    ("image__mean", [0, 0, "1"]),
    ("image__mean", [0, 0]),
    ("image__std", [1, 1, 0]),
    ("image__interpolation", 3),
    ("text__context_length", 10**8),
    ("text__context_length", -1),
    ("text__pad_id", 2**31),
    ("text__pad_id", [0]),
    ("text__end_id", -1),
    ("text__cleaning", ["lower"]),
    ("text__cleaning", 7),
    ("text__tokenizer_sha256", None),
    ("embedding_dim", 2**31),
    ("embedding_dim", "12"),
    ("embedding_dim", True),
    ("embedding_dim", 8.0),
    ("embedding_dim", 10**4000),
    ("logit_scale", 1e300),
    ("logit_scale", True),
    ("logit_scale", "100"),
    ("logit_scale", -(10**400)),
    ("logit_bias", None),
    ("logit_bias", -1e7),
    ("name", 5),
    ("name", "a" * 300),
    ("source", "x" * 10_000),
    ("revision", ["r"]),
    ("weights_sha256", 5),
    ("precision", ["fp32"]),
    ("parity", [1]),
    ("format_version", True),
]


@pytest.mark.parametrize(("field", "value"), BEYOND, ids=lambda v: repr(v)[:20])
def test_a_card_beyond_all_models_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(CardError) as refused:
        ModelCard.from_json(card_json(**{field: value}))
    assert field.replace("__", ".").replace("format_version", "format version") in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        card_json(parity={"a": 1}).replace('{"a": 1}', '{"a":' * 70 + "1" + "}" * 70),
        card_json().replace("100.0", "NaN"),
        card_json().replace("100.0", "-Infinity"),
        card_json(parity={"cosine": 77.5}).replace("77.5", "NaN"),
        card_json().replace("100.0", "1e400"),
        card_json().replace("100.0", "9" * 5000),
        card_json(source="\ud800"),
        card_json()[:-1] + ', "name": "twice"}',
        card_json().encode("utf-8") + b"\xff",
        card_json(source="x" * 2_000_000),
        "",
        "null",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_json_that_is_no_card_is_one_sentence(text):
    with pytest.raises(CardError) as refused:
        ModelCard.from_json(text)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


def test_a_card_of_100_000_pixels_a_side_makes_no_ring(pictures, tmp_path):
    said = r"image\.size is 100000; expected a whole number from 1 to 4,096"
    with hostile(with_card(card_json(image__size=100_000))) as address, pytest.raises(CardError, match=said):
        connect(address)


@pytest.mark.parametrize("rows", [2**31 - 1, 2**20 + 1, -1])
def test_a_batch_beyond_reason_is_refused(rows):
    def configure(response):
        response.config.max_batch_size = rows

    with hostile(configure=configure) as address, pytest.raises(CardError, match="max_batch_size"):
        connect(address)


@pytest.mark.parametrize("counts", [[2**31 - 1], [-5], [4096, 4096]])
def test_instances_beyond_reason_are_refused(counts):
    def configure(response):
        del response.config.instance_group[:]
        for count in counts:
            response.config.instance_group.add(count=count)

    with hostile(configure=configure) as address, pytest.raises(CardError, match="instance"):
        connect(address)


@pytest.mark.parametrize("dims", [[2**40], [0, -7], [1] * 20, [9]])
def test_dimensions_that_are_not_the_cards_are_refused(dims):
    def configure(response):
        response.config.output.add(name="embedding", dims=dims)

    with hostile(configure=configure) as address, pytest.raises(CardError, match="dim"):
        connect(address)


def test_the_largest_batch_that_is_taken_keeps_requests_and_answers_within_bounds():
    for size, dim, length in ((32, 8, 64), (4096, 65_536, 32_768), (224, 512, 77)):
        card = ModelCard.from_json(
            card_json(image__size=size, image__resize_to=size, embedding_dim=dim, text__context_length=length)
        )
        pictures, texts = rows_of_pixels(card, 2**20), rows_of_texts(card, 2**20)
        assert 1 <= pictures * size * size * 3 <= 256 << 20
        assert 1 <= texts * length * 4 <= 256 << 20
        assert pictures * dim * 4 <= 64 << 20
        in_flight = requests_in_flight(card, 4096, pictures)
        assert in_flight * pictures * (size * size * 3 + dim * 4) <= 1 << 30 or in_flight == 2
    card = ModelCard.from_json(card_json())
    assert (rows_of_pixels(card, 64), rows_of_texts(card, 0), requests_in_flight(card, 3, 64)) == (64, 1, 6)


def test_a_ring_keeps_to_its_limit_whatever_batch_the_server_states(pictures, tmp_path, caplog):
    from clipdex.pipeline.ring import open_ring

    with clipdex.Client(FakeTransport(max_batch_size=2**20)) as client:
        for limit in (1 << 20, 3 << 20):
            with open_ring(client, limit) as ring:
                assert ring.memory.size <= limit and ring.trays >= 2
        assert "room for batches of" in caplog.text
        report = clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1, max_ring_bytes=1 << 20)
    assert (report.indexed, report.failed) == (12, 0)


def test_a_ring_keeps_to_what_is_free_in_shared_memory(monkeypatch):
    from clipdex.pipeline import ring
    from clipdex.wire import shared_memory

    class Free:
        f_frsize, f_bavail = 4096, 100

    with serving() as server, connect(server.address) as client:
        tray = client.max_batch_size * 32 * 32 * 3
        client.in_flight = 50
        monkeypatch.setattr(type(client), "share", lambda self, memory: True)
        monkeypatch.setattr(type(client), "unshare", lambda self, memory: None)
        monkeypatch.setattr(os, "statvfs", lambda path: Free)
        with ring.open_ring(client, 512 << 20) as opened:
            assert opened.transfer == "shared memory"
            assert opened.memory.size <= 4096 * 100 * 0.75
            assert opened.trays == int(4096 * 100 * 0.75) // tray
        with pytest.raises(OSError, match="No space left"):
            shared_memory.SharedMemory(4096 * 101, named=True)


def test_another_fingerprint_than_the_cards_is_refused_with_both_named():
    def configure(response):
        if response.config.name.endswith("_text"):
            response.config.parameters[FINGERPRINT_PARAMETER].string_value = "f" * 64

    with hostile(configure=configure) as address, pytest.raises(FingerprintMismatch) as refused:
        connect(address)
    assert "f" * 12 in str(refused.value) and CARD.fingerprint[:12] in str(refused.value)
    assert "fake_text" in str(refused.value)


def test_a_server_that_states_no_fingerprint_is_taken_at_its_cards_word():
    def configure(response):
        del response.config.parameters[FINGERPRINT_PARAMETER]

    with hostile(configure=configure) as address, connect(address) as client:
        assert client.embed_texts(["a"]).shape == (1, 8)


def raw(array=b"", datatype="FP32", shape=(1, 8), outputs=1, carried=1, name="embedding"):
    """Makes an answer of these parts."""

    def answer(response):
        del response.outputs[:]
        del response.raw_output_contents[:]
        for _ in range(outputs):
            response.outputs.add(name=name, datatype=datatype, shape=shape)
        for _ in range(carried):
            response.raw_output_contents.append(bytes(array))

    return answer


MALFORMED = {
    "no such type": raw(datatype="FP33", array=bytes(32)),
    "no type": raw(datatype="", array=bytes(32)),
    "bytes with a length beyond the end": raw(datatype="BYTES", array=struct.pack("<I", 2**31) + b"x", shape=(1,)),
    "bfloat16": raw(datatype="BF16", array=bytes(16)),
    "too few bytes": raw(array=bytes(31)),
    "too many bytes": raw(array=bytes(64)),
    "no bytes": raw(),
    "a negative dimension": raw(array=bytes(32), shape=(-1, -8)),
    "a huge dimension": raw(array=bytes(32), shape=(2**62, 2**62)),
    "a hundred dimensions": raw(array=bytes(4), shape=(1,) * 100),
    "no output": raw(outputs=0, carried=0),
    "another output": raw(array=bytes(32), name="other"),
    "output without contents": raw(carried=0),
    "contents without output": raw(outputs=0),
    "another type": raw(datatype="FP64", array=bytes(64)),
    "texts for rows": raw(array=bytes(32), shape=(8,)),
    "NaN": raw(array=np.full(8, np.nan, np.float32).tobytes()),
    "zeros": raw(array=bytes(32)),
    "one row too many": raw(array=np.eye(8, dtype=np.float32)[:2].tobytes(), shape=(2, 8)),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_a_fault_of_the_server(answer):
    with hostile(answer=answer) as address, connect(address) as client, pytest.raises(ServerFault) as fault:
        client.embed_texts(["a"])
    assert len(str(fault.value)) < 400


def test_an_answer_parsed_alone_is_measured():
    from hostile import service_pb2

    response = service_pb2.ModelInferResponse(model_name="m")
    raw(array=np.arange(8, dtype=np.float32).tobytes())(response)
    assert output_array(response, "embedding").tolist() == [list(range(8))]


def peak_of(work):
    """The bytes by which `work` raises the most memory that this process has had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_an_answer_larger_than_what_was_asked_for_is_not_received():
    sent = []

    def answer(response):
        sent.append(1)
        raw(array=bytes(64 << 20), shape=(2 << 20, 8))(response)

    too_much = pytest.raises(ServerFault, match="is larger than expected")
    with hostile(answer=answer) as address, connect(address) as client, too_much:
        client.embed_texts(["a"])
    assert sent == [1]


def test_what_a_full_batch_gives_is_received_although_it_is_large():
    transport = FakeTransport(embedding_dim=2048, max_batch_size=1024)

    def configure(response):
        if not response.config.name.endswith("_assets"):
            response.config.output.add(name="embedding", dims=[2048])

    with hostile(transport, configure=configure) as address, connect(address) as client:
        vectors = client.embed_texts([str(i) for i in range(1024)])
    assert vectors.nbytes == 8 << 20


def test_assets_of_any_size_are_fetched_and_no_answer_is_larger_than_its_piece(monkeypatch):
    from clipdex.model import assets

    monkeypatch.setattr(assets, "_PIECE", 1000)
    transport = FakeTransport()
    asked = []

    def ask(span):
        asked.append(span)
        return transport.submit("fake_assets", span, "bytes", 1).result()

    whole = fetch_zip(ask)
    assert hashlib.sha256(whole).hexdigest() == hashlib.sha256(transport._assets).hexdigest()
    assert len(asked) == len(whole) // 1000 + 1
    monkeypatch.setattr(assets, "LARGEST_ZIP", 500)
    with pytest.raises(CardError, match="larger than"):
        fetch_zip(ask)
    with pytest.raises(CardError, match="expected 1,000 bytes at most"):
        fetch_zip(lambda span: np.zeros(1001, np.uint8))
    with pytest.raises(CardError, match="came as float32"):
        fetch_zip(lambda span: np.zeros(8, np.float32))


def test_assets_beyond_their_bound_are_not_received(monkeypatch):
    from clipdex.model import assets

    transport = FakeTransport()
    transport._assets = bytes(20 << 20)
    monkeypatch.setattr(assets, "_PIECE", 8 << 20)
    submit = transport.submit

    def more(model, inputs, output, timeout_s, *, wait=False):
        wider = {"start": inputs["start"], "end": inputs["end"] + (1 << 30)} if output == "bytes" else inputs
        return submit(model, wider, output, timeout_s, wait=wait)

    monkeypatch.setattr(transport, "submit", more)
    with serving(transport) as server, pytest.raises(ServerFault, match="is larger than expected"):
        connect(server.address)


BOMB = zipped(card_json=card_json(), tokenizer_json=bytes(300 << 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        zipped(card_json=bytes(20 << 20), tokenizer_json="{}"),
        zipped(**{"../../card_json": card_json(), "/etc/passwd": "x"}),
        zipped(card_json=card_json(), tokenizer_json="{}", **{f"f{i}": "" for i in range(100)}),
        zipped(card_json=card_json(), tokenizer_json="{}").replace(b"PK\x01\x02", b"PK\x01\x03"),
        zipped(card_json=card_json(), tokenizer_json="{}").replace(b"PK\x03\x04", b"PK\x03\x05"),
    ],
    ids=["bomb", "card bomb", "paths", "many files", "directory", "local header"],
)
def test_a_zip_made_to_do_harm_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def unpack():
        with pytest.raises(CardError):
            unpack_assets(data)

    assert peak_of(unpack) < 1 << 30
    assert list(tmp_path.iterdir()) == []


TOKENIZERS = {
    "nothing": b"",
    "no object": b"[]",
    "deep": b"[" * 200_000,
    "no model": b'{"version": "1.0"}',
    "no vocabulary": b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[["a","b"]]}}',
    "no token for it": b'{"version":"1.0","model":{"type":"WordLevel","vocab":{},"unk_token":"?"}}',
    "ids beyond int32": b'{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel",'
    b'"vocab":{"a":4294967295},"unk_token":"a"}}',
    "not UTF-8": b'{"version": "\xff"}',
    # Rust code that gives up raises what is no Exception.
    "a panic when it is read": b'{"version":"1.0",'
    b'"normalizer":{"type":"Precompiled","precompiled_charsmap":"/////w=="},'
    b'"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}',
    "a panic when it is used": b'{"version":"1.0","post_processor":{"type":"TemplateProcessing","single":['
    b'{"SpecialToken":{"id":"X","type_id":0}}],"pair":[],"special_tokens":{}},'
    b'"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}',
}


@pytest.mark.parametrize("data", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_malformed_tokenizer_is_a_card_error(data):
    card = ModelCard.from_json(card_json(text__tokenizer_sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(CardError, match=r"tokenizer\.json"):
        Tokenizer(data, card.text)


def test_what_is_no_probability_is_never_given():
    card = ModelCard.from_json(card_json())
    unit = np.eye(8, dtype=np.float32)
    assert np.isfinite(probabilities(card, unit, unit)).all()
    for scale, bias in ((1e6, -1e6), (-1e6, 1e6), (0.0, 0.0)):
        extreme = ModelCard.from_json(card_json(logit_scale=scale, logit_bias=bias))
        assert np.isfinite(probabilities(extreme, unit, -unit)).all()
    with pytest.raises(ServerFault, match="probabilities that are not finite"):
        probabilities(card, unit * np.float32(np.nan), unit)


def test_templates_whose_vectors_cancel_are_named(fake, monkeypatch):
    """Their mean has no direction, and its norm is what the label's vector would be divided by."""
    vectors = np.eye(8, dtype=np.float32)[:2]
    monkeypatch.setattr(
        fake, "submit_tokens", lambda ids, wait=False: settled(np.concatenate([vectors, -vectors])[[0, 2, 1, 3]])
    )
    with pytest.raises(clipdex.InvalidArgument, match="'cat' in the templates cancel"):
        fake.classify([], ["cat", "dog"], templates=["a {}", "no {}"])


def settled(array):
    from concurrent.futures import Future

    future: Future[Any] = Future()
    future.set_result(array)
    return future


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 99999999999999",
        "name: 'x' max_batch_size: 2000000000",
        "instance_group [ { count: 2000000000 } ]",
        "output [ { name: 'embedding' dims: [ -9 ] } ]",
        "{" * 10_000,
        "input [" * 5_000,
        "\0",
        "name: 'caf\xe9'".encode("latin-1"),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_a_configuration_on_disk_that_is_none_is_refused(tmp_path, text):
    file = tmp_path / "config.pbtxt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CardError) as refused:
        from_message(read_config(file))
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_an_inproc_repository_is_bounded_too(tmp_path):
    pytest.importorskip("onnxruntime")
    for part in ("image", "text", "assets"):
        (tmp_path / f"x_{part}").mkdir()
        (tmp_path / f"x_{part}" / "config.pbtxt").write_text(f"name: 'x_{part}' max_batch_size: 2000000000")
    transport = open_transport(f"inproc:{tmp_path}")
    with contextlib.closing(transport), pytest.raises(CardError, match="max_batch_size"):
        transport.config("x_image", 1)


def test_an_inproc_model_whose_settings_are_none_runs_and_one_that_gives_no_numbers_is_a_fault(tmp_path):
    pytest.importorskip("onnxruntime")
    import shutil

    shutil.copytree(MODEL_REPOSITORY, tmp_path / "models")
    (tmp_path / "models" / "demo_text" / "\N{SUPERSCRIPT TWO}").mkdir()
    for part, threads in (("text", "99999999999999999999"), ("image", "\N{SUPERSCRIPT TWO}")):
        config = tmp_path / "models" / f"demo_{part}" / "config.pbtxt"
        pattern = r'(intra_op_thread_count", value: \{ string_value: ")\d+'
        said = re.sub(pattern, rf"\g<1>{threads}", config.read_text())
        assert threads in said
        config.write_text(said)
    with clipdex.connect(f"inproc:{tmp_path / 'models'}") as client:
        assert client.embed_texts(["a"]).shape == (1, 128)
        transport: Any = client._transport
        inproc = transport._fleet.endpoints[0].transport
        for nothing in (["a list"], np.array(["texts"], dtype=object)):
            inproc._sessions["demo_text"] = SimpleNamespace(run=lambda outputs, inputs, given=nothing: [given])
            with pytest.raises(ServerFault, match="not a tensor of numbers"):
                client.embed_texts(["a"])


def test_all_that_is_parsed_from_outside_goes_through_one_function():
    """`json.loads` raises RecursionError where JSON is nested deep, and each place would have to remember it."""
    from pathlib import Path

    client = Path(clipdex.__file__).parent
    own = re.compile(r"json\.loads\((rules|bounds|rate|told\[\d\])\)")  # what this process told its child
    calls = {
        path.relative_to(client).as_posix()
        for path in client.rglob("*.py")
        if "json.load" in own.sub("", path.read_text("utf-8"))
    }
    assert calls == {"base/json_text.py"}


def test_a_hostile_server_is_one_sentence_at_the_command_line(run):
    pytest.importorskip("typer")
    for transport in (with_card("[" * 200_000), with_card(card_json(image__size=100_000))):
        with serving(transport) as server:
            for words in (["models"], ["classify", "x.png", "--labels", "a, b"], ["doctor"]):
                status, _, err = run(*words, "--server", server.address)
                assert "Traceback" not in err
                assert status == (0 if words == ["models"] else 1)
