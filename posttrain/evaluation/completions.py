"""Completions of the models from vLLM servers, one after the other, for lighteval to judge.

The prompt of a problem is the tokens that lighteval would give to transformers, which the runner checks. Sample i of
problem p draws with seed + p x num_samples + i, whatever else the server computes at the time.
"""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from posttrain import templates
from posttrain.errors import InputError, PosttrainError
from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.vllm.server import DIRECT, serving, version

BUSY = {429, 502, 503, 504}
WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Before a request that met a busy server or a broken connection is sent again."""
REQUESTS = 256
"""Requests with the server at a time, at most; it queues what it cannot compute at once."""
SEEDS = 2**31

Completed = dict[str, list[dict[str, Any]]]
"""Rows by model, one for each problem: prompt_token_ids, and token_ids of each sample."""


def complete(params: Params, problems: list[dict[str, Any]], models: Mapping[str, Path]) -> tuple[Completed, str]:
    """The completions of each model, and the version of vLLM that gave them."""
    completed, used = {}, ""
    for name, folder in models.items():
        with serving(params, "evaluate", folder) as (url, _):
            prompts, end_token = render(folder, problems, params)
            client = Client(url, str(folder), params, end_token)
            completed[name], used = client.complete(prompts), version(url)
    return completed, used


def render(folder: Path, problems: list[dict[str, Any]], params: Params) -> tuple[list[list[int]], int]:
    """The tokens of each problem's prompt in the model's chat template, and the token that ends a turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=params.model.trust_remote_code)
    templates.pin_date(tokenizer)
    messages = [prompt_messages(problem["problem"], params.prompts.system) for problem in problems]
    texts = [templates.render(tokenizer, each) for each in messages]
    return tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id


class Client:
    """Requests to one server, in threads that end with the first error or interruption."""

    def __init__(self, url: str, model: str, params: Params, end_token: int) -> None:
        self.url, self.model, self.params, self.end_token = f"{url}/v1/completions", model, params, end_token
        self.deadline = time.monotonic() + params.launch.evaluate_timeout_s
        self.over = threading.Event()

    def complete(self, prompts: list[list[int]]) -> list[dict[str, Any]]:
        config = self.params.evaluate
        jobs = [
            (prompt, number * config.num_samples + i)
            for number, prompt in enumerate(prompts)
            for i in range(config.num_samples)
        ]
        pool = ThreadPoolExecutor(min(config.batch_size * config.num_samples, REQUESTS), "vllm")
        try:
            ids = list(pool.map(lambda job: self.sample(*job), jobs))
        finally:
            self.over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        n = config.num_samples
        return [
            {"prompt_token_ids": prompt, "token_ids": ids[number * n : (number + 1) * n]}
            for number, prompt in enumerate(prompts)
        ]

    def sample(self, prompt: list[int], number: int) -> list[int]:
        """The tokens of one completion, with the end token if it ended by itself."""
        return self.tokens(self.post(self.request(prompt, number)), prompt)

    def request(self, prompt: list[int], number: int) -> dict[str, Any]:
        config = self.params.evaluate
        return {
            "model": self.model,
            "prompt": prompt,
            "n": 1,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": 0,
            "seed": (self.params.seed + number) % SEEDS,
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
            wanted="a request that the server takes: prompt and evaluate.max_new_tokens within its context",
            do="raise launch.vllm.max_model_length or lower evaluate.max_new_tokens, if it says so",
        )

    def tokens(self, answer: dict[str, Any], prompt: list[int]) -> list[int]:
        """Raises: PosttrainError unless the answer is one whole completion of the prompt that was sent."""
        choices: list[dict[str, Any]] = answer.get("choices") or []
        choice = choices[0] if len(choices) == 1 else {}
        ids: list[int] = choice.get("token_ids") or []
        reason, ended = choice.get("finish_reason"), ids[-1:] == [self.end_token]
        full = len(ids) == self.params.evaluate.max_new_tokens
        whole = (reason == "stop" and ended) or (reason == "length" and full)
        if whole and choice.get("prompt_token_ids") == prompt:
            return ids
        said = {key: choice.get(key) for key in ("finish_reason", "token_ids", "prompt_token_ids")}
        raise PosttrainError(
            f"{self.url} gave no whole completion of the prompt {prompt}: {len(choices)} choices, {str(said)[:300]}; "
            f"wanted one, with token_ids that end with {self.end_token} (stop) or are as many as "
            f"evaluate.max_new_tokens (length)"
        )
