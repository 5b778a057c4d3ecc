"""`clipdex watch`: an index that follows its folder, by what the system reports and by looking again."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL_REPOSITORY, noise

import clipdex
from clipdex.apps import watch as app
from clipdex.apps.watch import Held, Synced, Watch
from clipdex.base.errors import ServerUnreachable, SourceError
from clipdex.sources import Source
from clipdex.sources import changes as changes_module
from clipdex.sources.changes import FolderChanges

pytest.importorskip("watchdog")
pytestmark = pytest.mark.usefixtures("not_for_ever")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LOOK_S", 0.05)
    monkeypatch.setattr(app, "_AGAIN_S", (0.05,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(3):
        noise(i).save(place / f"{i}.png")
    return place


class Run:
    """A watch, step by step; what each sync was given."""

    def __init__(self, client: clipdex.Client, folder: Path, **options: Any) -> None:
        self.index = folder.parent / "x.clipdex"
        self.sources: list[Source] = []
        self.fail: list[Exception] = []
        self._client = client
        self.watch = Watch(folder, self.index, self._sync, **{"still_s": 0.1, **options})
        self._events = self.watch.events()

    def _sync(self, source: Source) -> clipdex.RunReport:
        self.sources.append(source)
        if self.fail:
            raise self.fail.pop(0)
        return clipdex.index_pictures(self._client, source, self.index, workers=1)

    def event(self) -> Synced | Held:
        return next(self._events)

    def synced(self) -> tuple[int, int, int, int, int]:
        """-> (added, changed, removed, failed, rows in the index) by the next sync that did anything."""
        while True:
            done = self.event()
            assert isinstance(done, Synced), done
            r = done.report
            if r.indexed or r.removed or r.failed or done.cause != "changes":
                return r.indexed - r.changed, r.changed, r.removed, r.failed, r.rows

    def held(self) -> str:
        done = self.event()
        assert isinstance(done, Held), done
        return done.why


@pytest.fixture
def start(fake: clipdex.Client, folder: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def start(**options: Any) -> Run:
        made.append(Run(fake, folder, **options))
        return made[-1]

    yield start
    for each in made:
        each.watch.close()


def test_a_picture_added_changed_moved_and_removed_is_followed(start: Any, folder: Path) -> None:
    run = start()
    assert run.synced() == (3, 0, 0, 0, 3)
    noise(7).save(folder / "7.png")
    assert run.synced() == (1, 0, 0, 0, 4)
    noise(8).save(folder / "7.png")
    assert run.synced() == (0, 1, 0, 0, 4)
    (folder / "7.png").rename(folder / "8.png")
    assert run.synced() == (1, 0, 1, 0, 4)
    (folder / "0.png").unlink()
    assert run.synced() == (0, 0, 1, 0, 3)
    assert type(run.sources[0]).__name__ == "Folder"
    assert {type(source).__name__ for source in run.sources[1:]} == {"Touched"}


@pytest.mark.slow
def test_folders_are_followed_when_made_moved_and_removed(start: Any, folder: Path, tmp_path: Path) -> None:
    run = start()
    run.synced()
    (tmp_path / "new" / "deep").mkdir(parents=True)
    noise(20).save(tmp_path / "new" / "20.png")
    noise(21).save(tmp_path / "new" / "deep" / "21.png")
    (tmp_path / "new").rename(folder / "new")
    assert run.synced() == (2, 0, 0, 0, 5)
    noise(22).save(folder / "new" / "deep" / "22.png")
    assert run.synced() == (1, 0, 0, 0, 6)
    (folder / "new").rename(folder / "old")
    assert run.synced() == (3, 0, 3, 0, 6)
    (folder / "old").rename(tmp_path / "old")
    assert run.synced() == (0, 0, 3, 0, 3)


@pytest.mark.slow
def test_a_burst_is_one_sync(start: Any, folder: Path) -> None:
    run = start(still_s=0.4)
    run.synced()

    def burst() -> None:
        for i in range(10):
            shutil.copy(folder / "0.png", folder / f"burst-{i}.png")
            time.sleep(0.1)

    thread = threading.Thread(target=burst)
    thread.start()
    assert run.synced() == (10, 0, 0, 0, 13)
    assert len(run.sources) == 2
    thread.join()


@pytest.mark.slow
def test_a_file_is_read_once_it_is_complete_and_others_do_not_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "_LONGEST_S", 0.4)
    with FolderChanges(folder, still_s=0.2) as changes, (folder / "long.png").open("wb") as file:
        noise(9).save(folder / "9.png")
        taken: set[bytes] = set()
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            file.write(b"more")
            file.flush()
            time.sleep(0.02)
            taken |= changes.take().files
        assert taken == {b"9.png"}
        file.close()
        while not taken >= {b"long.png"}:
            taken |= changes.take().files
            time.sleep(0.02)


def test_a_file_whose_size_changes_silently_is_not_complete(folder: Path) -> None:
    """As over a network, and between two listings."""
    with FolderChanges(folder, still_s=0.2) as changes:
        changes.note(os.fsencode(folder / "0.png"), is_folder=False, is_gone=False)
        with changes._changed:
            changes._waiting[b"0.png"].state = (1, 1)
        time.sleep(0.25)
        assert not changes.take()
        time.sleep(0.25)
        assert changes.take().files == {b"0.png"}


@pytest.mark.slow
def test_half_a_file_is_a_failure_that_passes_when_the_rest_comes(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    noise(30).save(folder / "whole.tmp", "PNG")
    data = (folder / "whole.tmp").read_bytes()
    (folder / "30.png").write_bytes(data[:500])
    assert run.synced() == (0, 0, 0, 1, 3)
    with (folder / "30.png").open("ab") as file:
        file.write(data[500:])
    assert run.synced() == (1, 0, 0, 0, 4)
    with clipdex.Index.open(run.index) as index:
        assert index.failures() == []


@pytest.mark.slow
def test_a_text_beside_a_picture_counts_as_its_change(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    (folder / "1.png.xmp").write_text("<x/>")
    done = run.event()
    assert isinstance(done, Synced)
    assert (done.report.discovered, done.report.unchanged) == (1, 1)


@pytest.mark.slow
def test_other_files_hidden_ones_what_is_excluded_and_the_index_itself_cause_no_sync(
    fake: clipdex.Client, folder: Path
) -> None:
    index = folder / "x.clipdex"
    clipdex.index_pictures(fake, folder, index, workers=1)
    exclusion = clipdex.Exclusion(["thumbs/"])
    with FolderChanges(folder, exclusion=exclusion, apart=[index], still_s=0.05) as changes:
        (folder / "notes.log").write_text("x")
        noise(1).save(folder / ".hidden.png")
        (folder / "thumbs").mkdir()
        noise(2).save(folder / "thumbs" / "2.png")
        (index / "manifest.json").touch()
        with clipdex.IndexWriter(index) as writer:
            writer.remove(os.fsencode(folder / "0.png"))
        time.sleep(0.3)
        assert not changes.take()
        noise(3).save(folder / "3.png")  # it does watch
        while not (found := changes.take()):
            time.sleep(0.02)
        assert found.files == {b"3.png"}


@pytest.mark.slow
def test_a_folder_that_is_gone_is_waited_for_and_nothing_is_removed(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    folder.rename(folder.parent / "away")
    assert run.held().endswith(f"nothing is removed from {run.index}")
    folder.mkdir()  # the mount point
    assert "holds no picture" in run.held()
    with clipdex.Index.open(run.index) as index:
        assert len(index) == 3
    folder.rmdir()
    (folder.parent / "away").rename(folder)
    noise(9).save(folder / "9.png")
    while not isinstance(run.event(), Synced):
        pass
    noise(10).save(folder / "10.png")  # it watches the folder that is there now
    while not isinstance(done := run.event(), Synced) or not done.report.indexed:
        pass
    assert done.report.rows == 5


@pytest.mark.slow
def test_an_empty_folder_is_waited_for_until_a_picture_comes(
    start: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_AGAIN_S", (100.0,))
    for path in folder.iterdir():
        path.unlink()
    run = start()
    assert "holds no picture" in run.held()
    assert not run.index.exists()
    noise(1).save(folder / "1.png")
    assert run.synced() == (1, 0, 0, 0, 1)


@pytest.mark.slow
def test_the_last_picture_is_kept_as_the_disk_may_be_unmounted(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    for path in folder.iterdir():
        path.unlink()
    assert "holds no picture" in run.held()
    with clipdex.Index.open(run.index) as index:
        assert len(index) == 3


@pytest.mark.slow
def test_a_disk_below_the_folder_that_is_unmounted_keeps_its_pictures(
    start: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, away = folder / "disk", tmp_path / "away"
    disk.mkdir()
    noise(50).save(disk / "50.png")
    mounts = [frozenset({"disk"})]
    monkeypatch.setattr(app, "mounted_below", lambda _: mounts[0])
    run = start()
    assert run.synced() == (4, 0, 0, 0, 4)
    mounts[0] = frozenset()
    disk.rename(away)
    disk.mkdir()
    (folder / "0.png").unlink()
    assert run.held() == f"{disk} is no longer mounted: its pictures stay in {run.index}"
    assert run.synced() == (0, 0, 1, 0, 3)
    (folder / "1.png").unlink()
    assert run.synced() == (0, 0, 1, 0, 2)
    disk.rmdir()
    away.rename(disk)
    (disk / "50.png").unlink()
    mounts[0] = frozenset({"disk"})
    assert run.synced() == (0, 0, 1, 0, 1)


def test_mount_points_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipdex.base import mounts

    place = os.path.realpath(tmp_path)
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / {place}/a\\040b rw shared:1 - nfs4 x rw\nshort\n"
        f"3 1 8:3 / {place} rw - tmpfs x rw\n4 1 8:3 / {place}-other rw - tmpfs x rw\n"
    )
    monkeypatch.setattr(mounts, "_TABLE", table)
    assert mounts.mounted_below(tmp_path) == {"a b"}
    assert [kind for _, kind in mounts.mounted()] == ["ext4", "nfs4", "tmpfs", "tmpfs"]
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "gone")
    assert mounts.mounted() == []


@pytest.mark.slow
def test_a_folder_unmounted_during_a_run_loses_nothing(fake: clipdex.Client, folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "x.clipdex"
    clipdex.index_pictures(fake, folder, index, workers=1)
    away = tmp_path / "away"
    noise(9).save(folder / "9.png")

    def unmount(progress: clipdex.Progress) -> None:
        if progress.stage == "committing" and not away.exists():
            folder.rename(away)
            folder.mkdir()
            noise(1).save(folder / "other.png")

    report = clipdex.index_pictures(fake, folder, index, workers=1, progress=unmount)
    assert (report.indexed, report.removed, report.rows) == (1, 0, 4)


@pytest.mark.slow
def test_a_server_that_is_away_is_asked_again_and_told_once(start: Any, folder: Path) -> None:
    run = start()
    run.fail = [ServerUnreachable("nobody answers")] * 3
    assert run.held() == "nobody answers; trying again until it works"
    assert run.synced() == (3, 0, 0, 0, 3)
    run.fail = [ServerUnreachable("nobody answers")]
    noise(9).save(folder / "9.png")
    assert "nobody answers" in run.held()
    assert run.synced() == (1, 0, 0, 0, 4)


@pytest.mark.slow
def test_a_locked_index_is_waited_for_and_free_between_syncs(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    with clipdex.IndexWriter(run.index):
        noise(9).save(folder / "9.png")
        assert "is being written to by process" in run.held()
    assert run.synced() == (1, 0, 0, 0, 4)
    clipdex.IndexWriter(run.index).close()


@pytest.mark.slow
def test_a_server_that_goes_away_during_a_sync_does_not_hold_the_index_for_long(
    fake: clipdex.Client, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    from clipdex.cli import connection_options

    deadlines: list[float] = []

    def submit(pixels: Any, deadline_s: float) -> Any:
        deadlines.append(deadline_s)
        raise clipdex.FingerprintMismatch("ends it")

    monkeypatch.setattr(fake, "submit_pixels", submit)
    monkeypatch.setattr(connection_options, "connect", lambda *_, **__: fake)
    assert run("watch", folder, "--out", tmp_path / "x.clipdex", "--workers", "1")[0] == 1
    assert deadlines == [app.SYNC_DEADLINE_S]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-exif",)])
def test_what_pictures_say_of_themselves_is_left_out_if_told_so(
    options: tuple[str, ...],
    fake: clipdex.Client,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
) -> None:
    from clipdex.cli import connection_options, run_options

    asked: list[bool] = []

    def index_pictures(*_: Any, exif: bool, **more: Any) -> Any:
        asked.append(exif)
        raise clipdex.FingerprintMismatch("ends it")

    monkeypatch.setattr(run_options, "index_pictures", index_pictures)
    monkeypatch.setattr(connection_options, "connect", lambda *_, **__: fake)
    assert run("watch", folder, "--out", tmp_path / "x.clipdex", *options)[0] == 1
    assert asked == [not options]


def test_another_error_ends_it(start: Any) -> None:
    run = start()
    run.fail = [clipdex.FingerprintMismatch("another model")]
    with pytest.raises(clipdex.FingerprintMismatch):
        run.event()


@pytest.mark.slow
def test_lost_events_mean_a_look_at_everything(start: Any, folder: Path) -> None:
    run = start()
    run.synced()
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
    run.event()
    assert type(run.sources[-1]).__name__ == "Folder"


@pytest.mark.slow
def test_a_rescan_finds_what_no_event_told_of(start: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderChanges, "note", lambda *_, **__: None)
    run = start(rescan_s=0.3)
    run.synced()
    noise(9).save(folder / "9.png")
    done = run.event()
    assert isinstance(done, Synced) and (done.cause, done.report.rows) == ("rescan", 4)


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1], ids=["for no watch", "for some of them"])
def test_a_reached_limit_of_the_system_is_told_and_rescans_go_on(
    start: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    from watchdog.observers.api import BaseObserver

    started: list[Any] = []
    real = BaseObserver.start

    def full(self: Any) -> None:
        started.append(self)
        if len(started) > room:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        real(self)

    monkeypatch.setattr(BaseObserver, "start", full)
    run = start(rescan_s=0.3)
    assert "sysctl fs.inotify.max_user_watches=N, or use --polling" in run.held()
    assert run.synced() == (3, 0, 0, 0, 3)
    noise(9).save(folder / "9.png")
    assert run.synced() == (1, 0, 0, 0, 4)


@pytest.mark.slow
def test_polling_finds_changes(start: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(polling_s=0.1, rescan_s=0)
    run.synced()
    noise(9).save(folder / "9.png")
    assert run.synced() == (1, 0, 0, 0, 4)
    (folder / "9.png").unlink()
    assert run.synced() == (0, 0, 1, 0, 3)


@pytest.mark.slow
def test_a_link_to_a_folder_is_followed_by_a_scan_of_everything(start: Any, folder: Path, tmp_path: Path) -> None:
    run = start()
    run.synced()
    (tmp_path / "elsewhere").mkdir()
    noise(40).save(tmp_path / "elsewhere" / "40.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert run.synced() == (1, 0, 0, 0, 4)
    assert type(run.sources[-1]).__name__ == "Folder"
    (folder / "link").unlink()
    assert run.synced() == (0, 0, 1, 0, 3)


@pytest.mark.slow
def test_a_folder_named_by_a_link_is_watched(fake: clipdex.Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(folder)
    run = Run(fake, tmp_path / "named")
    try:
        run.synced()
        noise(9).save(folder / "9.png")
        assert run.synced() == (1, 0, 0, 0, 4)
    finally:
        run.watch.close()


@pytest.mark.slow
def test_tars_in_a_folder_are_followed_as_a_whole(start: Any, folder: Path) -> None:
    import tarfile

    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    with tarfile.open(folder / "0.tar", "w") as tar:
        tar.add(folder.parent / "0.png", "0.png")
    run = start()
    assert run.synced() == (1, 0, 0, 0, 1)
    with tarfile.open(folder / "1.tar", "w") as tar:
        tar.add(folder.parent / "1.png", "1.png")
    assert run.synced() == (1, 0, 0, 0, 2)


@pytest.mark.parametrize(
    "options", [{"rescan_s": float("nan")}, {"rescan_s": -1}, {"still_s": float("inf")}, {"polling_s": 0.0}]
)
def test_a_number_out_of_range_is_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(clipdex.InvalidArgument, match=f"{next(iter(options))} is .*; expected"):
        Watch(folder, folder / "x.clipdex", lambda source: pytest.fail(), **options)


def test_a_missing_folder_is_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: there is no such folder"):
        Watch(folder / "nowhere", folder / "x.clipdex", lambda source: pytest.fail())


def test_a_file_instead_of_a_folder_is_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("text")
    with pytest.raises(SourceError, match=r"notes\.txt: it is a file; expected a folder"):
        Watch(folder / "notes.txt", folder / "x.clipdex", lambda source: pytest.fail())


def test_a_missing_watchdog_names_the_extra(
    folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "watchdog"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "watchdog", None)
    status, out, err = run("watch", folder, "--out", tmp_path / "x.clipdex")
    assert (status, out) == (1, "")
    assert "watching a folder needs watchdog" in err and "watch" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_prints_a_line_of_json_a_sync_and_ends_on_a_signal(
    folder: Path, tmp_path: Path, number: int, status: int
) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "clipdex",
        "watch",
        folder,
        "--out",
        tmp_path / "x.clipdex",
        "--json",
    ]
    more = ["--still-s", "0.1", "--server", f"inproc:{MODEL_REPOSITORY}", "--model", "demo", "--workers", "1"]
    process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["cause"], first["indexed"], first["rows"]) == ("start", 3, 3)
        noise(9).save(folder / "9.png")
        assert json.loads(process.stdout.readline())["rows"] == 4
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (status, "")
    assert "Traceback" not in err and err.splitlines()[-1].startswith("clipdex: stopped; ")
