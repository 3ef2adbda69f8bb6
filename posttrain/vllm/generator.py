"""Completions of a model from a vLLM server.

A prompt is sent as the tokens that transformers would get. A sample draws with its own seed, whatever else the server
computes at the time, and ends with any of the tokens that end a turn.
"""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import InputError, PosttrainError
from posttrain.generation.engine import Sampling
from posttrain.generation.generators import Progress, Tokens
from posttrain.params.schema import Params
from posttrain.vllm.rollouts import interpreter
from posttrain.vllm.server import DIRECT, serving, version

Stage = Literal["evaluate", "grpo"]
LIMITS: dict[Stage, str] = {"evaluate": "evaluate.max_new_tokens", "grpo": "grpo.max_completion_length"}
"""What says how long a completion of a stage may be."""
BUSY = {429, 502, 503, 504}
WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Before a request that met a busy server or a broken connection is sent again."""
REQUESTS = 256
"""Requests with the server at a time, at most; it queues what it cannot compute at once."""


class VLLMServer:
    """A server of one model for a stage, started when it is first asked for `num_samples` completions a prompt."""

    def __init__(self, folder: Path, params: Params, num_samples: int, stage: Stage = "evaluate") -> None:
        self.folder, self.params, self.stage = folder, params, stage
        self.batch_size = max(1, 4 * REQUESTS // num_samples)
        self.server = ExitStack()
        self.url: str | None = None

    @property
    def identity(self) -> dict[str, Any] | None:
        vllm = self.params.launch.vllm
        if not self.versions:
            return None
        hardware = {"gpus": len(vllm.gpus), "model_impl": "auto"}
        return {"generator": "vllm", "dtype": self.params.model.dtype, "versions": self.versions, **hardware}

    @property
    def versions(self) -> dict[str, str]:
        """Of the server that runs, else of the package in its environment, if it can be found there."""
        if self.url is not None:
            return {"vllm": version(self.url)}
        environment = Path(interpreter(self.params.launch.vllm)).parents[1]
        found = sorted(environment.glob("lib/python*/site-packages/vllm-*.dist-info"))
        return {"vllm": found[0].name.removesuffix(".dist-info").removeprefix("vllm-")} if found else {}

    def write(
        self,
        prompts_P: Sequence[Sequence[int]],
        sampling: Sampling,
        end_tokens: Collection[int],
        seeds_PN: Sequence[Sequence[int]],
        progress: Progress,
    ) -> Tokens:
        if self.url is None:
            self.url, _ = self.server.enter_context(serving(self.params, self.stage, self.folder))
        client = Client(self.url, str(self.folder), self.params, sampling, end_tokens, LIMITS[self.stage])
        return client.complete(prompts_P, seeds_PN, progress)

    def __enter__(self) -> "VLLMServer":
        return self

    def __exit__(self, *error: Any) -> None:
        """The server ends; if it had ended before, that is the error."""
        self.server.__exit__(*error)


class Client:
    """Requests to one server, in threads that end with the first error or interruption."""

    def __init__(
        self,
        url: str,
        model: str,
        params: Params,
        sampling: Sampling,
        end_tokens: Collection[int],
        limit: str = LIMITS["evaluate"],
    ) -> None:
        self.url, self.model, self.params = f"{url}/v1/completions", model, params
        self.sampling, self.end_tokens = sampling, sorted(end_tokens)
        self.deadline = time.monotonic() + params.launch.evaluate_timeout_s
        self.limit, self.over = limit, threading.Event()

    def complete(
        self, prompts_P: Sequence[Sequence[int]], seeds_PN: Sequence[Sequence[int]], progress: Progress
    ) -> Tokens:
        jobs = [(list(prompt), seed) for prompt, seeds in zip(prompts_P, seeds_PN, strict=True) for seed in seeds]
        pool = ThreadPoolExecutor(min(max(1, len(jobs)), REQUESTS), "vllm")
        ids = []
        try:
            for one in pool.map(lambda job: self.sample(*job), jobs):
                ids.append(one)
                progress(1)
        finally:
            self.over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        ready = iter(ids)
        return [[next(ready) for _ in seeds] for seeds in seeds_PN]

    def sample(self, prompt: list[int], seed: int) -> list[int]:
        """The tokens of one completion, with the end token if it ended by itself."""
        return self.tokens(self.post(self.request(prompt, seed)), prompt)

    def request(self, prompt: list[int], seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": prompt,
            "n": 1,
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": 0,
            "seed": seed,
            "stop_token_ids": self.end_tokens,
            "return_token_ids": True,
        }

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer, asked for again where the server was busy or the connection broke.

        Raises: InputError for what the server refuses, PosttrainError for what it fails in or does not do in time.
        """
        why = ""
        for wait_s in (*WAITS_S, None):
            try:
                return self.post_once(body)
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.read().decode(errors='replace')[:500]}"
                if error.code in (400, 404, 422):
                    raise self.refused(why) from None
                if error.code not in BUSY:
                    break
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            if wait_s is None or self.over.wait(wait_s) or time.monotonic() > self.deadline:
                break
        raise PosttrainError(f"{self.url} gives no completion: {why}")

    def post_once(self, body: dict[str, Any]) -> dict[str, Any]:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"longer than launch.evaluate_timeout_s={self.params.launch.evaluate_timeout_s}")
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with DIRECT.open(request, timeout=left) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def refused(self, why: str) -> InputError:
        return InputError(
            self.url,
            got=why,
            wanted=f"a request that the server takes: prompt and {self.limit} within its context",
            do=f"raise launch.vllm.max_model_length or lower {self.limit}, if it says so",
        )

    def tokens(self, answer: dict[str, Any], prompt: list[int]) -> list[int]:
        """Raises: PosttrainError unless the answer is one whole completion of the prompt that was sent."""
        choices: list[dict[str, Any]] = answer.get("choices") or []
        choice = choices[0] if len(choices) == 1 else {}
        ids: list[int] = choice.get("token_ids") or []
        reason, ended = choice.get("finish_reason"), bool(ids) and ids[-1] in self.end_tokens
        full = len(ids) == self.sampling.max_new_tokens
        whole = (reason == "stop" and ended) or (reason == "length" and full)
        if whole and choice.get("prompt_token_ids") == prompt:
            return ids
        said = {key: choice.get(key) for key in ("finish_reason", "token_ids", "prompt_token_ids")}
        raise PosttrainError(
            f"{self.url} gave no whole completion of the prompt {prompt}: {len(choices)} choices, {str(said)[:300]}; "
            f"wanted one, with token_ids that end with one of {self.end_tokens} (stop) or are as "
            f"many as {self.limit} (length)"
        )
