"""Mutated inputs of every kind: a right answer, or one error of clipdex's own, always.

    python tests/proofs/inputs.py 3000

An index's manifest, rows, vectors and side files; a model's card, assets, tokenizer and configuration; a server's
answers. In one process, bounded in memory and in the size of what it writes. Ends with status 1 at the first other
exception and at an answer that is wrong while `verify` calls the index sound; with a signal at a crash, and at
what takes longer than 30 seconds. Seeded: the same count gives the same mutations.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import google_crc32c
import numpy as np
from conftest import MODEL_REPOSITORY, unit_vectors
from damage import DIM, write_index
from google.protobuf.message import DecodeError
from hostile import CARD, card_json
from proofs.mutated_pictures import mutated
from tritonclient.grpc import service_pb2

from clipdex.ann import AnnIndex, build_ann
from clipdex.base.errors import ClipdexError
from clipdex.index import Index, optimize_index, verify_index
from clipdex.model.assets import pack_assets, unpack_assets
from clipdex.model.card import ModelCard
from clipdex.model.tokenizer import Tokenizer
from clipdex.wire import FakeTransport
from clipdex.wire.messages import output_array
from clipdex.wire.model_config import from_message, read_config

MEMORY, FILE_SIZE, PATIENCE_S = 6 << 30, 64 << 20, 30

# What stands where another thing was due.
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, float("nan"), float("inf"), 1e308, "", "12",
    "\x1b[2J",
    "\ud800", "a" * 5000, [], [1], [[]], {}, {"a": 1}, [None] * 3, "sha256", [1e400] * 3,
]  # fmt: skip


def odd_json(data: Any, random: Random) -> Any:
    """The same with one value, at any depth, an odd one, missing, or of another name."""
    data = copy.deepcopy(data)
    at, key = data, None
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return data
        key = random.choice(keys)
        if not isinstance(at[key], (dict, list)) or random.random() < 0.3:
            break
        at = at[key]
    kind = random.random()
    if kind < 0.1:
        del at[key]
    elif kind < 0.15 and isinstance(at, dict):
        at[str(key) + "x"] = at.pop(key)
    else:
        at[key] = random.choice(ODD)
    return data


def text_of(value: Any, random: Random) -> bytes:
    """As JSON; now and then far too deep, or not quite JSON."""
    text = json.dumps(value).encode()
    chance = random.random()
    if chance < 0.03:
        return b"[" * 200_000 + text
    return mutated(text, random) if chance < 0.3 and len(text) > 20 else text


# An index


class IndexInputs:
    """An index with side files, damaged one file at a time."""

    def __init__(self, directory: Path) -> None:
        self.sound = directory / "sound.clipdex"
        write_index(self.sound)
        optimize_index(self.sound)
        self.has_ann = find_spec("faiss") is not None
        if self.has_ann:
            build_ann(self.sound)
        self.copy = directory / "copy.clipdex"
        self.whole = {path.name: path.read_bytes() for path in self.sound.iterdir() if path.is_file()}
        self.names = sorted(name for name in self.whole if self.whole[name] and name != "writer.lock")
        self.queries = unit_vectors(3, DIM)
        shutil.copytree(self.sound, self.copy)
        self.right = self.answers()

    def answers(self) -> Any:
        """What is asked of it: everything a search reads."""
        with Index.open(self.copy) as index:
            hits = [index.search(self.queries, top_k=5), index.search(self.queries, top_k=5, where="width > 1")]
            if self.has_ann:
                hits.append(index.search(self.queries, top_k=5, ann=AnnIndex.open(index)))
            index.info()
            return [
                [[(hit.row, round(hit.score, 6), hit.path, hit.metadata) for hit in each] for each in q]
                for q in hits
            ]

    def restore(self) -> None:
        for path in self.copy.iterdir():
            if path.name not in self.whole:
                path.unlink()
        for name, data in self.whole.items():
            if not (self.copy / name).exists() or (self.copy / name).read_bytes() != data:
                (self.copy / name).write_bytes(data)

    def one(self, random: Random) -> str:
        """One damage, and everything that reads it -> what became of it."""
        self.restore()
        what = self.damage(random)
        sound = None
        try:
            sound = not verify_index(self.copy).damages
            found = self.answers()
        except ClipdexError:
            if sound:
                return "refused, and sound to verify: " + what
            return "refused"
        with suppress(ClipdexError):
            optimize_index(self.copy)
        if found == self.right:
            return "right"
        if what.startswith("DELETE FROM metadata") and _bare(found) == _bare(self.right):
            # A record that SQL removed whole: a row without one is as sound as a row whose source said nothing.
            return "right, but for metadata that was removed"
        return "wrong, and verify says so" if not sound else "WRONG: " + what

    def damage(self, random: Random) -> str:
        name = random.choice(self.names)
        path, data = self.copy / name, self.whole[name]
        kind = random.random()
        if name == "manifest.json" and kind < 0.7:
            fields = odd_json(json.loads(data), random)
            if isinstance(fields, dict) and random.random() < 0.8:  # as who damages on purpose would
                fields.pop("crc32c", None)
                with suppress(ValueError, TypeError):
                    plain = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
                    fields["crc32c"] = google_crc32c.value(plain)
            path.write_bytes(text_of(fields, random))
            return f"{name}: {fields!r:.300}"
        if name == "rows.sqlite" and kind < 0.7:
            return self.damage_table(path, random)
        if kind < 0.8:
            path.write_bytes(mutated(data, random) if len(data) > 20 else b"")
        elif kind < 0.9:
            path.write_bytes(data[: random.randrange(len(data))])
        else:
            path.write_bytes(data + random.randbytes(random.randrange(1, 5000)))
        return name

    def damage_table(self, path: Path, random: Random) -> str:
        with closing(sqlite3.connect(path)) as db, suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = random.choice(tables)
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            column = random.choice(columns)
            value = random.choice([v for v in ODD if not isinstance(v, (list, dict))] + [b"\0" * 3, b"x" * 300])
            if random.random() < 0.2:
                values: tuple[Any, ...]
                sql, values = f"DELETE FROM {table} WHERE rowid % 7 = {random.randrange(7)}", ()
            else:
                sql = f"UPDATE {table} SET {column} = ? WHERE rowid % 5 = {random.randrange(5)}"
                values = (value,)
            with db:
                db.execute(sql, values)
            return f"{sql} {values!r:.100}"
        return "a statement that SQLite refused"


def _bare(found: list[Any]) -> list[Any]:
    """Leave out the metadata of every hit."""
    return [[[hit[:3] for hit in each] for each in q] for q in found]


# A server


def a_card(random: Random) -> None:
    data = json.loads(CARD.to_json())
    if random.random() < 0.8:
        fields = {"image", "text"} | set(data)
        where = random.choice(sorted(fields))
        if isinstance(data.get(where), dict) and data[where]:
            name = f"{where}__{random.choice(sorted(data[where]))}"
        else:
            name = where
        value = random.choice(ODD)
        try:
            text = card_json(**{name: value}).encode()
        except (ValueError, TypeError, RecursionError):
            return
        card = ModelCard.from_json(text)
    else:
        card = ModelCard.from_json(text_of(odd_json(data, random), random))
    assert 0 < card.image.size <= 4096 and card.embedding_dim <= 65_536 and np.isfinite(card.logit_scale)


def some_assets(random: Random) -> None:
    unpack_assets(mutated(pack_assets(CARD, a_tokenizer()), random))


def a_tokenizer() -> bytes:
    return unpack_assets(FakeTransport()._assets).tokenizer_json


def tokens(random: Random) -> None:
    ids = Tokenizer(text_of(odd_json(json.loads(a_tokenizer()), random), random), CARD.text)(["a red circle"])
    assert ids.shape == (1, CARD.text.context_length) and ids.dtype == np.int32


def a_config(random: Random, scratch: Path) -> None:
    text = (MODEL_REPOSITORY / "demo_image" / "config.pbtxt").read_bytes()
    scratch.write_bytes(mutated(text, random))
    config = from_message(read_config(scratch))
    assert 0 <= config.max_batch_size <= 2**20


def an_answer(random: Random) -> None:
    response = service_pb2.ModelInferResponse(model_name="demo_image")
    tensor = response.outputs.add(name="embedding", datatype="FP32", shape=[2, DIM])
    response.raw_output_contents.append(unit_vectors(2, DIM).astype(np.float32).tobytes())
    for _ in range(random.choice((1, 1, 2))):
        kind = random.randrange(6)
        if kind == 0:
            tensor.datatype = random.choice(["", "FP64", "INT8", "BYTES", "BF16", "fp32", "\x1b", "X" * 300])
        elif kind == 1:
            tensor.shape[random.randrange(2)] = random.choice([-1, 0, 1, 3, 2**31, 2**62])
        elif kind == 2:
            tensor.shape.extend([random.choice([0, 1, 2**40])])
        elif kind == 3:
            response.raw_output_contents[0] = mutated(response.raw_output_contents[0] + b"\0" * 32, random)
        elif kind == 4:
            tensor.name = random.choice(["", "other", "embedding2"])
        else:
            del response.raw_output_contents[:]
            response.raw_output_contents.extend([b""] * random.randrange(3))
            break
    message = response.SerializeToString()
    if random.random() < 0.3:
        with suppress(DecodeError):
            response = service_pb2.ModelInferResponse.FromString(mutated(message, random))
    output_array(response, "embedding")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=3000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    random, counts, slowest = Random(20261128), Counter[str](), (0.0, "")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        index = IndexInputs(Path(directory))
        config = Path(directory) / "config.pbtxt"
        kinds: list[tuple[str, int, Callable[[Random], object]]] = [
            ("index", 6, index.one),
            ("card", 2, a_card),
            ("assets", 1, some_assets),
            ("tokenizer", 1, tokens),
            ("config", 1, lambda random: a_config(random, config)),
            ("answer", 2, an_answer),
        ]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for i in range(options.count):
            name, _, one = random.choices(kinds, [weight for _, weight, _ in kinds])[0]
            own = Random(random.getrandbits(64))
            began = time.monotonic()
            signal.alarm(PATIENCE_S)
            try:
                became = one(own) or "taken"
            except ClipdexError:
                became = "refused"
            except BaseException:
                print(f"mutation {i}, of {name}", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
            became = str(became)
            if became.startswith("WRONG") or became.startswith("refused, and"):
                failed.append(f"mutation {i}, of {name}: {became}")
                became = became.partition(":")[0]
            counts[f"{name}: {became}"] += 1
            slowest = max(slowest, (time.monotonic() - began, name))
    for line in failed:
        print(line)
    print(f"{options.count:,} mutations: {dict(sorted(counts.items()))}")
    print(
        f"slowest: {slowest[0]:.2f} s, of {slowest[1]}; at most {MEMORY >> 30} GiB of memory, "
        f"{FILE_SIZE >> 20} MiB a file"
    )
    return 1 if any("WRONG" in line for line in failed) else 0


if __name__ == "__main__":
    sys.exit(main())
