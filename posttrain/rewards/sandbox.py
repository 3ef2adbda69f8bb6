"""Runs a program that a model wrote, on this machine, so that it can harm nothing but its own score. Linux only.

A program is one Python process with threads, the standard library, an empty folder and three streams. What holds on
every machine where `isolation()` answers, for root and for an ordinary user alike:

- System calls: a seccomp filter lets through a list of those that Python needs, and the kernel claims not to know the
  others. So there is no network and no socket of any kind, no second process (fork and exec fail, threads work), no
  signal to another process, no shared memory, no ptrace, no mount, no change of owners or permissions.
- Files: Python's own library and the system's are read-only, the scratch folder can be read and written but nothing in
  it deleted, renamed or nested, and nothing else but /dev/null can be opened: not the home, the project, /proc or
  /tmp. Landlock does this (Linux 5.13), or, where the kernel has none, a mount namespace that holds nothing else.
- Limits: CPU time and memory over all threads, open files and the size of one file by the kernel; wall time, output,
  threads, and the number and sum of the files in scratch by the caller, who looks every 50 ms and kills.
- Environment: the variables of `_environment`, no open file of ours, no capability, a session of its own. The program
  dies with the thread that called `run_program`, even if that is killed by SIGKILL.

A probe tries all this once per process before the first program runs. Where the kernel offers too little, or the system
is no Linux, that is an InputError; nothing ever runs with less.

Not guaranteed: it is a sandbox of the same kernel, so a hole in the kernel is a hole here. A program can learn whether
a path exists and what `stat` says of it (Landlock does not hide that), read the site-packages of the Python that the
virtual environment was made from, and know the caller's pid. Between two looks it can overshoot what the caller watches
by 50 ms of work. If the caller is killed by SIGKILL, the scratch folder stays in TMPDIR. Several programs at once may
use several times the limits; the kernel's own shortage of memory ends a program like a time-out.

Differs from open-r1, which sends programs to E2B or Morph over the network and has no local provider.
"""

import ctypes
import fcntl
import marshal
import math
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import IO, Literal

from posttrain.errors import InputError, PosttrainError

Status = Literal["ok", "failed", "timeout", "limit"]
Files = Literal["landlock", "namespace"]
"""What confines a program to its scratch folder."""

TICK_S = 0.05
"""Seconds between two looks at what a running program uses."""
START_S = 60.0
"""Seconds for the interpreter to start; more than that is a fault of the machine, not of the program."""
MAX_FILES = 256
"""Files in the scratch folder."""
OPEN_FILES = 32
MIN_MEMORY_MIB = 32
"""Python itself takes about half of that."""


class SandboxError(PosttrainError):
    """The sandbox did not start. It says nothing about the program, so it is no score."""


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use."""

    timeout_s: float
    """CPU time over all threads, rounded up to whole seconds as the kernel counts them, the start of Python (10 ms)
    included. CPU time, so that a loaded machine does not turn a right program into a wrong one."""
    memory_mib: int
    """Address space."""
    threads: int
    file_mib: int
    """Each file, and all files together."""
    output_kib: int
    """Each of stdout and stderr."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s is a positive number of seconds, not {self.timeout_s}")
        if self.memory_mib < MIN_MEMORY_MIB:
            raise ValueError(f"memory_mib is at least {MIN_MEMORY_MIB}, not {self.memory_mib}: Python would not start")

    @property
    def wall_s(self) -> float:
        """Seconds until a program that sleeps, or waits for a busy machine, is killed."""
        return 3 * self.timeout_s + 1


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Status
    """`ok`: it exited with 0. `failed`: with another code, or by a signal; a program out of memory mostly ends like
    this, by a MemoryError. `timeout`: CPU or wall time. `limit`: killed for its output, threads or files."""
    stdout: str
    """Up to the bound; bytes that are no UTF-8 are replaced."""
    stderr: str
    returncode: int
    """Negative: the signal that ended it."""


def run_program(source: str, stdin: str, limits: Limits) -> Outcome:
    """Run Python source to its end or its limits. Safe to call from several threads.

    Raises: InputError if this machine cannot isolate a program, SandboxError if a run could not start.
    """
    return _run(source, stdin, limits, _files())


def isolation() -> str:
    """What isolates a program here, found out by trying it. Raises InputError if too little does."""
    means = {"landlock": "Landlock", "namespace": "a user and mount namespace"}
    return f"system calls: seccomp; files: {means[_files()]}; limits: rlimits and a watching caller"


# ---------------------------------------------------------------------------------------------------------------------
# The caller's side.


@lru_cache(maxsize=1)
def _files() -> Files:
    """The first means of confining files that passes the probe. A refusal is not cached."""
    if sys.platform != "linux":
        faults = [f"the system is {sys.platform}"]
    else:
        faults = []
        for files in ("landlock", "namespace"):
            fault = _probe(files)
            if fault is None:
                return files
            faults.append(f"{files}: {fault}")
    raise InputError(
        "the sandbox for generated programs",
        got="; ".join(faults),
        wanted="Linux on x86_64 or aarch64 with seccomp, and Landlock (Linux 5.13) or user namespaces for all users",
        do="run on such a machine, let the container use these system calls, or take the reward `code` out of params",
    )


_PROBE = """
import os, _socket
def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
with open("own", "w") as file:
    file.write("x")
print(all([
    refused(lambda: open({secret!r}).read()),
    refused(lambda: open({secret!r}, "a")),
    refused(lambda: open({new!r}, "w")),
    refused(_socket.socket),
    refused(os.fork),
    refused(lambda: os.kill(os.getppid(), 0)),
]))
"""


def _probe(files: Files) -> str | None:
    """Why programs are not confined by this means; None if they are."""
    limits = Limits(timeout_s=10, memory_mib=512, threads=8, file_mib=1, output_kib=16)
    with tempfile.TemporaryDirectory(prefix="posttrain-probe-") as folder:
        secret = Path(folder, "secret")
        secret.write_text("secret", encoding="utf-8")
        try:
            outcome = _run(_PROBE.format(secret=str(secret), new=str(Path(folder, "new"))), "", limits, files)
        except (OSError, SandboxError) as error:
            return str(error)
    if outcome.status == "ok" and outcome.stdout == "True\n":
        return None
    return f"a probe got out, or Python does not run ({outcome.status}): {(outcome.stdout + outcome.stderr)[-300:]!r}"


def _run(source: str, stdin: str, limits: Limits, files: Files) -> Outcome:
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="posttrain-program-")))
        work, root = base / "work", base / "root"
        work.mkdir()
        root.mkdir()
        ready, report = os.pipe()
        stack.callback(os.close, ready)
        job = _job(source, limits, files, work, root, report)
        with os.fdopen(report, "wb"), _sealed(job) as script, _sealed(stdin.encode(errors="replace")) as given:
            process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-B", "-c", _BOOT, str(script.fileno())],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=work,
                env=_environment(work),
                start_new_session=True,  # no terminal, and no Ctrl-C meant for us
                pass_fds=(script.fileno(), report),
            )
        stack.enter_context(process)  # closes the pipes and waits
        stack.callback(process.kill)  # before that; one process, so this ends all that the program ever started
        _await_start(process, ready)
        verdict, stdout, stderr = _watch(process, limits, work)
        if verdict is not None:
            process.kill()
        returncode = process.wait()
    return Outcome(
        verdict or _status(returncode), stdout.decode(errors="replace"), stderr.decode(errors="replace"), returncode
    )


def _status(returncode: int) -> Status:
    # SIGXCPU comes at the limit; SIGKILL, which we did not send, a second later to a program that ignores SIGXCPU.
    return "ok" if returncode == 0 else "timeout" if returncode in (-signal.SIGXCPU, -signal.SIGKILL) else "failed"


def _environment(work: Path) -> dict[str, str]:
    """All that a program finds in os.environ. Sets print in the same order in every run: the reward reproduces."""
    ours = {
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "1",  # each arena of a thread would take 64 MiB of address space
    }
    library_path = os.environ.get("LD_LIBRARY_PATH")  # some clusters' Python does not start without
    return ours if library_path is None else {**ours, "LD_LIBRARY_PATH": library_path}


def _sealed(content: bytes) -> IO[bytes]:
    """A file in memory that nobody can change any more. Unlike a pipe it has a size, which programs ask stdin for."""
    file = os.fdopen(os.memfd_create("posttrain", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    file.write(content)
    file.seek(0)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _await_start(process: subprocess.Popen[bytes], ready: int) -> None:
    """Return once the program is confined; its pipe is closed by then, so what it says is beyond a program's reach."""
    deadline, said = time.monotonic() + START_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(ready, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0)):
            piece = os.read(ready, 4096)
            if not piece:
                break
            said += piece
    if said == _READY:
        return
    process.kill()
    errors = process.stderr.read() if process.stderr else b""
    raise SandboxError(
        f"the sandbox did not start: {(said or errors).decode(errors='replace')[-2000:] or f'silent for {START_S} s'}"
    )


def _watch(process: subprocess.Popen[bytes], limits: Limits, work: Path) -> tuple[Status | None, bytes, bytes]:
    """Collect the output until the program ends (None) or has to be ended (why)."""
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    bound = limits.output_kib * 1024
    deadline = time.monotonic() + limits.wall_s
    look = time.monotonic() + TICK_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, stdout)
        selector.register(process.stderr, selectors.EVENT_READ, stderr)
        while not _ended(process, selector):
            for key, _ in selector.select(TICK_S) if selector.get_map() else ():
                piece = os.read(key.fd, 65536)
                if not piece:
                    selector.unregister(key.fileobj)
                key.data.extend(piece[: bound - len(key.data) + 1])
                if len(key.data) > bound:
                    del key.data[bound:]
                    return "limit", bytes(stdout), bytes(stderr)
            now = time.monotonic()
            if now > deadline:
                return "timeout", bytes(stdout), bytes(stderr)
            if now > look:
                look = now + TICK_S
                if _threads(process.pid) > limits.threads or not _files_fit(work, limits.file_mib):
                    return "limit", bytes(stdout), bytes(stderr)
    return None, bytes(stdout), bytes(stderr)


def _ended(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> bool:
    if selector.get_map():
        return False  # output may be left in a pipe after the end
    try:
        process.wait(TICK_S)
    except subprocess.TimeoutExpired:
        return False  # it closed stdout and stderr and goes on
    return True


def _threads(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}/task").stat().st_nlink - 2
    except OSError:
        return 0  # ended


def _files_fit(work: Path, file_mib: int) -> bool:
    """A program can neither delete files nor make folders, so what it wrote is all here."""
    count = size = 0
    with os.scandir(work) as entries:
        for entry in entries:
            count += 1
            size += entry.stat(follow_symlinks=False).st_blocks * 512
            if count > MAX_FILES or size > file_mib * 2**20:
                return False
    return True


def _job(source: str, limits: Limits, files: Files, work: Path, root: Path, report: int) -> bytes:
    """What `_BOOT` reads: our functions for the other side as byte code, the constants that they use, the arguments."""
    seconds = math.ceil(limits.timeout_s)
    rlimits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (limits.memory_mib * 2**20,) * 2,
        resource.RLIMIT_FSIZE: (limits.file_mib * 2**20,) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    arguments = {
        "source": source,
        "rlimits": rlimits,
        "files": files,
        "work": str(work),
        "root": str(root),
        "readable": _readable(),
        "report": report,
        "parent": os.getpid(),
        "machine": os.uname().machine,
    }
    return marshal.dumps((_codes(), _constants(), arguments))


def _readable() -> list[str]:
    """Where Python and the shared libraries of its extension modules are."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    own = {str(Path(prefix, lib)) for prefix in prefixes for lib in ("lib", sys.platlibdir)}
    return sorted(folder for folder in own | {"/lib", "/lib64", "/usr/lib", "/usr/lib64"} if Path(folder).is_dir())


# ---------------------------------------------------------------------------------------------------------------------
# The other side. These functions run in the program's own process, before the program, in an interpreter that has
# imported only what _BOOT names: with this module, and what it imports, every run would start 25 ms later.
# They travel as byte code, so they use those modules, each other and the constants below (_CAPITALS), and nothing else.

_READY = b"ready"

_BOOT = """
import ctypes, marshal, os, resource, struct, sys
with open(int(sys.argv[1]), "rb") as file:
    codes, constants, arguments = marshal.load(file)
scope = {**globals(), **constants}
scope.update({name: type(lambda: 0)(code, scope) for name, code in codes.items()})
scope["_enter"](**arguments)
"""

# name, number on x86_64, number on aarch64
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, close 3 57, fstat 5 80,
newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291, lseek 8 62, ftruncate 77 46, access 21 -, faccessat 269 48,
readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17, umask 95 166, dup 32 23, dup2 33 -, dup3 292 24,
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, brk 12 214, madvise 28 233,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
sigaltstack 131 132, alarm 37 -, setitimer 38 103, getitimer 36 102, pause 34 -, restart_syscall 219 128,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, nanosleep 35 101,
clock_nanosleep 230 115, times 100 153, getrusage 98 165, getrlimit 97 163, setrlimit 160 164,
futex 202 98, set_robust_list 273 99, rseq 334 293, set_tid_address 218 96, gettid 186 178, sched_yield 24 124,
sched_getaffinity 204 123, membarrier 324 283, exit 60 93, exit_group 231 94,
getpid 39 172, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148,
getresgid 120 150, getgroups 115 158, uname 63 160, sysinfo 99 179, getrandom 318 278
"""
# The same, then: which argument is looked at, through which mask, and the values that pass. `pid` is the own one.
_ALLOWED_IF = """
open 2 - 1 0x400203 0 1 2 0x201 0x202, openat 257 56 2 0x400203 0 1 2 0x201 0x202,
ioctl 16 29 1 0xffffffff 0x5401,
fcntl 72 25 1 0xffffffff 0 1 2 3 4 1030,
clone 56 220 0 0x7e010000 0x10000,
prlimit64 302 261 0 0xffffffff 0 pid,
kill 62 129 0 0xffffffff pid, tgkill 234 131 0 0xffffffff pid
"""
# Why these: open with O_TMPFILE makes a file that the caller cannot see, and with O_TRUNC but not for writing it gets
# past older Landlocks. ioctl is for isatty alone. fcntl could have the kernel send any signal to any process (F_SETOWN,
# F_SETSIG). clone makes threads but neither processes nor namespaces. prlimit64 could change the caller's limits.

_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # BPF
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ENOSYS = 38  # the answer for which libc has another way: clone3 cannot be looked into, so it falls back to clone

# Landlock's rights by version, and those for one folder
_LANDLOCK = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_READ = 1 << 2 | 1 << 3  # files and folders
_WRITE = _READ | 1 << 1 | 1 << 8 | 1 << 14  # write, make and truncate files
_DEVICE = 1 << 1 | 1 << 2 | 1 << 14

# mount(2)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_NEWNS, _NEWUSER = 0x20000, 0x10000000


def _enter(
    source: str,
    rlimits: dict[int, tuple[int, int]],
    files: str,
    work: str,
    root: str,
    readable: list[str],
    report: int,
    parent: int,
    machine: str,
) -> None:
    """Confine this process for good, say so, and become the program."""
    try:
        _limit(rlimits)
        _no_more_privileges()
        if files == "landlock":
            _landlock(readable, work)
        else:
            _new_root(readable, work, root)
        _drop_capabilities()
        _die_with(parent)  # after all changes of credentials: they would undo it
        _filter_system_calls(machine)
        os.write(report, _READY)
    except BaseException as error:
        os.write(report, f"{type(error).__name__}: {error}".encode())
        raise
    finally:
        os.close(report)
    _become(source)


def _become(source: str) -> None:
    import _sitebuiltins
    import builtins

    # `site` adds these, and would also run what the packages installed here ask for.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    sys.argv[:] = ["program.py"]
    program = sys.modules["__main__"] = type(sys)("__main__")
    exec(compile(source, "program.py", "exec"), program.__dict__)


def _limit(rlimits: dict[int, tuple[int, int]]) -> None:
    for kind, (soft, hard) in rlimits.items():
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def _call(name: str, *arguments: int | str | bytes | None) -> int:
    """A function of the C library; OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    values = [
        ctypes.c_long(value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
        for value in arguments
    ]
    result = int(getattr(libc, name)(*values))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}{arguments[:1]}: {os.strerror(ctypes.get_errno())}")
    return result


def _no_more_privileges() -> None:
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS; Landlock and seccomp want it


def _die_with(parent: int) -> None:
    _call("prctl", 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL; the filter keeps the program from taking it back
    if os.getppid() != parent:
        raise ProcessLookupError("the caller is gone")


def _drop_capabilities() -> None:
    """Root without capabilities cannot raise a limit. For an ordinary user nothing changes."""
    _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))


def _landlock(readable: list[str], work: str) -> None:
    version = _call("syscall", 444, None, 0, 1)  # landlock_create_ruleset; the numbers are the same everywhere
    handled = _LANDLOCK[min(version, 5)]
    ruleset = _call("syscall", 444, struct.pack("Q", handled), 8, 0)
    rules = [*((folder, _READ) for folder in readable), (work, _WRITE), ("/dev/null", _DEVICE)]
    for path, rights in rules:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _call("syscall", 445, ruleset, 1, struct.pack("<Qi", rights & handled, beneath), 0)  # landlock_add_rule
        os.close(beneath)
    _call("syscall", 446, ruleset, 0)  # landlock_restrict_self
    os.close(ruleset)


def _new_root(readable: list[str], work: str, root: str) -> None:
    """A file system with the readable folders, the scratch folder and /dev/null, all at their own paths."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEWUSER | _NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    _call("mount", None, "/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", "tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64k,mode=111")
    mask = os.umask(0o666)  # what leads to the folders can be passed, but not listed
    for folder in [*readable, work]:
        os.makedirs(root + folder, exist_ok=True)  # noqa: PTH103
        _call("mount", folder, root + folder, None, _MS_BIND | _MS_REC, None)
    os.makedirs(root + "/dev", exist_ok=True)  # noqa: PTH103
    os.close(os.open(root + "/dev/null", os.O_CREAT | os.O_WRONLY))
    os.umask(mask)
    _call("mount", "/dev/null", root + "/dev/null", None, _MS_BIND, None)
    for folder in ["", *readable]:
        kept = os.statvfs(root + folder).f_flag & 15  # nosuid, nodev and noexec have to stay as they are
        _call("mount", None, root + folder, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | kept, None)
    os.chroot(root)
    os.chdir(work)


def _filter_system_calls(machine: str) -> None:
    program = _bpf(machine, os.getpid())
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    _call("prctl", 22, 2, head, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _bpf(machine: str, pid: int) -> bytes:
    """The filter. A word of its input at 0 is the call's number, at 4 the architecture, at 16 + 8 i argument i."""
    column = 1 if machine == "x86_64" else 2
    allow, refuse = _instruction(_RETURN, 0x7FFF0000, 0, 0), _instruction(_RETURN, 0x00050000 | _ENOSYS, 0, 0)
    kill = _instruction(_RETURN, 0x80000000, 0, 0)
    # Another architecture's numbers (32 bit programs on x86_64) mean other calls.
    parts = [_instruction(_LOAD, 4, 0, 0), _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0), kill]
    parts.append(_instruction(_LOAD, 0, 0, 0))
    for entry in _ALLOWED.split(","):
        call = entry.split()[column]
        if call != "-":
            parts += [_instruction(_EQUAL, int(call), 0, 1), allow]
    for entry in _ALLOWED_IF.split(","):
        call, (argument, mask, *values) = entry.split()[column], entry.split()[3:]
        if call != "-":
            test = [_instruction(_LOAD, 16 + 8 * int(argument), 0, 0), _instruction(_AND, int(mask, 0), 0, 0)]
            for value in values:
                test += [_instruction(_EQUAL, pid if value == "pid" else int(value, 0), 0, 1), allow]
            parts += [_instruction(_EQUAL, int(call), 0, len(test) + 1), *test, refuse]
    return b"".join([*parts, refuse])


def _instruction(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)  # the jumps skip so many instructions


@lru_cache(maxsize=1)
def _codes() -> dict[str, CodeType]:
    functions: tuple[Callable[..., object], ...] = (
        *(_enter, _become, _limit, _call, _no_more_privileges, _die_with, _drop_capabilities, _landlock, _new_root),
        *(_filter_system_calls, _bpf, _instruction),
    )
    return {function.__name__: function.__code__ for function in functions}


def _constants() -> dict[str, object]:
    return {name: value for name, value in globals().items() if name.startswith("_") and name.isupper()}
