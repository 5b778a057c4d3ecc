"""What the command line prints: no control character of anybody's, in any encoding, from one place."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, noise
from fake_server import serving
from hostile import card_json, with_card

from clipdex.cli import printing
from clipdex.cli.printing import printable, speak_any_encoding
from clipdex.index import Index
from clipdex.wire import FakeTransport

CLI = ROOT / "client" / "clipdex" / "cli"

# Text that a terminal would obey: a window's title, a cleared screen, a C1 sequence, a line that is not ours, and
# writing turned round.
EVIL = "a\x1b]0;owned\x07\x1b[2Jb\x9b31mc\r\nclipdex: healthy\x7f\u202egnp.exe\u2066d\u2028e\x00f"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.thin
def test_control_characters_are_shown_and_not_obeyed():
    shown = printable(EVIL)
    assert not OBEYED.search(shown) and "\n" not in shown
    assert shown == (r"a\x1b]0;owned\x07\x1b[2Jb\x9b31mc\r\nclipdex: healthy\x7f\u202egnp.exe\u2066d\u2028e\x00f")
    assert printable(shown) == shown
    assert printable("Käse — 東京 🐈 " + os.fsdecode(b"\xff")) == "Käse — 東京 🐈 \\xff"


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Call, ast.Attribute)):
            yield ast.unparse(node.func if isinstance(node, ast.Call) else node), node.lineno


@pytest.mark.thin
def test_nothing_is_printed_outside_the_one_place():
    """Whatever goes round it goes to the terminal as it came."""
    printing_call = re.compile(
        r"(builtins\.)?print|pprint(\.pprint)?|(typer|click)\.(echo|secho|echo_via_pager)|(\w+\.)?[Cc]onsole(\.\w+)*"
        r"|rich\.print|sys\.(__)?std(out|err)(__)?\.(write|writelines|buffer\b.*)|os\.write|traceback\.print_\w+"
    )
    found = [
        f"{path.relative_to(CLI)}:{line}: {name}"
        for path in sorted(CLI.rglob("*.py"))
        if path.name != "printing.py"
        for name, line in calls(path)
        if printing_call.fullmatch(name)
    ]
    assert found == []
    assert any(printing_call.fullmatch(name) for name, _ in calls(CLI / "printing.py"))


class Evil(FakeTransport):
    """Calls itself, and its models' faults, by such names."""

    def server(self, timeout_s):
        from clipdex.wire.transport import ServerInfo

        return ServerInfo(EVIL, EVIL)


@pytest.fixture
def evil_server():
    from fake_server import FakeTriton
    from tritonclient.grpc import service_pb2

    class Servicer(FakeTriton):
        def ServerMetadata(self, request, context):
            return service_pb2.ServerMetadataResponse(name=EVIL, version=EVIL)

        def RepositoryIndex(self, request, context):
            index = super().RepositoryIndex(request, context)
            index.models.add(name=f"other{EVIL}", state="UNAVAILABLE", reason=EVIL)
            return index

    transport = with_card(card_json(source=EVIL, parity={"forced": True, "problem": EVIL, "text_precision": EVIL}))
    with serving(transport, servicer=Servicer) as server:
        yield server


@pytest.fixture
def evil_folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise(1).save(folder / "good.png")
    noise(1).save(folder / f"{EVIL.replace(chr(0), '')}.png")
    (folder / f"{EVIL.replace(chr(0), '')}2.png").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
def test_no_command_lets_others_words_reach_the_terminal(run, evil_server, evil_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = ("--server", evil_server.address)
    index = tmp_path / "x.clipdex"
    commands = [
        ["index", evil_folder, "-o", index, *server, "--workers", "1"],
        ["index", evil_folder, "-o", index, "--dry-run"],
        ["search", EVIL.replace("\x00", ""), "b", "-i", index, *server],
        ["search", "--like", evil_folder / "good.png", "--group", "-i", index],
        ["classify", evil_folder, "--labels", "a\x1b[2J, b\u202e", *server],
        ["info", index],
        ["failures", index],
        ["verify", index],
        ["duplicates", index],
        ["models", *server],
        ["models", evil_server.address, "--model", EVIL.replace("\x00", "")],
        ["doctor", *server],
        ["dump", index, "-o", tmp_path / "v\x1b[2J.npy"],
        ["retrieve", "--prompt", "a\x1b[2J", "--images-dir", evil_folder],
        ["search", "a", "-i", tmp_path / "gone\x1b[2J", *server],
        ["optimize", index],
        ["compact", index],
        ["bench", "index", evil_folder, *server, "--seconds", "0.05", "--workers", "1"],
    ]
    monkeypatch.setenv("CLIPDEX_SERVER", evil_server.address)
    said = ""
    for command in commands:
        _, out, err = run(*command)
        assert not OBEYED.search(out + err), (command, out + err)
        assert not re.search(r"^clipdex: healthy", out + err, re.M), command
        said += out + err
    assert said.count(r"\x1b[2J") > 10


@pytest.mark.thin
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "cp437"])
def test_what_an_encoding_cannot_say_is_said_plainly(encoding, monkeypatch):
    streams = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, write_through=True))
    speak_any_encoding()
    printing.say("0.342 — é 2 × 3 → 東京 🐈 \udcff")
    printing.note("— ok")
    out = streams["stdout"].getvalue()
    assert out.decode(encoding)
    if encoding == "ascii":
        assert out == rb"0.342 - \xe9 2 x 3 -> \u6771\u4eac \U0001f408 \xff" + b"\n"
        assert streams["stderr"].getvalue() == b"- ok\n"
    if encoding == "latin-1":
        assert out == b"0.342 - \xe9 2 \xd7 3 -> " + rb"\u6771\u4eac \U0001f408 \xff" + b"\n"
    if encoding == "utf-8":
        assert out.decode() == "0.342 — é 2 × 3 → 東京 🐈 \\xff\n"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with an index whose paths an ASCII terminal cannot say, and a server."""
    import clipdex

    folder = tmp_path_factory.mktemp("encoding")
    (folder / "pictures").mkdir()
    noise(1).save(folder / "pictures" / "Käse 東京.png")
    noise(2).save(os.fsdecode(os.fsencode(folder / "pictures") + b"/\xff.png"))
    with serving() as server:
        with clipdex.connect(server.address) as client:
            clipdex.index_pictures(client, folder / "pictures", folder / "x.clipdex", workers=1)
        yield folder, server.address


ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    ENVIRONMENTS.values(),
    ids=ENVIRONMENTS,
)
def test_case_19_every_command_prints_in_any_encoding(searched, environment):
    folder, address = searched
    # Where the locale is C, names are bytes to Python.
    shown = r"K(ä|\\xe4|\\xc3\\xa4)se (\\u6771\\u4eac|\\xe6\\x9d\\xb1\\xe4\\xba\\xac)\.png"
    commands = [
        (["search", "a red circle", "-i", "x.clipdex", "-k", "2", "-s", address], rf" - pictures/{shown}"),
        (["search", "a", "-i", "x.clipdex", "-s", address, "--json"], r'"path": "[^"]*se [^"]*\.png"'),
        (["info", "x.clipdex"], r"8 (×|x) float16"),
        (["classify", "pictures", "--labels", "a,b", "-s", address], rf"pictures/{shown}: "),
        (["models", "-s", address], "fake"),
        (["retrieve", "--prompt", "a", "--images-dir", "pictures"], r" - "),
        (["verify", "x.clipdex"], "sound"),
    ]
    env = os.environ | environment | {"CLIPDEX_SERVER": address}
    # One encoding is tried with every command: each is a process of its own.
    for command, expected in commands if "ascii" in environment.values() else commands[:3]:
        words = [sys.executable, "-m", "clipdex", *command]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        out = done.stdout.decode("latin-1")
        assert re.search(expected, out), out
        if "--json" in command:
            assert len(json.loads(out)[0]["hits"]) == 2
    # doctor's word on the server may be that it is not healthy; it is said all the same.
    words = [sys.executable, "-m", "clipdex", "doctor", address]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=60)
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr and b"->" in done.stdout


@pytest.mark.slow
def test_csv_keeps_the_bytes_of_paths_in_any_encoding(searched):
    folder, address = searched
    env = os.environ | ENVIRONMENTS["ascii"]
    for command in (
        ["search", "a", "-i", "x.clipdex", "-s", address, "--csv"],
        ["classify", "pictures", "--labels", "é,b", "-s", address, "--csv"],
    ):
        words = [sys.executable, "-m", "clipdex", *command]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Käse 東京.png".encode() in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "closed", "status"),
    [
        ("info x.clipdex --json", ">&-", 0),
        ("search a -i x.clipdex --csv", ">&-", 0),
        ("info none.clipdex", "<&- >&- 2>&-", 1),
        ("info --none", "2>&-", 2),
    ],
)
def test_a_closed_stream_changes_no_exit_status(searched, command, closed, status):
    done = run_closed(searched, command, closed)
    assert (done.returncode, b"internal" in done.stderr) == (status, False), done.stderr


@pytest.mark.slow
def test_workers_run_when_every_stream_is_closed(searched, tmp_path):
    """They inherit the streams."""
    new = tmp_path / "new.clipdex"
    assert run_closed(searched, f"index pictures -i {new} --workers 1", "<&- >&- 2>&-").returncode == 0
    with Index.open(new) as index:
        assert len(index) == 2


def run_closed(searched, command: str, closed: str) -> subprocess.CompletedProcess[bytes]:
    folder, address = searched
    words = ["sh", "-c", f'"$0" -m clipdex {command} {closed}', sys.executable]
    env = os.environ | {"CLIPDEX_SERVER": address}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=60)
