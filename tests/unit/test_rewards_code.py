"""The reward `code`: what a completion earns, worked out by hand; and what a hostile program cannot do.

Every attack is harmless where the sandbox fails: it counts to a bound, sends signal 0 or SIGWINCH, and deletes only
what the test made.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.rewards import sandbox
from posttrain.rewards.code import code, last_block
from posttrain.rewards.completion import Completion
from posttrain.rewards.sandbox import Files, Limits, Outcome, SandboxError, isolation, run_program

LIMITS = Limits(timeout_s=1, memory_mib=256, threads=8, file_mib=2, output_kib=16)
ADD = "a, b = map(int, input().split())\nprint(a + b)"
SUMS = [{"input": "1 2\n", "output": "3\n"}, {"input": "20 -5", "output": "15"}]


def isolated() -> bool:
    try:
        return bool(isolation())
    except InputError:
        return False


needs_isolation = pytest.mark.skipif(not isolated(), reason="this kernel cannot isolate a program")


def block(program: str, language: str = "python") -> str:
    return f"```{language}\n{program}\n```"


def answer(program: str) -> str:
    return f"<think>\nhm\n</think>\n<answer>\n{block(program)}\n</answer>"


def earns(text: str, cases: object = SUMS, timeout_s: float = 5) -> float | None:
    completion = Completion(text, row={"tests": cases})
    return code(completion, column="tests", language="python", timeout_s=timeout_s, memory_mib=256)


# ---------------------------------------------------------------------------------------------------------------------
# The reward.


@needs_isolation
@pytest.mark.parametrize(
    ("text", "score"),
    [
        (answer(ADD), 1.0),
        (answer("print(3)"), 0.5),  # right for 1 + 2, wrong for 20 - 5
        (answer("print(4)"), 0.0),
        ("", 0.0),
        ("<think>a</think><answer>3</answer>", 0.0),  # no program
        # Which program is it?
        (f"prose {block(ADD)} prose", 0.0),  # fences are lines of their own
        (f"prose\n{block(ADD)}\nprose", 1.0),  # no tag at all
        (f"<think>a</think>\n{block(ADD)}\n", 1.0),  # no answer block
        (f"<think>\n{block(ADD)}\n</think>\n<answer>\nsee above\n</answer>", 0.0),  # in the thoughts
        (f"<think>\n{block(ADD)}\n", 0.0),  # thoughts cut off
        (f"<think>a</think>\n{block(ADD)}\n<answer>\nno\n</answer>", 0.0),  # outside the answer
        (f"<answer>\n{block(ADD)}\n</answer>\n<answer>\nno\n</answer>", 0.0),  # the last answer counts
        (f"<answer>\nno\n</answer>\n<answer>\n{block(ADD)}\n</answer>", 1.0),
        (f"{block('print(4)')}\n{block(ADD)}", 1.0),  # the last block counts
        (f"{block(ADD)}\n{block('print(4)')}", 0.0),
        (f"{block(ADD)}\n{block('3', 'text')}", 1.0),  # ... of this language
        *((block(ADD, name), 1.0) for name in ("python3", "py", "Python", "PYTHON", "Py", "python3.11", "")),
        *((block(ADD, name), 1.0) for name in ('python title="a.py"', " python", "python ")),
        *((block(ADD, name), 0.0) for name in ("cpp", "text", "pyret", "python2")),
        (f"{block(ADD)}\n{block('print(4)', '')}", 1.0),  # bare blocks count where none is marked
        (f"{block('print(4)', '')}\n{block(ADD, '')}\n", 1.0),
        (f"{block(ADD, '')}\n{block('3', 'text')}\n", 1.0),
        (f"1. So:\n\n{textwrap.indent(block(ADD), '   ')}\n", 1.0),  # in a list
        (f"````python\n{ADD}\ns = '''\n```\n'''\n````\n", 1.0),  # a longer fence holds a shorter one
        (f"{block(ADD)}\n```python\nprint(", 1.0),  # a block that is cut off is none
        (block(ADD).replace("\n", "\r\n"), 1.0),
        # How does it end?
        (answer(ADD + "\nraise SystemExit(1)"), 0.0),  # right output, but a failure
        (answer(ADD + "\nexit()"), 1.0),
        (answer(ADD + "\nimport sys; sys.exit('bye')"), 0.0),
        (answer("import os\nos._exit(0)\n" + ADD), 0.0),  # success without output
        (answer("print(3"), 0.0),  # a syntax error is the program's fault
        (answer("print(3)\x00"), 0.0),
        # A main guard, a recursion in a thread with a large stack, a size asked of stdin: what contest programs do.
        (answer(f"def main():\n{textwrap.indent(ADD, '    ')}\nif __name__ == '__main__':\n    main()"), 1.0),
        (answer("import threading\nthreading.stack_size(1 << 26)\n"
                f"t = threading.Thread(target=exec, args=({ADD!r}, {{}}))\nt.start(); t.join()"), 1.0),
        (answer("import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))"), 1.0),
        (answer("import collections, dataclasses, decimal, fractions, functools, hashlib, heapq, itertools, json\n"
                "import math, random, re, statistics, string, time, typing, zlib\n" + ADD), 1.0),
    ],
)  # fmt: skip
def test_what_a_completion_earns(text: str, score: float) -> None:
    assert earns(text) == score


@needs_isolation
@pytest.mark.parametrize(
    ("printed", "expected", "score"),
    [
        ("1\n2\n", "1\n2", 1.0),
        ("1\n2\n\n\n", "1\n2\n", 1.0),
        ("1  \n2\t\r\n", "1\n2", 1.0),
        ("1\n2", "1\n2\n3", 0.0),  # open-r1 compares as many lines as the shorter output has: 1.0
        ("1\n2\n3", "1\n2", 0.0),
        (" 1\n2", "1\n2", 0.0),  # spaces before are part of an answer
        ("1\n\n2", "1\n2", 0.0),
        ("\n1\n2", "1\n2", 0.0),
        ("", "", 1.0),
        ("\n", "", 1.0),
        ("", "1", 0.0),
        ("naïve ☕", "naïve ☕", 1.0),
    ],
)
def test_how_output_is_compared(printed: str, expected: str, score: float) -> None:
    assert earns(answer(f"print({printed!r}, end='')"), [{"input": "", "output": expected}]) == score


@needs_isolation
@pytest.mark.parametrize(
    "cases",
    [
        SUMS,
        {"language": "python", "test_cases": [{**case, "type": "stdin_stdout", "fn_name": None} for case in SUMS]},
        {"test_cases": SUMS},
    ],
)
def test_test_cases_are_a_list_or_open_r1s_mapping_or_json_of_either(cases: object) -> None:
    assert earns(answer(ADD), cases) == 1.0
    assert earns(answer(ADD), json.dumps(cases)) == 1.0


@needs_isolation
@pytest.mark.parametrize(
    ("cases", "named"),
    [
        ("[", "column 'tests': a text that is no JSON"),
        ([], "at least one test case"),
        (None, "at least one test case"),
        (3, "at least one test case"),
        ({"language": "python"}, "'test_cases': a list"),
        ({"language": "cpp", "test_cases": SUMS}, "'cpp'"),
        ([*SUMS, "x"], "case 2: a mapping"),
        ([{"input": "1"}], "case 0: 'output' is a text, not None"),
        ([{"input": 1, "output": "1"}], "case 0: 'input' is a text, not 1"),
        ([{"input": "1", "output": "1", "type": "function_call"}], "'function_call', and no 'fn_name'"),
        ([{"input": "1", "output": "1", "type": "interactive"}], "case 0: its type is 'interactive'; known are"),
        ([{"input": 1, "output": "1", "fn_name": "f"}], "case 0: 'input' is a list of arguments"),
        ([{"input": "x", "output": "1", "fn_name": "f"}], "case 0, 'input': a text that is no JSON"),
        ([{"input": [1], "fn_name": "f"}], "case 0: a mapping with 'input' and 'output'"),
        ({"inputs": ["1"], "outputs": []}, "lists of the same length, at least one, not ['1'] and []"),
        ({"inputs": ["1"]}, "not ['1'] and None"),
        ({"inputs": [1], "outputs": ["1"]}, "case 0: 'input' is a text, not 1"),
        ("eJxrYJmqz8gABTP1AQ==", "a text that is no JSON"),
        ("[" * 100_000, "a text that is no JSON"),
    ],
)
def test_a_fault_of_the_data_is_no_score(cases: object, named: str) -> None:
    for text in (answer(ADD), ""):  # also if the completion holds no program
        with pytest.raises(ValueError, match="column 'tests'") as raised:
            earns(text, cases)
        assert named in str(raised.value)


SOLUTION = """
class Solution:
    def addAll(self, numbers: List[int], start: int) -> int:
        print("noise")
        return reduce(lambda a, b: a + b, numbers, start)
"""
PLAIN = "def addAll(numbers, start):\n    return sum(numbers) + start\n"
MAIN = PLAIN + "if __name__ == '__main__':\n    print(addAll(eval(input()), 0))\n"


@needs_isolation
@pytest.mark.parametrize(
    "cases",
    [
        {"inputs": [[[1, 2], 3], [[], 0]], "outputs": [6, 0], "fn_name": "addAll"},  # APPS, TACO
        {"inputs": [[[1, 2], 3], [[], 0]], "outputs": [[6], [0]], "fn_name": "Solution.addAll"},
        [
            {"input": "[1, 2]\n3", "output": "6", "testtype": "functional", "metadata": {"func_name": "addAll"}},
            {"input": "[]\n0\n", "output": "0", "testtype": "functional", "metadata": '{"func_name": "addAll"}'},
        ],  # LiveCodeBench
        {
            "language": "python",
            "test_cases": [
                {"fn_name": "addAll", "input": [[1, 2], 3], "output": 6, "type": "function_call"},
                {"fn_name": "addAll", "input": [[], 0], "output": [0], "type": "function_call"},
            ],
        },
    ],
)
def test_functions_are_called_in_the_layouts_that_data_sets_have(cases: object) -> None:
    for program in (SOLUTION, PLAIN, MAIN):
        assert earns(answer(program), cases) == 1.0
    assert earns(answer(SOLUTION), json.dumps(cases)) == 1.0
    assert earns(answer(PLAIN.replace("+ start", "")), cases) == 0.5
    for wrong in ("x = 1", "addAll = 3", "def addAll(numbers, start): exit()", "print(6)", "def addAll(n, s): 1/0"):
        assert earns(answer(wrong), cases) == 0.0


@needs_isolation
def test_what_a_function_returns_is_compared_as_data() -> None:
    def returned(value: str, expected: object) -> float | None:
        cases = {"inputs": [[]], "outputs": [expected], "fn_name": "f"}
        return earns(answer(f"def f():\n    return {value}"), cases)

    assert returned("(1, 2)", [1, 2]) == 1.0
    assert returned("{'a': None}", {"a": None}) == 1.0
    assert returned("'abc'", "abc") == 1.0
    assert returned("'12'", "12") == 1.0
    assert returned("{1}", [1]) == 1.0
    assert returned("1", [1, 2]) == 0.0
    assert returned("object()", 1) == 0.0
    assert returned("None", None) == 1.0
    assert returned("10**5000", 10**100) == 0.0


@needs_isolation
def test_a_livecodebench_row_names_its_function_in_a_column_of_its_own() -> None:
    row = {
        "tests": json.dumps([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]),
        "metadata": '{"func_name": "addAll"}',
    }
    assert code(Completion(answer(SOLUTION), row=row), "tests", "python", 5, 256) == 1.0


@needs_isolation
def test_inputs_may_be_lists_of_lines() -> None:
    echo = "import sys\nprint(sys.stdin.read())"
    assert earns(answer(echo), {"inputs": [["1", "2"], "3"], "outputs": [["1", "2"], "3"]}) == 1.0


@needs_isolation
def test_a_missing_column_and_another_language_are_named() -> None:
    with pytest.raises(ValueError, match=r"no column 'tests' .* it has \['answer'\]"):
        code(Completion("", row={"answer": "3"}), "tests", "python", 5, 256)
    with pytest.raises(ValueError, match="not 'cpp'"):
        code(Completion("", row={"tests": SUMS}), "tests", "cpp", 5, 256)


@needs_isolation
def test_a_program_that_times_out_runs_no_further_case(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "if input() == 'wait':\n    while True: pass\nprint('x')"
    cases = [{"input": word, "output": "x"} for word in ("go", "wait", "go", "wait", "wait", "wait")]
    inputs: list[str] = []

    def noted(source: str, stdin: str, limits: Limits) -> Any:
        inputs.append(stdin)
        return sandbox.run_program(source, stdin, limits)

    monkeypatch.setattr(sys.modules[code.__module__], "run_program", noted)
    assert earns(answer(program), cases, timeout_s=1) == 1 / 6
    assert inputs == ["go", "wait"]  # one time-out, not four


def test_blocks_are_found_in_one_pass() -> None:
    """A regular expression takes minutes for this."""
    start = time.process_time()
    assert last_block("```python\n" * 200_000) is None
    assert last_block("```" + "a" * 2_000_000 + "`") is None
    assert time.process_time() - start < 5


def test_a_program_may_hold_a_fence_in_a_string() -> None:
    assert last_block(block("print('```')")) == "print('```')"


# ---------------------------------------------------------------------------------------------------------------------
# Attacks. Each runs once with each means that this kernel has for confining files.

Run = Callable[..., Outcome]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where scratch folders are made. In the end none is left, and no process lives in one."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert living_in(folder) == []


def living_in(folder: Path) -> list[int]:
    """Processes whose working directory is there, deleted or not."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(f"{folder}/"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def run_with(files: Files) -> Run:
    def run(source: str, stdin: str = "", **limits: float) -> Outcome:
        return sandbox._run(textwrap.dedent(source), stdin, Limits(**{**vars(LIMITS), **limits}), files)

    return run


@pytest.fixture
def run_any(scratch: Path) -> Run:
    """For what does not depend on how files are confined."""
    if not isolated():
        pytest.skip("this kernel cannot isolate a program")
    return run_with(sandbox._files())


@pytest.fixture(params=["landlock", "namespace"])
def run(request: pytest.FixtureRequest, scratch: Path) -> Run:
    files: Files = request.param
    fault = sandbox._probe(files)
    if fault is not None:
        pytest.skip(f"this kernel lacks {files}: {fault}")

    return run_with(files)


ATTEMPT = r"""
import os, sys
def attempt(name, function):
    try:
        print(name, function(), sep="\t")
    except (OSError, MemoryError, RuntimeError):
        print(name, "refused", sep="\t")
"""


def refused_all(outcome: Outcome) -> bool:
    """Something was attempted, the program got to its end, and no attempt succeeded."""
    lines = outcome.stdout.splitlines()
    return outcome.status == "ok" and bool(lines) and all(line.endswith("\trefused") for line in lines)


def test_an_infinite_loop_ends_at_its_cpu_time(run_any: Run) -> None:
    assert run_any("while True: pass").status == "timeout"


def test_a_loop_that_ignores_signals_ends_a_second_later(run_any: Run) -> None:
    source = (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    )
    outcome = run_any(source + "while True: pass")
    assert (outcome.status, outcome.returncode) == ("timeout", -signal.SIGKILL)


def test_all_threads_together_have_the_cpu_time(run_any: Run) -> None:
    source = (
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(6): threading.Thread(target=spin).start()"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_any(source, timeout_s=2).status == "timeout"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 2 * 2  # two processors give it 14 s in its wall time


@pytest.mark.parametrize(
    "source",
    [
        "import time; time.sleep(1000)",
        "import os, time; os.close(1); os.close(2); time.sleep(1000)",  # nothing to read from it any more
        "import signal, threading; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); threading.Event().wait()",
    ],
)
def test_a_program_that_sleeps_ends_at_its_wall_time(run_any: Run, source: str) -> None:
    start = time.monotonic()
    outcome = run_any(source, timeout_s=0.05)
    assert outcome.status == "timeout"
    assert 3 * 0.05 + 1 <= time.monotonic() - start < 100


def test_stdin_ends(run_any: Run) -> None:
    assert run_any("import sys\nprint(len(sys.stdin.read()), repr(sys.stdin.read()))", "abc\n").stdout == "4 ''\n"
    assert run_any("while True: input()").status == "failed"  # EOFError
    assert run_any("import os\nwhile True: os.read(0, 1)", "abc").status == "timeout"
    assert run_any("print(sum(len(line) for line in open(0)))", "x" * 99_999 + "\n", timeout_s=5).stdout == "100000\n"


def test_no_second_process(run: Run) -> None:
    """Fork bombs, daemons that fork twice, exec and vfork end at the first step."""
    outcome = run(
        ATTEMPT
        + """
import subprocess, ctypes, multiprocessing, signal
for _ in range(20):
    attempt("fork", lambda: os.fork() or os._exit(0))
attempt("forkpty", lambda: os.forkpty()[0] or os._exit(0))
attempt("popen", lambda: subprocess.run(["/bin/true"]))
attempt("system", lambda: os.popen("true").read())
attempt("spawn", lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("multiprocessing", lambda: multiprocessing.Process(target=print).start())
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    if libc.syscall(*map(ctypes.c_long, numbers)) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("vfork", lambda: call(58))
attempt("clone", lambda: call(56, signal.SIGCHLD, 0, 0, 0, 0))
attempt("clone with namespaces", lambda: call(56, 0x7e000000 | signal.SIGCHLD, 0, 0, 0, 0))
attempt("clone3", lambda: call(435, 0, 0))
attempt("unshare", lambda: call(272, 0x10000000))
attempt("setsid", os.setsid)
"""
    )
    assert refused_all(outcome), outcome
    assert len(outcome.stdout.splitlines()) == 20 + 12


def test_a_thread_bomb_is_ended(run_any: Run) -> None:
    outcome = run_any(
        """
        import threading, time
        threading.stack_size(32768)
        for _ in range(300):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        time.sleep(1000)
        """,
        timeout_s=5,
    )
    assert outcome.status == "limit"


def test_a_memory_bomb_meets_its_limit(run_any: Run) -> None:
    assert refused_all(run_any(ATTEMPT + "attempt('allocate', lambda: len(bytearray(300 << 20)))"))
    outcome = run_any("held = []\nwhile len(held) < 1000: held.append(bytearray(1 << 20))\nprint('held')", timeout_s=5)
    assert (outcome.status, outcome.stdout) == ("failed", "")
    assert "MemoryError" in outcome.stderr


def test_limits_cannot_be_raised(run: Run) -> None:
    outcome = run(
        """
        import resource
        for name in ("CPU", "AS", "FSIZE", "NOFILE", "CORE", "MEMLOCK"):
            kind = getattr(resource, f"RLIMIT_{name}")
            try:
                resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (OSError, ValueError):
                print(name, "refused", sep="\\t")
        """
    )
    assert refused_all(outcome)
    assert len(outcome.stdout.splitlines()) == 6


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut_off(run_any: Run, stream: str) -> None:
    outcome = run_any(f"import sys\nwhile True: sys.{stream}.write('x' * 4096)", timeout_s=5)
    assert outcome.status == "limit"
    assert len(getattr(outcome, stream)) == LIMITS.output_kib * 1024


def test_a_huge_file_meets_its_limit(run: Run) -> None:
    outcome = run(ATTEMPT + "attempt('write', lambda: open('big', 'wb', 0).write(b'x' * 1000) and grow())", timeout_s=5)
    assert outcome.status == "failed"  # NameError: a small file can be written
    outcome = run("with open('big', 'wb') as f:\n  for _ in range(64): f.write(b'x' * (1 << 20))", timeout_s=5)
    assert outcome.status == "failed"
    assert "File too large" in outcome.stderr


def test_many_files_are_ended(run: Run) -> None:
    """Their sum, and their number; nothing hides a file from the count."""
    wait = "\nimport time; time.sleep(1000)"
    large = run("for i in range(9): open(str(i), 'wb').write(b'x' * (1 << 20))" + wait, timeout_s=5)
    many = run("for i in range(2000): open(str(i), 'wb').close()" + wait, timeout_s=5)
    assert (large.status, many.status) == ("limit", "limit")
    outcome = run(
        ATTEMPT
        + """
open("file", "w").close()
attempt("delete", lambda: os.unlink("file"))
attempt("rename", lambda: os.rename("file", "other"))
attempt("folder", lambda: os.mkdir("folder"))
attempt("link", lambda: os.link("file", "other"))
attempt("symlink", lambda: os.symlink("/", "other"))
attempt("fifo", lambda: os.mkfifo("other"))
attempt("unnamed", lambda: os.open(".", os.O_TMPFILE | os.O_RDWR))
attempt("in memory", lambda: os.memfd_create("x"))
attempt("stdin", lambda: os.write(0, b"x"))
"""
    )
    assert refused_all(outcome), outcome


def test_open_files_are_few(run_any: Run) -> None:
    assert refused_all(run_any(ATTEMPT + "attempt('open', lambda: [os.dup(1) for _ in range(64)])"))


def test_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as folder:
        port = listener.getsockname()[1]
        with socket.socket(socket.AF_UNIX) as local:
            local.bind(f"{folder}/s")
            local.listen()
            outcome = run(
                ATTEMPT
                + f"""
import socket, ctypes
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("ipv6", lambda: socket.socket(socket.AF_INET6))
attempt("unix", lambda: socket.socket(socket.AF_UNIX).connect({folder + "/s"!r}))
attempt("pair", socket.socketpair)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("vsock", lambda: socket.socket(socket.AF_VSOCK))
attempt("alg", lambda: socket.socket(socket.AF_ALG))
attempt("name", lambda: socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)[0] and socket.socket())
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    if libc.syscall(*numbers) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("io_uring", lambda: call(425, 1, bytes(256)))
for inherited in range(3, 64):
    try:
        os.fstat(inherited)
        print("fd", inherited, os.readlink(f"/proc/self/fd/{{inherited}}"))
    except OSError:
        pass
"""
            )
            for server in (listener, local):
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()
    assert refused_all(outcome), outcome


def test_the_filter_is_for_one_architecture(run: Run) -> None:
    """The 32 bit entry, int 0x80, has other numbers: 20 is getpid there. Calling it kills."""
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is x86")
    outcome = run(
        """
        import ctypes, mmap
        area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        area.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20; int 0x80; ret
        print("before", flush=True)
        print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))())
        """
    )
    assert (outcome.status, outcome.stdout) == ("failed", "before\n")
    assert outcome.returncode in (-signal.SIGSYS, -signal.SIGSEGV)  # SIGSEGV: a kernel without the 32 bit entry


def test_the_environment_is_not_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    outcome = run("import os; print(sorted(os.environ), os.environ['HOME'] == os.environ['TMPDIR'] == os.getcwd())")
    assert outcome.stdout == "['HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PYTHONHASHSEED', 'PYTHONUTF8', 'TMPDIR'] True\n"
    outcome = run("import os\nfor pid in (os.getppid(), 'self'): print(open(f'/proc/{pid}/environ').read())")
    assert (outcome.status, outcome.stdout) == ("failed", "")


def test_runs_agree(run_any: Run) -> None:
    """The order of a set of strings is random in Python; a reward must not be."""
    outputs = {
        run_any("print({'a', 'b', 'c', 'd', 'e', 'f'}, [c for c in frozenset('uvwxyz')])").stdout for _ in range(3)
    }
    assert len(outputs) == 1


def test_nothing_outside_scratch_is_written(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept", encoding="utf-8")
    kept.chmod(0o644)
    before = kept.stat()
    outcome = run(
        ATTEMPT
        + f"""
kept, folder = {str(kept)!r}, {str(tmp_path)!r}
attempt("write", lambda: open(kept, "w"))
attempt("append", lambda: open(kept, "a"))
attempt("truncate", lambda: os.truncate(kept, 0))
attempt("open to truncate", lambda: os.open(kept, os.O_RDONLY | os.O_TRUNC))
attempt("library to truncate", lambda: os.open(os.__file__, os.O_RDONLY | os.O_TRUNC))
attempt("library", lambda: open(os.__file__, "a"))
attempt("new", lambda: open(folder + "/new", "w"))
attempt("root", lambda: open("/posttrain-new", "w"))
attempt("tmp", lambda: open("/tmp/posttrain-new", "w"))
attempt("shm", lambda: open("/dev/shm/posttrain-new", "w"))
attempt("above", lambda: open("../new", "w"))
attempt("delete", lambda: os.unlink(kept))
attempt("rename", lambda: os.rename(kept, "kept"))
attempt("replace", lambda: os.replace("own", kept))
attempt("link", lambda: os.link(kept, "kept"))
attempt("symlink", lambda: os.symlink(kept, "kept"))
attempt("folder", lambda: os.mkdir(folder + "/new"))
attempt("mode", lambda: os.chmod(kept, 0o600))
attempt("owner", lambda: os.chown(kept, 1, 1))
attempt("times", lambda: os.utime(kept, (0, 0)))
attempt("attribute", lambda: os.setxattr(kept, "user.x", b"x"))
attempt("chroot", lambda: os.chroot("/"))
attempt("chdir", lambda: os.chdir("/"))
attempt("core pattern", lambda: open("/proc/sys/kernel/core_pattern", "w"))
"""
    )
    assert refused_all(outcome), outcome
    after = kept.stat()
    assert kept.read_text(encoding="utf-8") == "kept"
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "scratch"]


def test_nothing_of_ours_is_read(run: Run, root: Path, tmp_path: Path) -> None:
    """Not the project, the home or another process; so no file that holds the expected outputs."""
    tests = tmp_path / "data" / "tests.jsonl"
    tests.parent.mkdir()
    tests.write_text("expected", encoding="utf-8")
    outcome = run(
        ATTEMPT
        + f"""
attempt("tests", lambda: open({str(tests)!r}).read())
attempt("folder of tests", lambda: os.listdir({str(tests.parent)!r}))
attempt("project", lambda: os.listdir({str(root)!r}))
attempt("params", lambda: open({str(root / "params.yaml")!r}).read())
attempt("home", lambda: os.listdir({str(Path.home())!r}))
attempt("passwd", lambda: open("/etc/passwd").read())
attempt("processes", lambda: os.listdir("/proc"))
attempt("command line", lambda: open(f"/proc/{{os.getppid()}}/cmdline").read())
attempt("memory", lambda: open(f"/proc/{{os.getppid()}}/mem", "rb"))
attempt("files", lambda: os.listdir(f"/proc/{{os.getppid()}}/fd"))
attempt("root of parent", lambda: os.listdir(f"/proc/{{os.getppid()}}/root"))
attempt("settings", lambda: os.listdir("/etc"))
attempt("root", lambda: os.listdir("/"))
attempt("tmp", lambda: os.listdir("/tmp"))
attempt("above", lambda: os.listdir(".."))
attempt("disk", lambda: open("/dev/vda", "rb"))
attempt("terminal", lambda: open("/dev/tty"))
"""
    )
    assert refused_all(outcome), outcome


def test_the_expected_output_is_not_there(scratch: Path) -> None:
    """The program looks through all objects, and the frames below it, where its own source is but no test case."""
    if not isolated():
        pytest.skip("this kernel cannot isolate a program")
    program = """
        import gc, sys
        found = [repr(thing) for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple))]
        frame = sys._getframe()
        while frame:
            found += [repr(frame.f_locals), repr(frame.f_globals)]
            frame = frame.f_back
        text = "".join(found)
        expected = "-".join(["the", "expected", "output"])
        print("seen" if expected in text else "hidden" if "sys._getframe()" in text else "searched in vain")
        """
    cases = [{"input": "", "output": "the-expected-output"}, {"input": "", "output": "hidden"}]
    assert earns(answer(textwrap.dedent(program)), cases) == 0.5


def test_no_signal_reaches_another_process(run: Run) -> None:
    """SIGWINCH is ignored by default, signal 0 only asks whether it would be allowed."""
    received: list[int] = []
    old = signal.signal(signal.SIGWINCH, lambda number, frame: received.append(number))
    try:
        outcome = run(
            ATTEMPT
            + """
import ctypes, fcntl, resource, signal
parent = os.getppid()
attempt("parent", lambda: os.kill(parent, signal.SIGWINCH))
attempt("its group", lambda: os.kill(-parent, 0))
attempt("all", lambda: os.kill(-1, 0))
attempt("group", lambda: os.killpg(parent, 0))
attempt("pidfd", lambda: os.pidfd_open(parent))
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    if libc.syscall(*numbers) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("tkill", lambda: call(200, parent, signal.SIGWINCH))
attempt("tgkill", lambda: call(234, parent, parent, signal.SIGWINCH))
attempt("sigqueue", lambda: call(129, parent, signal.SIGWINCH, bytes(128)))
attempt("ptrace", lambda: call(101, 16, parent, 0, 0))
attempt("read memory", lambda: call(310, parent, 0, 0, 0, 0, 0))
attempt("limits", lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19))
attempt("affinity", lambda: os.sched_setaffinity(parent, {0}))
attempt("death signal", lambda: call(157, 1, 0, 0, 0, 0))
# The kernel sends a signal of one's choice to the owner of a pipe when it can be read.
reading, writing = os.pipe()
attempt("owner of a pipe", lambda: fcntl.fcntl(reading, fcntl.F_SETOWN, parent))
attempt("signal of a pipe", lambda: fcntl.fcntl(reading, 10, signal.SIGWINCH))
fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
os.write(writing, b"x")
"""
        )
    finally:
        signal.signal(signal.SIGWINCH, old)
    assert refused_all(outcome), outcome
    assert received == []


def test_a_program_may_end_itself(run_any: Run) -> None:
    assert run_any("import os; os.abort()").returncode == -signal.SIGABRT
    assert run_any("import os, signal; os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM
    assert run_any("import ctypes; ctypes.string_at(0)").returncode == -signal.SIGSEGV
    assert run_any("raise SystemExit(7)").returncode == 7


def test_a_program_dies_with_its_caller(run_any: Run, root: Path, scratch: Path) -> None:
    """Even if SIGKILL ends the caller, and the program has tried to prevent it."""
    del run_any  # another process runs it
    program = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); time.sleep(1000)"
    caller = (
        "from posttrain.rewards.sandbox import Limits, run_program\n"
        f"run_program({program!r}, '', Limits(timeout_s=9, memory_mib=256, threads=8, file_mib=1, output_kib=16))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", caller], cwd=root, env={**os.environ, "TMPDIR": str(scratch)}
    ) as process:
        try:
            wait_until(lambda: len(living_in(scratch)) == 1 and len(held(scratch)) == 1)
            time.sleep(0.3)  # past the probe, into the program
            assert process.poll() is None
        finally:
            process.kill()
    wait_until(lambda: living_in(scratch) == [])
    for left in scratch.iterdir():  # as the docstring says
        for folder in ("work", "root", ""):
            (left / folder).rmdir()


def held(scratch: Path) -> list[Path]:
    return list(scratch.glob("posttrain-program-*"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupt_leaves_nothing_behind(run_any: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the caller while a program runs; the fixture looks for what is left."""

    def interrupt(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "_threads", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_any("import time; time.sleep(1000)", timeout_s=5)


def test_programs_run_side_by_side(run_any: Run) -> None:
    outputs: dict[int, str] = {}

    def one(number: int) -> None:
        outputs[number] = run_any(
            "open('x', 'x').write(input()); print(open('x').read())", str(number), timeout_s=5
        ).stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{number}\n" for number in range(6)}


# ---------------------------------------------------------------------------------------------------------------------
# A sandbox that cannot do its work is no score.


def test_a_kernel_with_landlock_isolates() -> None:
    """Otherwise a fault of ours would skip all of the above."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("no Linux, or another machine")
    create_ruleset, ask_for_the_version = 444, 1
    if ctypes.CDLL(None).syscall(create_ruleset, None, 0, ask_for_the_version) < 1:
        pytest.skip("this kernel has no Landlock")
    assert isolation() == "system calls: seccomp; files: Landlock; limits: rlimits and a watching caller"


@pytest.fixture
def no_cache() -> Iterator[None]:
    sandbox._files.cache_clear()
    yield
    sandbox._files.cache_clear()


def test_another_system_is_refused(no_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="the system is darwin"):
        run_program("", "", LIMITS)


def test_no_isolation_is_refused(no_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lets a socket pass, one without means for files, and a machine whose system calls are unknown."""
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_ALLOWED", sandbox._ALLOWED + ", socket 41 198")
        with pytest.raises(InputError, match="a probe got out"):
            isolation()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_LANDLOCK", {})
        patch.setattr(sandbox, "_NEWNS", -1)
        with pytest.raises(InputError, match=r"landlock: .*namespace: .*unshare"):
            earns("")
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_AUDIT_ARCH", {})
        with pytest.raises(InputError, match="KeyError"):
            isolation()


@needs_isolation
def test_a_start_that_fails_raises(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    isolation()
    monkeypatch.setattr(sandbox, "_readable", lambda: ["/nowhere"])
    with pytest.raises(SandboxError, match="/nowhere"):
        run_program("print(1)", "", LIMITS)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="/nowhere/python"):
        run_program("print(1)", "", LIMITS)


@pytest.mark.parametrize("change", [{"timeout_s": 0}, {"timeout_s": float("inf")}, {"memory_mib": 8}])
def test_limits_are_in_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Limits(**{**vars(LIMITS), **change})
