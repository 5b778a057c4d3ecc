"""Three directories arrive together or not at all, wherever the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_clip import everything_in

from clipdex.base.errors import ExportError
from clipdex_export.install import SUFFIXES, check_free, recover, staging

NAME = "m"


def put(repository: Path, content: str, *, overwrite: bool = False) -> dict[str, Path]:
    with staging(repository, NAME) as stage:
        for suffix in SUFFIXES:
            (stage.model_directory(suffix) / "1" / "model.onnx").write_text(content)
        return stage.install(overwrite=overwrite)


def state(repository: Path) -> dict[str, str]:
    """{suffix: content} of the models that are there."""
    found = {}
    for suffix in SUFFIXES:
        file = repository / f"{NAME}_{suffix}" / "1" / "model.onnx"
        if file.exists():
            found[suffix] = file.read_text()
    return found


def whole(content: str) -> dict[str, str]:
    return dict.fromkeys(SUFFIXES, content)


def test_a_first_install(tmp_path: Path) -> None:
    repository = tmp_path / "a" / "repository"
    paths = put(repository, "old")
    assert state(repository) == whole("old")
    assert paths == {s: repository / f"{NAME}_{s}" for s in SUFFIXES}
    assert sorted(p.name for p in repository.iterdir()) == ["m_assets", "m_image", "m_text"]
    assert [p.name for p in repository.parent.iterdir()] == ["repository"]


def test_models_are_readable_by_a_server_of_another_user(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        paths = put(tmp_path / "repository", "old")
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in paths.values())


def test_a_second_of_the_name_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "old")
    with pytest.raises(ExportError, match="already has a model m"):
        put(tmp_path, "new")
    assert state(tmp_path) == whole("old")
    with pytest.raises(ExportError, match="choose another name or overwrite it"):
        check_free(tmp_path, NAME)


def test_overwriting_replaces_all_three(tmp_path: Path) -> None:
    put(tmp_path, "old")
    put(tmp_path, "new", overwrite=True)
    assert state(tmp_path) == whole("new")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_neighbour_whose_name_begins_alike_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "m_image_2"
    other.mkdir()
    put(tmp_path, "old")
    put(tmp_path, "new", overwrite=True)
    assert other.is_dir()


def test_while_an_export_runs_the_repository_holds_nothing_of_it(tmp_path: Path) -> None:
    """Triton takes every directory for a model, hidden ones too."""
    repository = tmp_path / "repository"
    with staging(repository, NAME):
        assert list(repository.iterdir()) == []
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_export_that_ends_early_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    repository = tmp_path / "made" / "for" / "it"
    with pytest.raises(type(error)), staging(repository, NAME) as stage:
        (stage.model_directory("image") / "1" / "model.onnx").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", range(6))
@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_rename_that_fails_brings_the_old_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    repository = tmp_path / "repository"
    put(repository, "old")
    rename, calls = Path.rename, 0

    def fail_once(self: Path, target: Path) -> Path:
        nonlocal calls
        if "clipdex-export-" in f"{self.parent}{Path(target).parent}" and self.is_dir():
            calls += 1
            if calls == failing + 1:
                raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(type(error)):
        put(repository, "new", overwrite=True)
    assert calls > failing
    assert state(repository) == whole("old")
    assert everything_in(tmp_path) == everything_of_one_model()


def everything_of_one_model() -> list[str]:
    names = [f"repository/m_{s}{rest}" for s in SUFFIXES for rest in ("", "/1", "/1/model.onnx")]
    return sorted(["repository", *names])


# Kills itself at the n-th rename of a directory: before it, and right after it.
KILLED = """
import os, signal, sys
from pathlib import Path
from clipdex_export.install import SUFFIXES, staging
repository, content, at, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
rename, calls = Path.rename, 0
def killing(self, target):
    global calls
    if self.is_dir():
        calls += 1
        if calls == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
    result = rename(self, target)
    if calls == at and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.rename = killing
with staging(repository, "m") as stage:
    for suffix in SUFFIXES:
        (stage.model_directory(suffix) / "1" / "model.onnx").write_text(content)
    if at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    stage.install(overwrite=True)
"""


def killed_install(repository: Path, content: str, at: int, when: str) -> None:
    command = [sys.executable, "-c", KILLED, str(repository), content, str(at), when]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
def test_killed_while_overwriting(tmp_path: Path, at: int, when: str) -> None:
    """A model whose assets are there is never mixed, and the next export finds it whole."""
    repository = tmp_path / "repository"
    put(repository, "old")
    killed_install(repository, "new", at, when)
    found = state(repository)
    if "assets" in found:
        assert found in (whole("old"), whole("new"))
    recover(repository)
    assert state(repository) == whole("new")
    assert everything_in(tmp_path) == everything_of_one_model()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 4))
def test_killed_during_a_first_install(tmp_path: Path, at: int, when: str) -> None:
    repository = tmp_path / "repository"
    killed_install(repository, "new", at, when)
    found = state(repository)
    assert "assets" not in found or found == whole("new")
    recover(repository)
    assert state(repository) == whole("new")
    assert everything_in(tmp_path) == everything_of_one_model()


def test_killed_before_installing_keeps_the_old_model(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    put(repository, "old")
    killed_install(repository, "new", 0, "before")
    assert len(list(tmp_path.iterdir())) == 2
    assert state(repository) == whole("old")
    put(repository, "newer", overwrite=True)
    assert state(repository) == whole("newer")
    assert [p.name for p in tmp_path.iterdir()] == ["repository"]


def test_killed_while_it_tried_where_to_build(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / ".repository.clipdex-export-probe").write_bytes(b"")
    (tmp_path / ".repository.clipdex-export-probe").write_bytes(b"")
    put(repository, "new")
    assert everything_in(tmp_path) == everything_of_one_model()


def test_an_export_that_still_runs_is_not_recovered(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    with staging(repository, NAME) as stage:
        with staging(repository, "other"):
            pass
        recover(repository)
        assert stage.directory.is_dir()


def test_staging_directories_of_another_user_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp, anybody could leave a model to be installed."""
    repository = tmp_path / "repository"
    repository.mkdir()
    planted = tmp_path / ".repository.clipdex-export-planted"
    (planted / "new" / "m_assets").mkdir(parents=True)
    (planted / "install.json").write_text('{"name": "m"}')
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    recover(repository)
    assert list(repository.iterdir()) == [] and planted.is_dir()


def test_a_repository_that_is_a_mount_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename leads from beside it: the model is built inside, and all else is the same."""
    repository = tmp_path / "repository"
    put(repository, "old")
    rename = Path.rename

    def across_mounts(self: Path, target: Path) -> Path:
        if (self.parent == tmp_path) != (Path(target).parent == tmp_path):
            raise OSError(18, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across_mounts)
    with staging(repository, NAME) as stage:
        assert stage.directory.parent == repository
    put(repository, "new", overwrite=True)
    assert state(repository) == whole("new")
    assert everything_in(tmp_path) == everything_of_one_model()


def test_a_repository_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ExportError, match="cannot be created as a model repository"), staging(file, NAME):
        pass
    with (
        pytest.raises(ExportError, match="cannot be created as a model repository"),
        staging(file / "below", NAME),
    ):
        pass


def test_even_the_way_back_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replaced models are kept for the next export, which goes on."""
    repository = tmp_path / "repository"
    put(repository, "old")
    rename, calls = Path.rename, 0

    def fail_from_the_fourth(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += self.is_dir()
        if calls >= 4:
            raise OSError("disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_from_the_fourth)
    with pytest.raises(OSError, match="disk"):
        put(repository, "new", overwrite=True)
    monkeypatch.undo()
    assert state(repository) == {}
    recover(repository)
    assert state(repository) == whole("new")
    assert everything_in(tmp_path) == everything_of_one_model()


def test_the_assets_arrive_last() -> None:
    """Clients read them first: the order is the guarantee."""
    assert SUFFIXES[-1] == "assets"
