"""What stands in for `python -m vllm.entrypoints.cli.main serve MODEL ...`: its command line, processes and protocol.

Run     vllm_server.py -m vllm.entrypoints.cli.main serve MODEL --host HOST --port PORT ...

Like vLLM it has an engine in a session of its own, which SIGTERM does not end and which lives until it is killed.
Tokens are drawn by a rule from prompt and seed, or are those of the model itself (STAND_IN `transformers`). STAND_IN,
JSON in the environment, says what goes wrong; what was asked of it is appended to `asked.jsonl`.
"""

import argparse
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BOUND_S = 60
END = 0
VERSION = "0.30.0"
FAULTS: dict[str, Any] = json.loads(os.environ.get("STAND_IN", "{}"))
LOCK = threading.Lock()

ENGINE = """
import fcntl, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "engine":
    subprocess.Popen([sys.executable, "-S", __file__, "worker"], start_new_session=True)
held = open(sys.argv[1] + ".lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
open(sys.argv[1] + ".ready", "w").close()
time.sleep(60)
"""


def parser() -> argparse.ArgumentParser:
    """The options of vLLM's that are used, and no others."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-m", dest="module", choices=["vllm.entrypoints.cli.main"], required=True)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    for name in ("--host", "--dtype", "--model-impl", "--generation-config", "--weight-transfer-config"):
        parser.add_argument(name)
    for name in ("--port", "--tensor-parallel-size", "--max-model-len", "--seed", "--max-logprobs"):
        parser.add_argument(name, type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--logprobs-mode")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--no-enable-chunked-prefill", action="store_true")
    return parser


def note(**facts: Any) -> None:
    with LOCK, Path("asked.jsonl").open("a") as file:
        file.write(json.dumps(facts) + "\n")


def by_rule(body: dict[str, Any]) -> list[int]:
    """Tokens that depend on prompt and seed alone."""
    draw = random.Random(json.dumps([body["prompt"], body.get("seed")]))
    count = draw.randint(1, body["max_tokens"] + 2)
    ids = [draw.randint(101, 199) for _ in range(min(count, body["max_tokens"]))]
    return ids if count > body["max_tokens"] else [*ids[:-1], *body.get("stop_token_ids", [END])[:1]]


def by_model(folder: str) -> tuple[Callable[[dict[str, Any]], list[int]], int]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    end = model.config.eos_token_id

    def complete(body: dict[str, Any]) -> list[int]:
        assert body["temperature"] == 0
        prompt = torch.tensor([body["prompt"]])
        with LOCK, torch.inference_mode():
            ids = model.generate(prompt, do_sample=False, max_new_tokens=body["max_tokens"], eos_token_id=end)
        return [int(token) for token in ids[0, prompt.shape[1] :]]

    return complete, end


class Handler(BaseHTTPRequestHandler):
    arguments: argparse.Namespace
    complete: Callable[[dict[str, Any]], list[int]]
    end: int
    posts = 0

    def do_GET(self) -> None:
        answers = {
            "/health": {},
            "/version": {"version": FAULTS.get("version", VERSION)},
            "/v1/models": {"data": [{"id": self.arguments.model}]},
        }
        healthy = time.monotonic() - STARTED > FAULTS.get("healthy_after_s", 0)
        self.answer(200 if self.path in answers and healthy else 503, answers.get(self.path, {}))

    def do_POST(self) -> None:
        with LOCK:
            Handler.posts += 1
            number = Handler.posts
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            return self.answer(404, {})
        if number > FAULTS.get("dies_after", number):
            print("CUDA error: an illegal memory access was encountered", flush=True)
            os._exit(5)
        if number <= FAULTS.get("busy", 0):
            return self.answer(FAULTS.get("status", 503), {"error": {"message": "try again"}})
        note(**body)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        room = self.arguments.max_model_len or 10**6
        if max(map(len, prompts)) + body["max_tokens"] > room:
            return self.answer(400, {"error": {"message": f"This model's maximum context length is {room} tokens."}})
        choices = [self.choice(body | {"prompt": prompt}) for prompt in prompts for _ in range(body["n"])]
        self.answer(200, {"choices": choices}, number <= FAULTS.get("cut_off", 0))

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = type(self).complete(body)
        reason = "stop" if ids[-1] in {self.end, *body.get("stop_token_ids", [])} else "length"
        tokens = {"token_ids": ids, "prompt_token_ids": body["prompt"]} if body.get("return_token_ids") else {}
        return {"text": "", "finish_reason": reason, "logprobs": None, **tokens, **FAULTS.get("choice", {})}

    def answer(self, status: int, content: dict[str, Any], cut_off: bool = False) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut_off else data)

    def log_message(self, *_: Any) -> None: ...


def main() -> None:
    arguments = parser().parse_args()
    note(argv=vars(arguments), environment=dict(os.environ))
    print("loading the model", flush=True)
    if FAULTS.get("dies"):
        sys.exit("CUDA out of memory")
    held = Path("server.lock").open("w")  # noqa: SIM115 - for as long as this process lives
    fcntl.flock(held, fcntl.LOCK_EX)
    if not FAULTS.get("no_engine"):
        Path("engine.py").write_text(ENGINE)
        subprocess.Popen([sys.executable, "-S", "engine.py", "engine"], start_new_session=True)
        while not Path("worker.ready").exists():
            time.sleep(0.01)
    signal.alarm(BOUND_S)
    Handler.arguments, Handler.complete, Handler.end = arguments, staticmethod(by_rule), END
    if FAULTS.get("transformers"):
        complete, Handler.end = by_model(arguments.model)
        Handler.complete = staticmethod(complete)
    ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    STARTED = time.monotonic()
    main()
