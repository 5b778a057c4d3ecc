"""What all commands have in common: how the index is named, --json, --quiet, --verbose, mistakes in the words."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import MODEL_REPOSITORY, noise
from typer.main import get_command

from clipdex import Client, Index, index_pictures
from clipdex.cli import connection_options as connection
from clipdex.cli.app import app
from clipdex.wire import FakeTransport

GROUP: Any = get_command(app)


def paths(group: Any = GROUP, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as words, those of groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from paths(command, (*before, name))
        else:
            yield (*before, name)


def found(path):
    """The command that these words name."""
    command = GROUP
    for name in path:
        command = command.commands[name]
    return command


ALL = list(paths())
EACH = pytest.mark.parametrize("path", ALL, ids=" ".join)


@pytest.fixture(autouse=True)
def fake_server(monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures and their index, made once: that takes longer than most commands."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "pictures").mkdir()
    for i in range(12):
        noise(i).save(folder / "pictures" / f"{i}.png")
    (folder / "pictures" / "3.png").write_text("no picture")
    with Client(FakeTransport()) as client:
        index_pictures(client, folder / "pictures", folder / "x.clipdex", workers=1)
    copy = tmp_path_factory.mktemp("copy") / "folder"
    shutil.copytree(folder, copy)
    return folder, copy


@pytest.fixture
def folder(made, monkeypatch):
    """The current folder, with `pictures` and x.clipdex: eleven pictures, and one file in the ledger."""
    folder, copy = made
    monkeypatch.chdir(folder)
    yield folder
    for path in folder.iterdir():
        if path.name != "pictures":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in {path.name for part in (folder, copy) for path in (part / "pictures").iterdir()}:
        here, there = folder / "pictures" / path, copy / "pictures" / path
        if not there.exists():
            here.unlink()
        elif not here.exists():
            shutil.copy2(there, here)
    shutil.copytree(copy / "x.clipdex", folder / "x.clipdex")


@pytest.fixture
def index(folder):
    return "x.clipdex"


# Over an index: words before, words after.
OVER_AN_INDEX = [
    (("info",), ()),
    (("verify",), ()),
    (("optimize",), ()),
    (("compact",), ()),
    (("failures",), ()),
    (("forget",), ("--missing",)),
    (("duplicates",), ()),
    (("dump",), ("vectors.npy",)),
    (("bench", "search"), ("--seconds", "0.01", "--queries", "1")),
    (("ann", "build"), ()),
    (("features", "build"), ("--workers", "1")),
]
OVER = pytest.mark.parametrize(("before", "after"), OVER_AN_INDEX, ids=lambda words: " ".join(words))


@OVER
def test_an_index_is_named_by_option_by_environment_or_as_an_argument(run, index, monkeypatch, before, after):
    if before[0] in ("ann", "features"):
        pytest.importorskip({"ann": "faiss", "features": "cv2"}[before[0]])
    option = run(*before, *after, "--index", index, "--json")
    argument = run(*before, index, *after, "--json")
    monkeypatch.setenv("CLIPDEX_INDEX", index)
    environment = run(*before, *after, "--json")
    for status, out, err in (option, argument, environment):
        assert (status, err) == (0, ""), err
        document = json.loads(out)
        assert not isinstance(document, dict) or document.get("index", index) in (index, document["index"])


@OVER
def test_an_index_that_is_named_twice_or_not_at_all_is_a_mistake(run, index, before, after):
    status, out, err = run(*before, index, *after, "--index", index)
    assert (status, out) == (1, "")
    assert err == f"clipdex: the index is given twice, as {index} and as --index {index}; give it once\n"
    if before != ("bench", "search"):  # which draws vectors
        status, out, err = run(*before, *(after if before != ("dump",) else ()))
        assert (status, out) == (1, "")
        assert err == "clipdex: there is no index; name one with --index X.clipdex, or set CLIPDEX_INDEX\n"


@EACH
def test_every_command_over_an_index_has_the_same_option_for_it(path):
    options = {option: each for each in found(path).params for option in each.opts}
    others = {
        (each,)
        for each in ("index", "search", "add", "remove", "watch", "web", "push", "push-index", "split", "match")
    }
    if path in {before for before, _ in OVER_AN_INDEX} | others:
        assert options["--index"] is options["-i"]
        assert options["--index"].envvar == "CLIPDEX_INDEX"
    else:
        assert "--index" not in options


def test_a_word_of_the_command_line_goes_before_the_environment(run, index, monkeypatch):
    monkeypatch.setenv("CLIPDEX_INDEX", "other.clipdex")
    assert "x.clipdex" in run("info", index)[1]
    assert "x.clipdex" in run("info", "--index", index)[1]
    assert "other.clipdex: there is no such index" in run("info")[2]


def test_index_and_search_take_the_index_from_the_environment(run, index, monkeypatch):
    monkeypatch.setenv("CLIPDEX_INDEX", index)
    assert run("index", "pictures")[1].startswith("12 pictures found: 0 indexed, 11 unchanged, 1 failed")
    assert run("search", "a cat")[0] == 0
    monkeypatch.delenv("CLIPDEX_INDEX")
    for words in (("index", "pictures"), ("search", "a cat")):
        assert run(*words)[2].startswith("clipdex: there is no index; ")


def rows(index):
    with Index.open(index) as opened:
        return len(opened)


def test_forget_takes_every_argument_as_a_path_if_the_index_is_named(run, index, monkeypatch):
    assert run("forget", "--index", index, "pictures/0.png")[0] == 0
    assert rows(index) == 10
    monkeypatch.setenv("CLIPDEX_INDEX", index)
    assert run("forget", "pictures/1.png", "pictures/2.png")[0] == 0
    assert rows(index) == 8
    monkeypatch.delenv("CLIPDEX_INDEX")
    assert run("forget", index, "pictures/4.png")[0] == 0
    assert rows(index) == 7


@pytest.mark.parametrize("name", ["y.clipdex", "gone.clipdex", "an index"])
def test_forget_refuses_to_guess_which_of_two_indexes_is_meant(run, index, folder, monkeypatch, name):
    """Without this, `clipdex forget y.clipdex pictures` forgets the pictures in the index of the environment."""
    if name != "gone.clipdex":
        shutil.copytree(index, name)
    monkeypatch.setenv("CLIPDEX_INDEX", index)
    status, out, err = run("forget", name, "pictures")
    assert (status, out) == (1, "")
    assert err == (
        f"clipdex: {name} looks like an index, but {index} is named by CLIPDEX_INDEX; say which one with --index\n"
    )
    assert rows(index) == 11
    assert run("forget", "--index", name, "pictures")[0] == (1 if name == "gone.clipdex" else 0)
    assert rows(index) == 11


def test_dump_takes_one_argument_as_the_file_if_the_index_is_named(run, index, folder):
    assert run("dump", "-i", index, "a.npy")[0] == 0
    assert (folder / "a.npy").exists()
    for words in ((index,), ("-i", index)):
        status, _, err = run("dump", *words)
        assert status == 1
        assert err.startswith("clipdex: there is no FILE to write; ")


def test_dump_and_undo_go_by_their_arguments_whatever_the_environment_says(run, index, folder, monkeypatch):
    monkeypatch.setenv("CLIPDEX_INDEX", "other.clipdex")
    assert run("dump", index, "a.npy")[0] == 0
    status, _, err = run("duplicates", "--undo", "none.jsonl")
    assert status == 1 and "none.jsonl" in err
    assert "--undo takes neither an index" in run("duplicates", index, "--undo", "none.jsonl")[2]


def test_bench_search_draws_vectors_if_told_of_them_and_refuses_both(run, index, monkeypatch):
    drawn = ("bench", "search", "--rows", "50", "--dim", "16", "--seconds", "0.01", "--json")
    monkeypatch.setenv("CLIPDEX_INDEX", index)
    assert json.loads(run(*drawn)[1])["index"]["rows"] == 50
    status, _, err = run(*drawn, "--index", index)
    assert status == 1
    assert err == "clipdex: --rows and --dim describe drawn vectors, but an index is given\n"


def test_a_server_that_is_given_twice_is_a_mistake(run, monkeypatch):
    for command in ("doctor", "models"):
        status, out, err = run(command, "127.0.0.1:9", "--server", "127.0.0.1:7")
        assert (status, out) == (1, "")
        assert err == "clipdex: 127.0.0.1:9 and --server 127.0.0.1:7 are both given; give one\n"
    monkeypatch.setenv("CLIPDEX_SERVER", "127.0.0.1:7")
    assert "no server answers at 127.0.0.1:9" in run("models", "127.0.0.1:9")[2]


# --json


@EACH
def test_every_command_that_has_a_result_has_json(path):
    has = any("--json" in each.opts and each.is_flag for each in found(path).params)
    assert has == (path != ("demo",))


WITH_JSON = [
    ("index", "pictures", "-i", "x.clipdex"),
    ("index", "pictures", "more", "-i", "x.clipdex"),
    ("index", "pictures", "-i", "x.clipdex", "--dry-run"),
    ("search", "a cat", "-i", "x.clipdex"),
    ("search", "a cat", "-i", "x.clipdex", "--where", "width < 0"),
    ("classify", "pictures/0.png", "--labels", "a,b"),
    ("retrieve", "--prompt", "a cat", "--images_dir", "pictures"),
    ("info", "x.clipdex"),
    ("failures", "x.clipdex"),
    ("failures", "x.clipdex", "--retry"),
    ("forget", "x.clipdex", "pictures/0.png", "--dry-run"),
    ("verify", "x.clipdex"),
    ("compact", "x.clipdex"),
    ("optimize", "x.clipdex"),
    ("dump", "x.clipdex", "v.npy"),
    ("duplicates", "x.clipdex"),
    ("duplicates", "x.clipdex", "--move-to", "../away"),
    ("bench", "search", "x.clipdex", "--seconds", "0.01", "--queries", "1"),
    ("bench", "index", "pictures", "--seconds", "0.01", "--workers", "1"),
    ("models", str(MODEL_REPOSITORY)),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", WITH_JSON, ids=lambda words: " ".join(words[:-1]))
def test_with_json_standard_output_is_one_document_and_nothing_else(run, index, folder, words):
    (folder / "more").mkdir()
    noise(99).save(folder / "more" / "99.png")
    (folder / "more" / "copy.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    if words[0] == "duplicates":
        assert run("index", "more", "-i", "x.clipdex")[0] == 0
    status, out, err = run(*words, "--json")
    assert status == 0, err
    document = json.loads(out)
    if isinstance(document, dict):
        assert document and all(re.fullmatch(r"[a-z0-9_]+", key) for key in document)
    else:
        assert isinstance(document, list)
        assert all(isinstance(each, dict) for each in document)


def test_verify_as_json_has_the_damage_and_the_same_exit_status(run, index, folder):
    vectors = folder / index / "vectors.f16"
    content = bytearray(vectors.read_bytes())
    content[20] ^= 1
    vectors.write_bytes(content)
    status, out, err = run("verify", index, "--json")
    document = json.loads(out)
    assert (status, document["sound"], err) == (1, False, "")
    assert document["damages"][0]["what"]
    assert document["damages"][0]["first_row"] < document["damages"][0]["end_row"]


@pytest.mark.parametrize("words", [("info",), ("verify",), ("search", "a cat", "-i"), ("forget",), ("compact",)])
def test_with_json_an_error_is_the_same_sentence_and_status(run, tmp_path, words):
    plain = run(*words, tmp_path / "gone.clipdex")
    assert run(*words, tmp_path / "gone.clipdex", "--json") == plain
    assert (plain[0], plain[1]) == (1, "")


# --strict, --quiet, --verbose


def test_index_with_failures_succeeds_unless_strict(run, index):
    words = ("index", "pictures", "-i", index)
    status, out, _ = run(*words)
    assert status == 0
    assert out.endswith("x.clipdex holds 11;  clipdex failures --index x.clipdex  lists the failures\n")
    assert run(*words, "--strict")[:2][0] == 1
    assert "1 failed" in run(*words, "--strict")[1]
    assert run(*words, "--strict", "--json")[0] == 1
    assert run(*words, "--strict", "--dry-run")[0] == 1
    assert run("forget", "-i", index, "pictures/3.png")[0] == 0
    assert run("index", "pictures/0.png", "-i", index, "--strict")[0] == 0


@EACH
def test_every_command_has_quiet_and_verbose(path):
    options = {option for each in found(path).params for option in each.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= options


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before", "after"])
def test_quiet_prints_results_and_nothing_else(run, index, folder, where):
    def quietly(*words):
        return run("-q", *words) if where == "before" else run(*words, "-q")

    (folder / "pictures" / "notes.txt").write_text("no picture")
    (folder / "pictures" / "12.png").write_text("no picture either")
    status, out, err = quietly("index", "pictures", "-i", index)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"13 pictures found: .*\n", out)
    assert "failed: pictures/12.png" in run("index", "pictures", "-i", index)[2]  # and is loud again afterwards
    status, out, err = quietly("search", "a cat", "-i", index, "--html", "sheet.html")
    assert (status, err, out.count("\n")) == (0, "", 5)
    status, out, err = quietly("search", "a cat", "-i", "gone.clipdex")
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: gone.clipdex: there is no such index")


def test_verbose_says_server_model_stages_and_time(run, index):
    status, _, err = run("index", "pictures", "-i", index, "-v")
    assert status == 0
    assert re.search(r"^server \S+: fake ", err, re.M)
    assert re.search(r"^model fake: ", err, re.M)
    assert re.search(r"^decode: +[\d.]+ s$", err, re.M)
    assert re.search(r"^took [\d.]+ s$", err, re.M)
    assert not re.search(r"^(server|model|took) ", run("index", "pictures", "-i", index)[2], re.M)


def test_quiet_and_verbose_exclude_each_other(run):
    status, out, err = run("models", "-q", "-v")
    assert (status, out) == (1, "")
    assert err == "clipdex: --quiet and --verbose exclude each other\n"


# Mistakes in the words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sarch",), "no such command 'sarch'. Did you mean 'search'"),
        (("search", "--wher", "x"), "no such option: --wher"),
        (("index", "--check", "often"), "invalid value for '--check'"),
        (("retrieve",), "missing option '--prompt'"),
        (("bench", "nothing"), "no such command 'nothing'"),
        (("info", "a", "b"), "got unexpected extra argument"),
        (("index", "--workers", "0"), "invalid value for '--workers'"),
    ],
)
def test_a_word_that_no_command_knows_is_one_sentence_and_status_2(run, words, said):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"clipdex: {said}")
    assert err.count("\n") == 1
    command = "clipdex" if words[0] == "sarch" else f"clipdex {words[0]}"
    assert err.endswith(f"see  {command} --help\n")


def test_a_fault_of_ours_is_one_sentence_and_its_traceback_only_if_asked_for(run, index, monkeypatch):
    def broken(*args, **options):
        raise ZeroDivisionError("no\nway")

    monkeypatch.setattr("clipdex.cli.maintenance.compact_index", broken)
    status, out, err = run("compact", index)
    assert (status, out) == (70, "")
    assert re.fullmatch(
        r"clipdex: internal error in \w+\.py:\d+: ZeroDivisionError: no\\nway; run it again with --verbose, and "
        r"please report it\n",
        err,
    )
    status, _, err = run("compact", index, "--verbose")
    assert status == 70
    assert "Traceback (most recent call last):" in err


@pytest.mark.slow
@pytest.mark.parametrize("words", [("info",), ("info", "--help")])
def test_a_full_disk_for_the_results_is_one_sentence(index, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clipdex", words[0], index, *words[1:]],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    where = "" if "--help" in words else "standard output cannot be written: "
    assert done.stderr == f"clipdex: {where}No space left on device\n"


def test_ctrl_c_is_one_word(run, index, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("clipdex.cli.maintenance.Index.open", stopped)
    assert run("info", index) == (130, "", "clipdex: stopped\n")


def test_labels_are_counted_by_top_k_and_by_its_former_name(run, index):
    words = ("classify", "pictures/0.png", "--labels", "a,b,c", "--json")
    for option in ("-k", "--top-k", "--top"):
        (picture,) = json.loads(run(*words, option, 2)[1])
        assert len(picture["labels"]) == 2
