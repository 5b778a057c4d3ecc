"""Keeps one tritonserver, and leaves nothing of it behind, whatever ends the process that wanted it.

    client process ── stdin, stdout ── supervisor ── tritonserver ── one stub process per model instance

`LocalTriton` runs this file as a script, in a session of its own so that Ctrl-C in the terminal does not
reach it. It stops the server when it is told to, when its standard input ends, when the client process
dies (even by SIGKILL), or on SIGTERM, SIGINT and SIGHUP. When Triton dies first, it ends what Triton left
running. If it is itself killed, the kernel kills Triton, and Triton's stubs see that within a second and end.

When a stub dies, killed for lack of memory perhaps, Triton 2.51 keeps calling its model READY and refuses
every request for it. So the loss of a stub ends the server: a server that is gone is easier to notice.

It is started for every server, so it imports little, and nothing but the standard library. Its only argument is
the path of a file that holds a `Spec`: any user may read a command line, and the one in it has a key. On its
standard input come single bytes, on its standard output go lines:

    r                   the models are ready: from here on every stub counts
    s                   stop
    started PID         Triton runs
    watching STUBS      the answer to r
    ended STATUS        Triton's exit status; -9 for SIGKILL, as subprocess has it
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory
NAME_PREFIX = "clipdex-triton-"

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# linux/audit.h and the tables of system calls: machine -> its AUDIT_ARCH, and fchmod's number.
_FCHMOD = {"x86_64": (0xC000003E, 91), "aarch64": (0xC00000B7, 52)}

# Lines in the log. A stub of ours writes the first when it is asked to end and has answered all it had accepted;
# this supervisor writes the second, and `reason` looks for it.
FINALIZED = b"clipdex: finalized\n"
LOST = "clipdex: lost the process of the model"

_SPEC = "spec.json"
_FLUSH_S = 0.2  # for the last answers to leave Triton's gRPC threads
_POLL_S = 0.02


class Spec(NamedTuple):
    """What to run and what to clean up. `name` comes from `new_name`: it begins the shared-memory names.

    key: what of the command other users shall not see. key_file: where this user's clients find it.
    """

    parent_pid: int
    name: str
    command: list[str]
    run_dir: str
    log_file: str
    log_is_ours: bool
    stop_timeout_s: float
    key: str = ""
    key_file: str = ""

    def write(self) -> Path:
        """The script's argument: a file in the run's directory, which is this user's alone."""
        path = Path(self.run_dir) / _SPEC
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._asdict()))
        return path

    @classmethod
    def read(cls, path: str) -> Spec:
        """Read the script's argument."""
        return cls(**json.loads(Path(path).read_text()))


# --- what a run leaves on the disk, and whose it is ---


def new_name() -> str:
    """A name for a run, which says whose it is: clipdex-triton-NAMESPACE-PID-STARTED-RANDOM."""
    return f"{NAME_PREFIX}{_owner(os.getpid())}-{os.urandom(4).hex()}"


def remove_left_overs(name: str, run_dir: str | Path, key: str = "", key_file: str = "") -> None:
    """Remove a dead run's directory, the shared memory that a killed stub could not give back, and its key."""
    if key and key_file:
        with contextlib.suppress(OSError):
            if key in Path(key_file).read_text():  # and not that of a server that has the port since
                Path(key_file).unlink()
                Path(key_file).parent.rmdir()  # unless there are others
    for region in SHARED_MEMORY.glob(f"{name}*"):
        with contextlib.suppress(OSError):
            region.unlink()
    shutil.rmtree(run_dir, ignore_errors=True)


def sweep(temp_dir: Path) -> None:
    """Remove what runs left behind whose owner was killed together with its supervisor."""
    for folder in (SHARED_MEMORY, temp_dir):
        for path in folder.glob(f"{NAME_PREFIX}*"):
            with contextlib.suppress(OSError):
                if path.lstat().st_uid != os.geteuid() or not _owner_is_dead(path.name):
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif folder == SHARED_MEMORY:  # a log in temp_dir is kept: a message names it
                    path.unlink()


def _owner(pid: int) -> str:
    # A process id means something in its own namespace only (containers may share /dev/shm), and is used again
    # after a while: the namespace and the start time make it unique.
    return f"{_namespace()}-{pid}-{_start_time(pid)}"


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _owner_is_dead(name: str) -> bool:
    try:
        namespace, pid, _started, _random = name.removeprefix(NAME_PREFIX).split("-", 3)
        if int(namespace) != _namespace():
            return False  # another container's: not ours to judge
        return not name.startswith(f"{NAME_PREFIX}{_owner(int(pid))}-")
    except FileNotFoundError:
        return True  # no such process
    except ValueError:
        return False  # not a name of ours


def _start_time(pid: int) -> str:
    # /proc/PID/stat is "PID (NAME) STATE PPID ...", and NAME may hold blanks and brackets. Field 22 counts clock
    # ticks from boot to the process's start.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


# --- the supervisor ---


class _Supervisor:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.pid = 0
        self.status: int | None = None
        # As a subreaper this process inherits Triton's children if Triton dies before them.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.stop_signalled = False
        self.log = Path(spec.log_file).open("rb")  # noqa: SIM115  # for as long as the process lives
        self.finalized = 0
        self.ended = 0
        self.ready = False
        self.stubs: dict[int, str] = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def run(self) -> None:
        """Start Triton, wait for a reason to stop, stop, clean up."""
        parent = _end_of(self.spec.parent_pid)
        parent_is_there = True
        try:
            if os.getppid() == self.spec.parent_pid:  # else it died before the line above
                self.pid = self._start()
                _say(f"started {self.pid}")
                parent_is_there = self._wait(parent)
                self._stop()
        finally:
            self._kill_all()
            remove_left_overs(self.spec.name, self.spec.run_dir, self.spec.key, self.spec.key_file)
            if self.spec.log_is_ours and not parent_is_there:
                Path(self.spec.log_file).unlink(missing_ok=True)  # nobody is left to read or remove it
        if self.status is not None:
            _say(f"ended {self.status}")

    def _start(self) -> int:
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(self.spec.command, me)
        return pid

    def _wait(self, parent: int | None) -> bool:
        """Return when Triton is to stop or has ended; True if the parent is there to be told."""
        stdin = sys.stdin.fileno()
        watched = [stdin, self.wake] if parent is None else [stdin, self.wake, parent]
        is_hidden = not self.spec.key
        while self.status is None and not self.stop_signalled:
            news, _, _ = select.select([*watched, *self.stubs], [], [], None if is_hidden else _POLL_S)
            # Triton has read its command line before it writes the first line of its log.
            if not is_hidden and os.fstat(self.log.fileno()).st_size > 0:
                is_hidden = True
                _hide(self.pid, self.spec.key.encode())
            if parent in news:
                return False
            if stdin in news:
                command = os.read(stdin, 1)
                if command != b"r":
                    return command != b""
                self._watch_stubs()
            self._reap()
            ended = [self.stubs.pop(each) for each in news if each in self.stubs]
            self.ended += len(ended)
            # A stub that was asked to end, because Triton ends or unloads a model, is not lost.
            if ended and self.status is None and self.ended > self._count_finalized():
                os.write(2, f"{LOST} {ended[0]}\n".encode())
                return True
        return True

    def _watch_stubs(self) -> None:
        """Open for each stub a descriptor that becomes readable when the process ends."""
        self.ready = True
        for region in SHARED_MEMORY.glob(f"{self.spec.name}*"):
            with contextlib.suppress(OSError):
                region.chmod(0o600)
        self.log.seek(0, os.SEEK_END)
        for pid in _children(self.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                model = command.partition(f"{self.spec.run_dir}/repository/")[2].partition("/")[0]
                end = _end_of(pid)
                # A dead process has lost its command line, and counts at once.
                if end is not None and (model or not command):
                    self.stubs[end] = model or "(unknown)"
        _say(f"watching {len(self.stubs)}")

    def _count_finalized(self) -> int:
        # A line is written by one append, so that no read meets half of it.
        self.finalized += self.log.read().count(FINALIZED)
        return self.finalized

    def _stop(self) -> None:
        """SIGTERM, then wait until every accepted request is answered, or the time is up."""
        if self.status is not None or not self.ready:
            return  # nothing was accepted
        stubs = len(self.stubs)
        before = self._count_finalized()
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.spec.stop_timeout_s
        drained = False
        while time.monotonic() < deadline:
            self._reap()
            if self.status is not None:
                return
            # What Triton still does then frees what the kernel frees as well, and takes a second or two.
            if stubs and not drained and self._count_finalized() - before >= stubs:
                drained = True
                deadline = min(deadline, time.monotonic() + _FLUSH_S)
            select.select([self.wake], [], [], _POLL_S)

    def _kill_all(self) -> None:
        """End Triton and all its descendants: each that loses its parent becomes a child of this process."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            children = _children(os.getpid())
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._reap()
            if not children:
                return
            time.sleep(_POLL_S / 4)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 512)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.status = os.waitstatus_to_exitcode(status)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self.stop_signalled = True


def _become(command: list[str], parent_pid: int) -> NoReturn:
    """In the forked child: run `command`, tied to the supervisor's life, both its outputs in the log."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the line above
            os._exit(1)
        _keep_files_private()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; a program expects the default
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.execv(command[0], command)  # noqa: S606  # there is no shell in it, as there should not be
    except OSError as exc:
        os.write(2, f"error: cannot run {command[0]}: {exc.strerror}\n".encode())
    os._exit(127)


def _keep_files_private() -> None:
    """In the forked child: what it and its children make, their shared memory above all, is this user's alone.

    Triton's Python backend wants its memory readable by all (0644), and where a umask has made 0600 of that, says
    so again by fchmod; another user who opened it then would keep it. So fchmod does nothing in these processes.
    """
    os.umask(0o077)
    system_call = _FCHMOD.get(os.uname().machine)
    # Who has a filter gains no rights by running a program, and nvidia-modprobe needs root's to load the driver.
    driver_to_load = Path("/dev/nvidiactl").exists() and not Path("/dev/nvidia-uvm").exists()
    if system_call is None or driver_to_load:
        return
    architecture, fchmod = system_call
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 4),  # load seccomp_data.arch
            (0x15, 0, 3, architecture),  # another: allow
            (0x20, 0, 0, 0),  # load seccomp_data.nr
            (0x15, 0, 1, fchmod),
            (0x06, 0, 0, 0x00050000),  # SECCOMP_RET_ERRNO, errno 0
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    filters = ctypes.create_string_buffer(described, len(described))
    with contextlib.suppress(OSError):  # a kernel or a container without filters: closed once all is loaded
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters))


def _hide(pid: int, secret: bytes) -> None:
    """Overwrite a word in a child's command line, which every user of the machine may read."""
    with contextlib.suppress(OSError, ValueError):
        # Fields 48 and 49 of /proc/PID/stat: where the arguments begin and end.
        start, end = map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[45:47])
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret, b"x" * len(secret)))


def _end_of(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, or None where Linux is older than 5.3.

    Of the parent, the end of standard input says the same, but not while a forked child of it holds the pipe.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _children(pid: int) -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    children.append(int(entry.name))
    return children


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    arguments = (ctypes.c_ulong(value), ctypes.c_ulong(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if ctypes.CDLL(None, use_errno=True).prctl(option, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the other side may be gone
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    _Supervisor(Spec.read(sys.argv[1])).run()
