"""The OpenAPI document against the application: what it documents is what is answered, whatever is asked."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import noise, unit_vectors

from clipdex import Client, Collection, Item
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from scenes import give_features, scene_png
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from web_server import settings_of

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)
cv2_is_there = importlib.util.find_spec("cv2") is not None
FEW, MANY = 3, 40  # examples of each operation, valid and invalid ones


def _index(directory: Path) -> Path:
    """An index of vectors, pictures and metadata."""
    vectors = unit_vectors(6, 8)
    with Client(FakeTransport()) as client, Collection.open(directory, client=client) as pictures:
        pictures.add(Item(f"i{k}", vector=vectors[k], metadata={"by": "Ada", "n": k}) for k in range(5))
        pictures.add(Item("picture", noise(1), metadata={"tags": ["a", "b"]}))
        if cv2_is_there:  # else a match is answered, too: with a problem
            pictures.add(Item("scene", scene_png(1)))
            give_features(directory, scene_png(1))
    return directory


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from clipdex.web import create_app

    directory = _index(tmp_path_factory.mktemp("schema") / "pets.clipdex")

    def connect(*_: object, **__: object) -> Client:
        return Client(FakeTransport())

    with mock.patch("clipdex.collection.open_collection.connect", connect):
        yield create_app(settings_of(directory, allow_write=True, allowed_hosts=(asgi.HOST,)))
        asgi.shutdown_lifespans()


_HOW: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
}


def _is_lost_in_its_form(case: Any) -> bool:
    """Whether a form's field is wrong as an empty list, which has no field on the wire: what is sent is right."""
    return isinstance(case.body, dict) and case.media_type == "multipart/form-data" and [] in case.body.values()


def _faults(app: Any, mode: GenerationMode, examples: int) -> dict[str, str]:
    """Ask each operation of the document `examples` times -> the first fault of each that has one."""
    document = openapi.from_asgi("/v1/openapi.json", app)
    # Too long is refused, too.
    document.config.checks.negative_data_rejection.expected_statuses += ["413", "414", "431"]
    session = asgi.get_client(app)
    found: dict[str, str] = {}
    for made in document.get_all_operations():
        assert isinstance(made, Ok), made
        operation = made.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=examples, **_HOW)
        def probe(case: Any) -> None:
            if not _is_lost_in_its_form(case):
                case.validate_response(case.call(session=session), checks=list(CHECKS))

        try:
            probe()
        except Unsatisfiable:  # nothing about it can be wrong
            continue
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # schemathesis raises a group that is no Exception
            found[operation.label] = "\n".join(traceback.format_exception_only(exc))[:3000]
    return found


MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.mark.parametrize("mode", (MODES[0], pytest.param(MODES[1], marks=pytest.mark.slow)))
def test_each_answer_is_a_documented_one(app, mode):
    assert not (found := _faults(app, mode, FEW)), "\n\n".join(f"{name}: {why}" for name, why in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_each_answer_of_very_many_is_a_documented_one(app, mode):
    assert not (found := _faults(app, mode, MANY)), "\n\n".join(f"{name}: {why}" for name, why in found.items())
