"""lighteval 0.13.0 through its Python API, in its own environment: `python lighteval_runner.py SPEC.json OUT.json`

Reads   the spec that posttrain/evaluation/lighteval_process.py writes: models, one task, sampling
Writes  OUT.json, whole or not at all: lighteval's metrics and every completion with lighteval's verdict, which is
        recorded beside ours (posttrain/evaluation/metrics.py)
Exit    3 if the answer cannot be trusted (rows lost, samples missing, nothing generated)

Not lighteval's command line, because on this path it returns wrong numbers without a word: it reuses predictions of
other weights at the same path (huggingface/lighteval#1364), is greedy whatever the temperature and cuts the prompt when
max_new_tokens is given (#742), never seeds torch, takes penalties from the model's generation_config.json, cuts
completions off as soon as the first few of a batch have ended, and scores `<answer>42</answer>` 0. Each is set right
below.
"""

import importlib.metadata
import json
import sys
import types
from pathlib import Path
from typing import Any

TASK = "held_out"
LIGHTEVAL_VERSION = "0.13.0"


def main(spec_path: Path, out_path: Path) -> int:
    """Evaluate every model of the spec with the same prompts, seed and batches."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    check_versions(spec)
    shim()
    completions = spec.get("completions", {})
    results = {name: evaluate(path, spec, completions.get(name)) for name, path in spec["models"].items()}
    packages = ("lighteval", "transformers", "torch", "datasets", "latex2sympy2_extended", "sympy")
    results["versions"] = {name: importlib.metadata.version(name) for name in packages}
    unfinished = out_path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results), encoding="utf-8")
    unfinished.replace(out_path)
    problems = [f"{name}: {problem}" for name in spec["models"] for problem in results[name]["problems"]]
    for problem in problems:
        print(f"evaluate | {problem}", file=sys.stderr)
    return 3 if problems else 0


def check_versions(spec: dict[str, Any]) -> None:
    """The shims fit one release; and a model saved by a newer transformers loads wrongly or not at all."""
    installed = importlib.metadata.version("lighteval")
    if installed != LIGHTEVAL_VERSION:
        sys.exit(f"lighteval {installed} is installed, this runner is written for {LIGHTEVAL_VERSION}: make setup")
    ours = importlib.metadata.version("transformers")
    for path in spec["models"].values():
        theirs = json.loads(Path(path, "config.json").read_text(encoding="utf-8"))["transformers_version"]
        if _numbers(theirs) > _numbers(ours):
            sys.exit(f"{path} was saved by transformers {theirs}, lighteval's environment has {ours}: make setup")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def shim() -> None:
    """Let lighteval's registry import: without network, and with huggingface_hub 2."""
    import nltk
    from huggingface_hub import HfApi

    nltk.download = lambda *_, **__: False  # the ifeval task downloads when it is imported
    # tiny_benchmarks fetches a pickle from the network into site-packages when it is imported.
    name = "lighteval.tasks.tasks.tiny_benchmarks"
    sys.modules[name] = types.ModuleType(name)
    list_models = HfApi.list_models

    def patched(self: HfApi, *args: Any, model_name: str | None = None, **kwargs: Any) -> Any:
        """huggingface_hub 1 dropped `model_name`, which lighteval's mt_bench and mix_eval pass when imported."""
        return list_models(self, *args, **kwargs, **({"search": model_name} if model_name is not None else {}))

    HfApi.list_models = patched


def evaluate(model_path: str, spec: dict[str, Any], completions: list[dict[str, Any]] | None) -> dict[str, Any]:
    """lighteval's metrics for one model, and each completion with its verdict, in the order of the problems.

    `completions` are there already, of each problem, if transformers is not to make them.
    """
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters

    verdicts: dict[tuple[str, str], float] = {}
    table = types.ModuleType("held_out_tasks")
    table.__dict__["TASKS_TABLE"] = [task(spec, verdicts)]
    tracker = EvaluationTracker(output_dir=spec["output_dir"], save_details=False)
    parameters = PipelineParameters(launcher_type=ParallelismManager.ACCELERATE, custom_tasks_directory=table)
    model = transformers_model(model_path, spec) if completions is None else given(completions, model_path, spec)
    end_token, context = model.tokenizer.eos_token_id, model.max_length  # before lighteval drops the tokenizer
    pipeline = Pipeline(f"{TASK}|0", parameters, tracker, model=model)
    pipeline.model._cache = None  # it is keyed by the model's path, not by its weights
    pipeline.evaluate()
    details = pipeline.get_details()[f"{TASK}|0"]
    rows = sorted((row(detail, end_token, verdicts) for detail in details), key=lambda item: item["number"])
    longest = max(len(detail.model_response.input_tokens) for detail in details)
    aggregated = tracker.metrics_logger.metric_aggregated[f"{TASK}|0"]
    metrics = {name: float(value) for name, value in aggregated.items() if not name.endswith("_stderr")}
    found = problems(rows, metrics, spec)
    lost = sum(cut_off(tokens, end_token, spec) for detail in details for tokens in detail.model_response.output_tokens)
    if lost:
        found.append(f"{lost} completions neither ended nor have max_new_tokens {spec['max_new_tokens']}")
    if longest + spec["max_new_tokens"] > context:  # lighteval would cut the prompt or the completion
        found.append(
            f"prompts of {longest} tokens + max_new_tokens {spec['max_new_tokens']} exceed {context} of context"
        )
    return {"metrics": metrics, "rows": rows, "problems": found}


def transformers_model(model_path: str, spec: dict[str, Any]) -> Any:
    """lighteval's transformers backend with sampling and seed set, without its cache and its way to end a batch."""
    import torch
    from lighteval.models.model_input import GenerationParameters
    from lighteval.models.transformers import transformers_model as backend
    from transformers import GenerationConfig, StoppingCriteriaList

    from posttrain.templates import opened, pin_date

    class NoCache:
        def __init__(self, config: Any) -> None: ...
        def _init_registry(self, registry: Any) -> None: ...

    class Seeded(backend.TransformersModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            pin_date(self.tokenizer)
            # Nothing of the model's file: lighteval passes the tokens itself, and the sampling that it is told.
            self.model.generation_config = GenerationConfig()

        def _padded_greedy_until(self, docs: list[Any]) -> Any:
            torch.manual_seed(spec["seed"])
            # top_k 0: transformers' own default of 50 would cut the distribution that GRPO trained.
            self.generation_config_dict |= {"do_sample": spec["temperature"] > 0, "top_k": 0}
            responses = super()._padded_greedy_until(docs)
            for doc, response in zip(docs, responses, strict=True):
                begun = opened(self.prompt_manager.prepare_prompt(doc), doc.query)
                response.text = [begun + text for text in response.text]
            return responses

    backend.SampleCache = NoCache
    # Its own counts as many completions as there are problems in a batch, and then ends those of all their samples.
    backend.stop_sequences_criteria = lambda *_, **__: StoppingCriteriaList()
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    config = backend.TransformersModelConfig(
        model_name=model_path,
        dtype=spec["dtype"],
        batch_size=spec["batch_size"],
        add_special_tokens=False,  # the chat template has written them already
        override_chat_template=True,
        system_prompt=spec["system"],
        generation_parameters=GenerationParameters(temperature=spec["temperature"], top_p=spec["top_p"]),
    )
    return Seeded(config)


def given(completions: list[dict[str, Any]], model_path: str, spec: dict[str, Any]) -> Any:
    """A model that has answered already, with prompt_token_ids and token_ids for each problem.

    Ends the process if it was not asked what lighteval would ask.
    """
    from lighteval.models.abstract_model import LightevalModel, ModelConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.prompt_manager import PromptManager
    from transformers import AutoConfig, AutoTokenizer

    from posttrain.templates import opened, pin_date

    class NoCache:
        def _init_registry(self, registry: Any) -> None: ...

    class Given(LightevalModel):
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        add_special_tokens = False  # the chat template has written them already
        max_length = AutoConfig.from_pretrained(model_path).max_position_embeddings

        def __init__(self) -> None:
            pin_date(self.tokenizer)
            self.config, self._cache = ModelConfig(model_name=model_path, system_prompt=spec["system"]), NoCache()

        def greedy_until(self, docs: list[Any]) -> list[Any]:
            prompts = PromptManager(True, self.tokenizer, spec["system"])
            return [self.response(doc, prompts.prepare_prompt(doc)) for doc in docs]

        def response(self, doc: Any, prompt: str) -> Any:
            answer = completions[doc.specific["number"]]
            if self.tokenizer(prompt, add_special_tokens=False)["input_ids"] != answer["prompt_token_ids"]:
                sys.exit(f"{model_path}: another prompt than lighteval's was answered: {prompt!r}")
            begun, written = opened(prompt, doc.query), self.tok_decode(answer["token_ids"])
            texts = [begun + text.split(self.tokenizer.eos_token)[0] for text in written]
            return ModelResponse(text=texts, input_tokens=answer["prompt_token_ids"], output_tokens=answer["token_ids"])

        def loglikelihood(self, docs: list[Any]) -> list[Any]:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    return Given()


def task(spec: dict[str, Any], verdicts: dict[tuple[str, str], float]) -> Any:
    """The held-out problems as a lighteval task with strict answer extraction."""
    import numpy as np
    from lighteval.metrics.metrics_sample import MajAtN, PassAtK
    from lighteval.metrics.utils.metric_utils import SampleLevelMetric
    from lighteval.tasks.lighteval_task import LightevalTaskConfig
    from lighteval.tasks.requests import Doc, SamplingMethod

    def prompt(line: dict[str, Any], task_name: str | None = None) -> Doc:
        specific = {"id": line["id"], "number": line["number"]}
        return Doc(
            task_name=task_name, query=line["problem"], choices=[boxed(line["answer"])], gold_index=0, specific=specific
        )

    def metric(name: str, function: Any) -> SampleLevelMetric:
        return SampleLevelMetric(
            metric_name=name,
            sample_level_fn=function,
            category=SamplingMethod.GENERATIVE,
            corpus_level_fn=np.mean,  # for any other function lighteval bootstraps a standard error
            higher_is_better=True,
        )

    n = spec["num_samples"]
    compare = comparator(verdicts)
    metrics = [metric("pass@1", PassAtK(k=1, n=n, normalize=normalise, sample_scoring_function=compare))]
    if n > 1:
        metrics.append(metric(f"pass@{n}", PassAtK(k=n, n=n, normalize=normalise, sample_scoring_function=compare)))
        metrics.append(metric(f"maj@{n}", MajAtN(n=n, normalize=normalise, sample_scoring_function=compare)))
    return LightevalTaskConfig(
        name=TASK,
        prompt_function=prompt,
        hf_repo=spec["data_dir"],
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        few_shots_split=None,
        few_shots_select=None,
        generation_size=spec["max_new_tokens"],
        metrics=metrics,
        stop_sequence=[],
        version=1,
    )


def comparator(verdicts: dict[tuple[str, str], float]) -> Any:
    """lighteval's own comparison of a gold and a prediction, each pair decided once and remembered."""
    from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric
    from lighteval.metrics.utils.extractive_match_utils import LatexExtractionConfig

    extraction = (LatexExtractionConfig(boxed_match_priority=0),)
    match = MultilingualExtractiveMatchMetric(
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        gold_extraction_target=extraction,
        pred_extraction_target=extraction,
    )

    def compare(doc: Any, model_response: Any) -> float:
        key = (doc.choices[0], model_response.final_text[0])
        if key not in verdicts:
            verdicts[key] = match.compute(doc, model_response) if key[1] else 0.0
        return verdicts[key]

    return compare


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def normalise(text: str) -> str:
    """What a completion declares as its answer, boxed; golds are boxed already."""
    from posttrain.judge.answers import declared_answer

    if text.startswith("\\boxed{") and "<answer>" not in text:
        return text
    answer = declared_answer(text)
    return boxed(answer) if answer is not None else ""


def row(detail: Any, end_token: int, verdicts: dict[tuple[str, str], float]) -> dict[str, Any]:
    """One problem: its completions, lighteval's verdict on each, and whether each ended by itself."""
    texts = list(detail.model_response.text)
    gold = detail.doc.choices[0]
    return {
        "id": detail.doc.specific["id"],
        "number": int(detail.doc.specific["number"]),
        "completions": texts,
        "correct": [verdicts[gold, normalise(text)] if text else 0.0 for text in texts],
        "finished": [
            any(int(token) == end_token for token in tokens) for tokens in detail.model_response.output_tokens
        ],
    }


def cut_off(tokens: Any, end_token: int, spec: dict[str, Any]) -> bool:
    """Whether a completion was ended by neither its model nor the limit."""
    return len(tokens) < spec["max_new_tokens"] and end_token not in map(int, tokens)


def problems(rows: list[dict[str, Any]], metrics: dict[str, float], spec: dict[str, Any]) -> list[str]:
    """Reasons not to trust the numbers."""
    found = []
    samples = [text for item in rows for text in item["completions"]]
    if [item["number"] for item in rows] != list(range(spec["rows"])):
        found.append(f"{len(rows)} problems came back, {spec['rows']} were sent")
    if len(samples) != len(rows) * spec["num_samples"]:
        found.append(f"{len(samples)} completions came back, {len(rows) * spec['num_samples']} were asked for")
    if not any(text.strip() for text in samples):
        found.append("every completion is empty")
    mean = sum(sum(item["correct"]) / spec["num_samples"] for item in rows) / max(1, len(rows))
    if abs(mean - metrics["pass@1"]) > 1e-6:
        found.append(f"pass@1 is {metrics['pass@1']}, the verdicts say {mean}")
    return found


if __name__ == "__main__":
    # This folder leaves the path, so that no module here can shadow a package; the project's root enters it.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
