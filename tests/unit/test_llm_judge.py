"""rewards/llm_judge.py against a server on loopback: at once, tried again, remembered, and a clear end without it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.params import schema
from posttrain.rewards.scoring import Completion, Scoring

SOURCE = Path(__file__).parents[2] / "rewards" / "llm_judge.py"


class Judge(ThreadingHTTPServer):
    """Answers a bright text with 8 and any other with 3, after `delay_s`, once the first `failures` were 503."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delay_s, self.failures, self.status, self.reply = 0.0, 0, 200, "Score: {score}"
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge = self.server
        with judge.guard:
            judge.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
            judge.at_once += 1
            judge.most_at_once = max(judge.most_at_once, judge.at_once)
            fails, judge.failures = judge.failures > 0, judge.failures - 1
        time.sleep(judge.delay_s)
        with judge.guard:
            judge.at_once -= 1
        text = judge.reply.format(score=8 if "bright" in body["messages"][0]["content"] else 3)
        content = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        self.send_response(503 if fails else judge.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Judge]:
    with Judge() as judge:
        thread = threading.Thread(target=judge.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield judge
        judge.shutdown()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def judging(project: Path, server: Judge) -> Iterator[Callable[..., Scoring]]:
    """Scoring with the example as it stands, and params of it changed."""
    (project / "rewards").mkdir()
    (project / "rewards/llm_judge.py").write_text(SOURCE.read_text())
    made: list[Scoring] = []

    def build(**changes: Any) -> Scoring:
        own = {"weight": 1.0, "function": "rewards/llm_judge.py:llm_judge", "timeout_s": 20, "url": server.url}
        own |= {"model": "judge", "request_timeout_s": 3, "tries": 3, **changes}
        verifier = schema.Verifier(timeout_s=5.0, max_timeout_frac=0.1)
        made.append(Scoring(schema.Rewards.model_validate({"judge": own}), verifier, workers=1))
        return made[-1]

    yield build
    for scoring in made:
        scoring.close()


@pytest.fixture
def scoring(judging: Callable[..., Scoring]) -> Scoring:
    return judging()


def group(*texts: str) -> list[Completion]:
    return [Completion(text, problem="Why?", row={"id": "17", "answer": "so"}) for text in texts]


def test_a_groups_answers_are_judged_at_once_and_remembered(scoring: Scoring, server: Judge) -> None:
    server.delay_s = 0.3
    texts = [f"{'bright' if number % 2 else 'poor'} {number}" for number in range(8)]
    assert scoring.score("judge", group(*texts), 8) == [0.3, 0.8] * 4
    assert len(server.asked) == 8
    assert server.most_at_once == 8
    assert server.asked[0]["path"] == "/v1/chat/completions"
    assert server.asked[0]["model"] == "judge"
    assert server.asked[0]["temperature"] == 0
    # The same text again, in this run or another: from the disk, while nobody answers.
    server.status = 500
    assert scoring.score("judge", group(*texts), 8) == [0.3, 0.8] * 4
    scoring.pool.close()
    assert scoring.score("judge", group(texts[1], texts[1]), 2) == [0.8, 0.8]
    assert len(server.asked) == 8


def test_a_failure_that_passes_is_tried_again(scoring: Scoring, server: Judge) -> None:
    server.failures = 2
    assert scoring.score("judge", group("bright"), 1) == [0.8]
    assert len(server.asked) == 3


def test_a_reply_without_a_score_is_no_score(scoring: Scoring, server: Judge) -> None:
    server.reply = "I would rather not."
    assert scoring.score("judge", group("bright"), 1) == [None]


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (503, 3)])
def test_a_server_that_refuses_stops_the_run_in_its_words(
    scoring: Scoring, server: Judge, status: int, tries: int
) -> None:
    server.status, server.reply = status, "no entry"
    with pytest.raises(InputError) as error:
        scoring.score("judge", group("bright"), 1)
    assert f"ConnectionError: the judge at {server.url} gave no answer in {tries} tries: status {status}" in str(
        error.value
    )
    assert "no entry" in str(error.value)
    assert "on problem 17" in str(error.value)
    assert len(server.asked) == tries


def test_a_server_that_is_away_or_too_slow_stops_the_run(judging: Callable[..., Scoring], server: Judge) -> None:
    server.delay_s = 3
    began = time.monotonic()
    with pytest.raises(InputError, match=r"3 tries: ReadTimeout"):
        judging(request_timeout_s=0.3).score("judge", group("bright"), 1)
    with pytest.raises(InputError, match="3 tries: ConnectError"):
        judging(url="http://127.0.0.1:9/v1").score("judge", group("bright"), 1)
    # 3 x 0.3 s, and twice 0.5 s and 1 s between tries
    assert time.monotonic() - began < 20


def test_waiting_for_the_network_is_bounded_by_the_rewards_own_clock(
    judging: Callable[..., Scoring], server: Judge
) -> None:
    server.delay_s = 5
    scoring = judging(request_timeout_s=60, timeout_s=2)
    with pytest.raises(InputError, match=r"more than 2 s asleep, on problem 17"):
        scoring.score("judge", group("bright"), 1)
