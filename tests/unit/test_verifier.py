"""The verifier: math-verify's verdicts, in bounded time, from processes that can be ended."""

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
from math_verify import parse, verify

from posttrain.errors import InputError
from posttrain.judge.answers import declared_answer
from posttrain.judge.verifier import Verifier, quick_verdict
from posttrain.processes.pool import Lost
from tests.hostile import TOWER, block, hostile
from tests.pairs import FORM, SPELLING, TOO_SLOW, UNEXPLAINED, UNFINISHED, UNIT, WORDS, difference, pairs
from tests.processes import wait

ROOT = Path(__file__).parents[2]
# Neither is a number, so the answer is left to math-verify, which would calculate for ever.
GOLD = "\\sqrt{13}"
ENDLESS = (f"{TOWER} + {number}" for number in itertools.count())
"""Answers that the verifier has not met."""


@pytest.fixture
def hurried(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> Verifier:
    """The verifier that tests share, with less time for an answer and nothing remembered, then or later."""
    monkeypatch.setattr(verifier, "timeout_s", 0.1)
    monkeypatch.setattr(verifier, "_known", OrderedDict())
    return verifier


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("5", "5", True),
        ("5", "6", False),
        ("5", None, False),
        ("5", "x = 5", True),
        ("x = 5", "5", True),
        ("x = 5", "y = 5", False),
        ("-5", "−5", True),  # a minus sign of Unicode
        ("1000", "1,000", True),
        ("12345678901234567890123", "12345678901234567890124", False),
        ("\\frac{1}{2}", "0.5", True),
        ("0.5", "1/2", True),
        ("\\frac{1}{3}", "0.33", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("x^2-9", "(x-3)(x+3)", True),
        ("(1,2)", "(2,1)", False),
        ("1,2", "2,1", True),
        ("67", "21+46", False),
        ("5", "x = 6 = 5", False),
        ("11", "5 6", False),
        ("5", "fifty", False),
        ("5", "\x00", False),
        (GOLD, "\\sqrt{13}", True),
    ],
)
def test_verdict(verifier: Verifier, gold: str, answer: str | None, verdict: bool) -> None:
    assert verifier.verdicts([(gold, answer)]) == [verdict]


def test_gold_comes_first(verifier: Verifier) -> None:
    # x=1 and the gold 1 agree, whichever declares the name; but an equation is no value.
    assert verifier.verdicts([("2x + z = 1", "1"), ("1", "2x + z = 1")]) == [False, False]
    assert verify(parse("$1$"), parse("$2x + z = 1$"))  # math-verify alone, this way round, says they are equal


def test_what_needs_no_algebra_is_decided_without_a_worker() -> None:
    decided = [("5", "5.0"), ("1/2", "50%"), ("18", "18 miles"), ("(1,2)", "(1, 3)"), ("yes", "Yes"), ("B", "(B) 12")]
    assert [quick_verdict(*pair) for pair in decided] == [True, True, True, False, True, True]
    assert quick_verdict("2\\sqrt{3}", "2 \\sqrt 3") is True
    assert quick_verdict("2\\sqrt{3}", "\\sqrt{12}") is None
    assert quick_verdict("(1,\\sqrt{2})", "(2,\\sqrt{3})") is False


def test_unreadable_gold_raises_and_is_never_paid(verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="cannot read the gold answer"):
        verifier.verdicts([("\\frac{", "5")])


def test_readable(verifier: Verifier) -> None:
    golds = ["5", "x = 5", "\\frac{1}{2}", "", "???", "\\frac{", "5", "x" * 1001]
    assert verifier.readable(golds) == [True, True, True, False, False, False, True, False]


# ---------------------------------------------------------------------------------------------------------------------
# Bounded


def test_ten_endless_answers_in_a_row_neither_hang_nor_starve_the_pool(hurried: Verifier) -> None:
    began = time.monotonic()
    assert hurried.verdicts([*((GOLD, next(ENDLESS)) for _ in range(10)), (GOLD, GOLD)]) == [None] * 10 + [True]
    # 10 answers of 0.1 s, and the one of their first, common call; two workers; the rest is for a busy machine
    assert time.monotonic() - began < 15
    assert hurried.verdicts([(GOLD, "\\sqrt{14}")]) == [False]


def test_a_verdict_is_asked_for_once(hurried: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = (GOLD, next(ENDLESS))
    assert hurried.verdicts([pair]) == [None]

    def refuse(_function: object, calls: list[object], _timeout_s: float) -> list[object]:
        assert calls == []
        return []

    monkeypatch.setattr(hurried.pool, "run", refuse)
    assert hurried.verdicts([pair] * 1000) == [None] * 1000


def test_the_clock_is_of_cpu_time_so_a_busy_machine_changes_no_verdict(verifier: Verifier) -> None:
    spin = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
    assert verifier.pool.run(burn, [(0.0,)] * 2, 0.6) == ["done"] * 2  # the workers are there
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * (os.cpu_count() or 2))]
    try:  # 0.3 s of work take several times as long here, and a clock of 0.6 CPU seconds allows it
        assert verifier.pool.run(burn, [(0.3,)] * 2, 0.6) == ["done"] * 2
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def burn(cpu_s: float) -> str:
    began = time.process_time()
    while time.process_time() - began < cpu_s:
        pass
    return "done"


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_lost_calls_say_why_and_the_others_go_on(verifier: Verifier) -> None:
    slept, died, burnt = verifier.pool.run(call, [("sleep",), ("die",), ("burn",)], 0.2)
    raised, fine = verifier.pool.run(call, [("raise",), ("fine",)], 0.2)
    assert [slept.why, died.why, burnt.why, raised.why] == ["timeout", "crash", "timeout", "error"]
    assert raised == Lost("error", "KeyError: 'no such thing'")
    assert fine == 1


def call(what: str) -> int:
    if what == "raise":
        raise KeyError("no such thing")
    {"sleep": lambda: time.sleep(60), "die": die, "burn": lambda: burn(60), "fine": lambda: None}[what]()
    return 1


def test_a_worker_has_bounded_memory(verifier: Verifier) -> None:
    assert verifier.pool.run(bytearray, [(16 * 2**30,)], 5.0) == [Lost("error", "MemoryError: ")]


@pytest.mark.slow
def test_a_fork_server_that_is_there_and_holds_much_changes_no_verdict(tmp_path: Path) -> None:
    """A process has one fork server. With trl in it, it has more address space than a call may add.

    And it may lack what the verifier's has, warm parsers: 1.4 CPU seconds that are not on an answer's clock.
    """
    (tmp_path / "much.py").write_text("import mmap\n\nheld = mmap.mmap(-1, 3 * 2**30)\n")
    program = tmp_path / "trainer.py"
    program.write_text(
        "import multiprocessing\n"
        "from posttrain.judge.verifier import Verifier\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.set_forkserver_preload(['much'])\n"
        "    process = context.Process(target=print)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    with Verifier(0.5, 1.0, 1) as verifier:\n"
        "        print(verifier.verdicts([('\\\\tan 30', '\\\\tan 31'), ('2\\\\sqrt{3}', '\\\\sqrt{12}')]))\n"
        "        print(verifier.readable(['\\\\sqrt{2}', '???']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split("\n")[1:] == ["[False, True]", "[True, False]", ""]


def test_works_from_threads(hurried: Verifier) -> None:
    """Signals, which math-verify's own limits are made of, work in the main thread only."""
    found: dict[int, list[bool | None]] = {}
    endless = [next(ENDLESS) for _ in range(4)]

    def ask(number: int) -> None:
        found[number] = hurried.verdicts([(GOLD, GOLD), (GOLD, endless[number]), (GOLD, f"\\sqrt{{{number}}}")])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True, None, False] for number in range(4)}


def test_sigkill_leaves_no_process_behind(tmp_path: Path) -> None:
    program = tmp_path / "trainer.py"
    program.write_text(
        "from posttrain.judge.verifier import Verifier\n"
        "if __name__ == '__main__':\n"
        "    verifier = Verifier(30.0, 1.0, 2)\n"
        "    verifier.verdicts([('\\\\tan 30', '\\\\tan 31')])\n"
        "    print('working', flush=True)\n"
        f"    verifier.verdicts([({GOLD!r}, answer) for answer in {[next(ENDLESS) for _ in range(10)]!r}])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"working\n"
        wait(lambda: len(of_session(trainer.pid)) >= 4, 60)  # the trainer, its fork server, two workers
        time.sleep(0.5)  # the workers are now inside a power that never ends
        trainer.kill()
    wait(lambda: of_session(trainer.pid) == [], 60)


def of_session(session: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Counted


def test_none_is_counted_and_too_many_stop_the_run() -> None:
    verifier = Verifier(timeout_s=5.0, max_timeout_frac=0.1, workers=1)
    assert verifier.count([True, None, False, None]) == 2
    assert verifier.timeouts == 2
    verifier.count([None] * 49)  # 51 of the last 512: one in ten is 51.2
    with pytest.raises(InputError, match=r"52 of the last 512"):
        verifier.count([None])


def test_old_completions_leave_the_window() -> None:
    verifier = Verifier(timeout_s=5.0, max_timeout_frac=0.1, workers=1)
    for _ in range(10):
        verifier.count([None] * 51)
        verifier.count([True] * 512)
    assert verifier.timeouts == 510


# ---------------------------------------------------------------------------------------------------------------------
# The hostile corpus, and agreement with math-verify


THE_GOLD = {
    "right to left",
    "isolates",
    "zero width",
    "fullwidth",
    "arabic digits",
    "devanagari",
    "vertical",
    "line separators",
}
THE_GOLD |= {
    "tabs",
    "spaces",
    "newlines",
    "many",
    "thoughts open",
    "10 MB of lines",
    "10 MB of thoughts",
    "$5",
    "\\(5\\)",
}
THE_GOLD |= {"\\[5\\]", "#### 5", "\\boxed{\\boxed{\\boxed{5}}}", ("\\boxed{5" + "}" * 800)[:40]}
"""Completions whose one declared answer is 5, in a spelling or between characters that nobody sees."""


@pytest.mark.parametrize(
    ("gold", "every", "timeout_s"),
    [
        ("5", 1, 0.1),
        (GOLD, 4, 0.1),
        pytest.param("5", 1, 0.25, marks=pytest.mark.slow),
        pytest.param(GOLD, 1, 0.25, marks=pytest.mark.slow),
    ],
)
def test_hostile_completions_are_scored_in_bounded_time(
    hurried: Verifier, gold: str, every: int, timeout_s: float
) -> None:
    hurried.timeout_s = timeout_s
    began = time.monotonic()
    answers = {name: declared_answer(text) for name, text in itertools.islice(hostile(), 0, None, every)}
    assert len(answers) >= 200 // every
    verdicts = dict(zip(answers, hurried.verdicts([(gold, answer) for answer in answers.values()]), strict=True))
    assert time.monotonic() - began < (len(set(answers.values())) + 1) * 0.25 / hurried.pool.workers * 6
    # Only answers that are the gold in another guise may score.
    assert {name for name, verdict in verdicts.items() if verdict} <= THE_GOLD, gold
    assert (verdicts[TOWER] is None) == (gold == GOLD)


@pytest.mark.parametrize("size", [120, pytest.param(800, marks=pytest.mark.slow)])
def test_verdicts_are_math_verifys_but_for_named_reasons(hurried: Verifier, size: int) -> None:
    hurried.timeout_s = 1.0
    parsed = functools.cache(parse)
    sample = random.Random(1).sample(pairs(), size)
    golds = list({gold: None for gold, _ in sample})
    readable = {gold for gold, can in zip(golds, hurried.readable(golds), strict=True) if can}
    sample = [pair for pair in sample if pair[0] in readable]
    declared = [declared_answer(block(answer)) for _, answer in sample]
    verdicts = hurried.verdicts([(gold, said) for (gold, _), said in zip(sample, declared, strict=True)])
    kinds: Counter[str] = Counter()
    for (gold, answer), ours, said in zip(sample, verdicts, declared, strict=True):
        theirs = bool(verify(parsed(f"\\boxed{{{gold}}}"), parsed(f"\\boxed{{{answer}}}")))
        if ours != theirs:
            kind = difference(gold, answer, said, ours, theirs)
            assert kind != UNEXPLAINED, (gold, answer, ours)
            kinds[kind] += 1
    assert kinds[TOO_SLOW] < 0.01 * len(sample)
    assert 0 < kinds[UNFINISHED] < 0.15 * len(sample)
    assert kinds[UNIT] + kinds[WORDS] + kinds[FORM] + kinds[SPELLING] < 0.2 * len(sample)
    assert verdicts.count(True) > 0.3 * len(sample)
