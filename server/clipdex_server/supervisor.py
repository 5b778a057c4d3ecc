"""A supervisor of one tritonserver, which cleans up after it however the process that started it ends.

    client process ── stdin, stdout ── supervisor ── tritonserver ── one stub process per model instance

`LocalTriton` runs this file as a script, in a session of its own so that Ctrl-C in the terminal does not reach it.
It stops the server when told to, when its standard input ends, when the client process dies (even by SIGKILL), or
on SIGTERM, SIGINT and SIGHUP. If Triton dies first, it ends the processes that Triton left running. If it is
killed itself, the kernel kills Triton, and Triton's stubs notice within a second and exit.

If a stub dies, perhaps killed for lack of memory, Triton 2.51 keeps reporting its model as READY and rejects every
request for it. So the loss of a stub ends the server: a server that is gone is easier to notice.

One is started for every server, so it imports little, and only from the standard library. Its only argument is the
path of a file with a `Spec`: any user may read a command line, and the one in the spec has a key. It reads single
bytes from its standard input, and writes lines to its standard output:

    r                   the models are ready: from now on every stub counts
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

# Lines in the log. Our stubs write the first when they are asked to end and have answered all accepted requests;
# this supervisor writes the second, and `reason` looks for it.
FINALIZED = b"clipdex: finalized\n"
LOST = "clipdex: lost the process of the model"

_SPEC = "spec.json"
_FLUSH_S = 0.2  # for the last answers to leave Triton's gRPC threads
_POLL_S = 0.02


class Spec(NamedTuple):
    """The command to run, and the files to clean up.

    name: from `new_name`; the prefix of the shared-memory names.
    key: the part of the command to hide from other users. key_file: the file with the key for this user's clients.
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
        """Write the spec to a file in the run's directory, which is private to this user -> its path."""
        path = Path(self.run_dir) / _SPEC
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._asdict()))
        return path

    @classmethod
    def read(cls, path: str) -> Spec:
        """Read a spec from the file that is the script's argument."""
        return cls(**json.loads(Path(path).read_text()))


# --- the files of a run, and their owner ---


def new_name() -> str:
    """Make a name for a run that identifies its owner: clipdex-triton-NAMESPACE-PID-STARTED-RANDOM."""
    return f"{NAME_PREFIX}{_owner(os.getpid())}-{os.urandom(4).hex()}"


def remove_left_overs(name: str, run_dir: str | Path, key: str = "", key_file: str = "") -> None:
    """Remove a dead run's directory, the shared memory that killed stubs could not release, and its key."""
    if key and key_file:
        with contextlib.suppress(OSError):
            if key in Path(key_file).read_text():  # not that of a newer server on the same port
                Path(key_file).unlink()
                Path(key_file).parent.rmdir()  # fails if there are others
    for region in SHARED_MEMORY.glob(f"{name}*"):
        with contextlib.suppress(OSError):
            region.unlink()
    shutil.rmtree(run_dir, ignore_errors=True)


def sweep(temp_dir: Path) -> None:
    """Remove the files of runs whose owner was killed together with its supervisor."""
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
    # A process id is valid only in its own namespace (containers may share /dev/shm), and is reused after a while:
    # the namespace and the start time make it unique.
    return f"{_namespace()}-{pid}-{_start_time(pid)}"


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _owner_is_dead(name: str) -> bool:
    try:
        namespace, pid, _started, _random = name.removeprefix(NAME_PREFIX).split("-", 3)
        if int(namespace) != _namespace():
            return False  # another container's: its processes cannot be seen from here
        return not name.startswith(f"{NAME_PREFIX}{_owner(int(pid))}-")
    except FileNotFoundError:
        return True  # no such process
    except ValueError:
        return False  # not a name of ours


def _start_time(pid: int) -> str:
    return _stat(pid)[22]  # in clock ticks since boot


def _stat(pid: int) -> dict[int, str]:
    """Read /proc/PID/stat -> its fields from the third on, by their numbers in proc(5).

    The second is the name: any bytes, brackets and spaces too. Linux cuts it at 15, so it may end within a letter.
    """
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    return dict(enumerate(fields, 3))


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
        """Wait until Triton should stop or has exited -> whether the parent is still alive."""
        stdin = sys.stdin.fileno()
        watched = [stdin, self.wake] if parent is None else [stdin, self.wake, parent]
        is_hidden = not self.spec.key
        while self.status is None and not self.stop_signalled:
            news, _, _ = select.select([*watched, *self.stubs], [], [], None if is_hidden else _POLL_S)
            # Triton has read its command line by the time it writes the first line of its log.
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
            # A stub that was asked to end, because Triton exits or unloads a model, is not lost.
            if ended and self.status is None and self.ended > self._count_finalized():
                os.write(2, f"{LOST} {ended[0]}\n".encode())
                return True
        return True

    def _watch_stubs(self) -> None:
        """Open, for each stub, a descriptor that becomes readable when the process ends."""
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
                # A dead process has no command line, and counts as lost at once.
                if end is not None and (model or not command):
                    self.stubs[end] = model or "(unknown)"
        _say(f"watching {len(self.stubs)}")

    def _count_finalized(self) -> int:
        # Each line is appended by one write, so no read sees half of it.
        self.finalized += self.log.read().count(FINALIZED)
        return self.finalized

    def _stop(self) -> None:
        """Send SIGTERM, then wait until every accepted request is answered, or the time is up."""
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
            # After that Triton only frees what the kernel would free anyway, which takes it a second or two.
            if stubs and not drained and self._count_finalized() - before >= stubs:
                drained = True
                deadline = min(deadline, time.monotonic() + _FLUSH_S)
            select.select([self.wake], [], [], _POLL_S)

    def _kill_all(self) -> None:
        """Kill Triton and all its descendants: those that lose their parent become children of this process."""
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
    """In the forked child: run `command`, to die with the supervisor, with both its outputs in the log."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the supervisor died before the line above
            os._exit(1)
        _keep_files_private()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; a program expects the default
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.execv(command[0], command)  # noqa: S606  # no shell is involved, on purpose
    except OSError as exc:
        os.write(2, f"error: cannot run {command[0]}: {exc.strerror}\n".encode())
    os._exit(127)


def _keep_files_private() -> None:
    """In the forked child: make the files of it and its children, above all shared memory, private to this user.

    Triton's Python backend creates its memory readable by all (0644), and if a umask made that 0600, repeats it by
    fchmod; another user could then open and keep it. So fchmod is turned into a no-op in these processes.
    """
    os.umask(0o077)
    system_call = _FCHMOD.get(os.uname().machine)
    # A process with a filter gains no privileges by running a program, but nvidia-modprobe needs root's to load
    # the driver.
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
    with contextlib.suppress(OSError):  # no filters here: permissions are fixed once all is loaded
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters))


def _hide(pid: int, secret: bytes) -> None:
    """Overwrite a secret in a child's command line, which every user of the machine may read."""
    with contextlib.suppress(OSError, ValueError):
        stat = _stat(pid)
        start, end = int(stat[48]), int(stat[49])  # where the arguments begin and end
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret, b"x" * len(secret)))


def _end_of(pid: int) -> int | None:
    """Open a descriptor that becomes readable when the process ends; None if Linux is older than 5.3.

    For the parent, the end of standard input shows the same, except while a forked child of it holds the pipe.
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
                if int(_stat(int(entry.name))[4]) == pid:
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
