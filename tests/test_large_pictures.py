"""Large pictures are decoded one at a time, each with the memory for one, which is given back."""

import subprocess
import sys
import threading

import pytest
from conftest import present

from clipdex.base.limits import Limits
from clipdex.pipeline.large_pictures import turn

pytestmark = pytest.mark.thin

# Another worker, in the middle of a large picture until it is told to go on.
OTHER = """
import sys
from clipdex.base.limits import Limits
from clipdex.pipeline.large_pictures import turn
with open(sys.argv[1], "r+b") as shared, turn(shared.fileno(), Limits(), lambda: None, lambda: None):
    print("begun", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def applied(monkeypatch):
    """The limits that this process was given: whether for a large picture."""
    given: list[bool] = []
    monkeypatch.setattr(Limits, "apply_to_this_process", lambda self, large=False: given.append(large))
    return given


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "turns").write_bytes(b"")
    with open(tmp_path / "turns", "r+b") as file:
        yield file


def test_a_large_picture_waits_until_another_worker_has_done_its_own(shared, applied):
    command = [sys.executable, "-c", OTHER, shared.name]
    waits, begins = threading.Event(), threading.Event()

    def decode():
        with turn(shared.fileno(), Limits(), waits.set, begins.set):
            pass

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert present(other.stdout).readline() == "begun\n"
        thread = threading.Thread(target=decode)
        thread.start()
        assert waits.wait(30)
        assert not begins.wait(0.3) and applied == []
        other.communicate("\n", timeout=30)
        assert begins.wait(30)
        thread.join()


def test_a_worker_that_is_killed_gives_up_its_turn(shared, applied):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, shared.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert present(other.stdout).readline() == "begun\n"
        other.kill()
    with turn(shared.fileno(), Limits(), lambda: None, lambda: None):
        assert applied == [True]


def test_the_memory_is_given_back_however_the_picture_ends(shared, applied):
    with turn(shared.fileno(), Limits(), lambda: None, lambda: None):
        assert applied == [True]
    assert applied == [True, False]
    with pytest.raises(MemoryError), turn(shared.fileno(), Limits(), lambda: None, lambda: None):
        raise MemoryError
    assert applied == [True, False, True, False]
    with turn(shared.fileno(), Limits(), lambda: None, lambda: None):  # nobody waits for ever
        pass


def test_what_cannot_be_locked_is_an_error_and_no_memory_is_given(tmp_path, applied):
    (tmp_path / "turns").write_bytes(b"")
    with (
        open(tmp_path / "turns", "rb") as unwritable,
        pytest.raises(OSError),
        turn(unwritable.fileno(), Limits(), lambda: None, lambda: None),
    ):
        pass
    assert applied == []
