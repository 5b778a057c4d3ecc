"""A refused batch is halved until the items at fault stand alone."""

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import clipdex
from clipdex.client.steps import bisect
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

REFUSAL = clipdex.RequestRefused("the whole")


class Server:
    """Doubles numbers; refuses requests that hold one of `bad`, or more than `most` rows."""

    def __init__(self, bad=(), most=1000):
        self.bad, self.most, self.sent = set(bad), most, []

    def __call__(self, batch):
        self.sent.append(len(batch))
        answer: Future[Any] = Future()
        if self.bad & set(batch[:, 0].tolist()) or len(batch) > self.most:
            answer.set_exception(clipdex.RequestRefused(f"refused {len(batch)}"))
        else:
            answer.set_result(2 * batch)
        return answer


def as_it_is(answer, rows):
    assert len(answer) == rows
    return answer


def batch_of(count):
    return np.arange(count)[:, None]


@pytest.mark.parametrize("bad", [[], [0], [5], [63], [3, 4], [0, 31, 32, 63], range(10, 20)])
def test_each_row_has_its_own_answer(bad):
    found = bisect(batch_of(64), Server(bad), REFUSAL, as_it_is)
    assert len(found) == 64
    for row, each in enumerate(found):
        if row in bad:
            assert isinstance(each, clipdex.RequestRefused)
        else:
            assert isinstance(each, np.ndarray) and each.tolist() == [2 * row]


def test_one_bad_row_costs_two_requests_for_each_halving():
    server = Server([17])
    bisect(batch_of(64), server, REFUSAL, as_it_is)
    assert sorted(server.sent, reverse=True) == [32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]


def test_a_request_that_is_too_long_for_a_limit_passes_in_parts():
    found = bisect(batch_of(64), Server(most=16), REFUSAL, as_it_is)
    assert [each.tolist() for each in found if isinstance(each, np.ndarray)] == [[2 * row] for row in range(64)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_everything_may_be_refused(count):
    found = bisect(batch_of(count), Server(range(100)), REFUSAL, as_it_is)
    assert [type(each) for each in found] == [clipdex.RequestRefused] * count


def test_another_error_ends_it():
    def submit(batch):
        answer: Future[Any] = Future()
        answer.set_exception(clipdex.ServerUnreachable("gone"))
        return answer

    with pytest.raises(clipdex.ServerUnreachable, match="gone"):
        bisect(batch_of(4), submit, REFUSAL, as_it_is)


def refusing(bad):
    """A fake that refuses requests with one of these pixel values."""

    def fault(model, inputs):
        values = {int(row.flat[0]) for array in inputs.values() for row in array}
        return clipdex.RequestRefused("no such colour") if values & set(bad) and "image" in model else None

    return FakeTransport(fault=fault)


def pixels_of(values):
    return np.stack([np.full((32, 32, 3), value, np.uint8) for value in values])


def test_the_error_names_the_item():
    with clipdex.Client(refusing([37])) as client:
        with pytest.raises(clipdex.RequestRefused, match=r"^item 37 of the list: no such colour"):
            client.embed_pixels(pixels_of(range(50)))
        with pytest.raises(clipdex.RequestRefused, match=r"^item 0 of the list: "):
            client.embed_images([pixels_of([37])[0]])


def test_and_says_how_many_more_there_are():
    with (
        clipdex.Client(refusing([3, 7, 9])) as client,
        pytest.raises(clipdex.RequestRefused, match=r"^item 3 of the list, and 2 more: "),
    ):
        client.embed_pixels(pixels_of(range(16)))


def test_a_server_that_refuses_everything_does_not_blame_an_item():
    with (
        clipdex.Client(refusing(range(256))) as client,
        pytest.raises(clipdex.RequestRefused, match=r"^no such colour"),
    ):
        client.embed_pixels(pixels_of(range(16)))


def test_a_limit_on_the_way_is_not_the_callers_trouble():
    """A message limit says RESOURCE_EXHAUSTED, which is a refusal."""

    def fault(model, inputs):
        rows = max(map(len, inputs.values()))
        return clipdex.RequestRefused("message larger than max") if "image" in model and rows > 3 else None

    pixels = pixels_of(range(40))
    with clipdex.Client(FakeTransport(fault=fault)) as client, clipdex.Client(FakeTransport()) as free:
        assert np.array_equal(client.embed_pixels(pixels), free.embed_pixels(pixels))
