"""lighteval 0.13.0 through its Python API, in its own environment: `python lighteval_runner.py SPEC.json OUT.json`

Reads   the spec that posttrain/evaluation/lighteval_process.py writes: tasks, and to judge, the models' completions
Writes  OUT.json, whole or not at all: the documents of lighteval's own tasks, or its metrics and its verdict on each
        completion, which is recorded beside ours (posttrain/evaluation/metrics.py)
Exit    3 if the answer cannot be trusted (rows lost, samples missing, nothing generated)

lighteval generates nothing. Its backend reuses predictions of other weights at the same path
(huggingface/lighteval#1364), is greedy whatever the temperature and cuts the prompt when max_new_tokens is given
(#742), never seeds torch, and cuts completions off as soon as the first few of a batch have ended. Its own metric of
what GRPO trains scores `<answer>42</answer>` 0, so our tasks have one that takes the declared answer.
"""

import difflib
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from typing import Any

LIGHTEVAL_VERSION = "0.13.0"


def main(spec_path: Path, out_path: Path) -> int:
    """The documents of lighteval's own tasks, or every task judged for every model."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    check_versions(spec)
    shim()
    if unknown := unknown_tasks(spec):
        return write(out_path, {"unknown": unknown})
    if spec["work"] == "documents":
        return write(out_path, {"documents": {task["name"]: documents(task, spec) for task in spec["tasks"]}})
    results = {task["name"]: {name: evaluate(task, name, spec) for name in spec["models"]} for task in spec["tasks"]}
    packages = ("lighteval", "transformers", "datasets", "latex2sympy2_extended", "sympy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    write(out_path, {"results": results, "versions": versions})
    found = [
        f"{task}: {name}: {problem}"
        for task, models in results.items()
        for name, result in models.items()
        for problem in result["problems"]
    ]
    for problem in found:
        print(f"evaluate | {problem}", file=sys.stderr)
    return 3 if found else 0


def write(path: Path, content: dict[str, Any]) -> int:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)
    return 0


def check_versions(spec: dict[str, Any]) -> None:
    """The shims fit one release; and a tokenizer saved by a newer transformers loads wrongly or not at all."""
    installed = importlib.metadata.version("lighteval")
    if installed != LIGHTEVAL_VERSION:
        sys.exit(f"lighteval {installed} is installed, this runner is written for {LIGHTEVAL_VERSION}: make setup")
    ours = importlib.metadata.version("transformers")
    for path in spec["models"].values():
        theirs = json.loads(Path(path, "config.json").read_text(encoding="utf-8")).get("transformers_version")
        if theirs is not None and _numbers(theirs) > _numbers(ours):
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


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


def unknown_tasks(spec: dict[str, Any]) -> dict[str, list[str]]:
    """Names of benchmarks that lighteval has not, and those of its that look like them."""
    from lighteval.tasks.registry import Registry

    asked = [task["name"] for task in spec["tasks"] if task["benchmark"]]
    known = list(Registry.load_all_task_configs()) if asked else []
    return {name: difflib.get_close_matches(name, known, n=3) for name in asked if name not in known}


def pipeline(task: dict[str, Any], config: Any, spec: dict[str, Any], model: Any) -> Any:
    """A run of one task. Choices that a prompt shuffles are drawn alike each time: it seeds before it loads."""
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters

    table = types.ModuleType("given_tasks")
    table.__dict__["TASKS_TABLE"] = [config]
    parameters = PipelineParameters(
        launcher_type=ParallelismManager.ACCELERATE, custom_tasks_directory=table, max_samples=task["limit"]
    )
    tracker = EvaluationTracker(output_dir=spec["output_dir"], save_details=False)
    return Pipeline(f"{config.name}|0", parameters, tracker, model=model)


def benchmark(task: dict[str, Any], correct: dict[int, list[float]]) -> Any:
    """lighteval's own task, of a local copy of its data if there is one, each of its metrics a mean over completions.

    `correct` gets what the first metric says of each completion, by the number of the document.
    """
    import copy

    import datasets
    from lighteval.tasks.registry import Registry

    config = copy.deepcopy(Registry.load_all_task_configs()[task["name"]])
    config.name, config.num_fewshots = f"given:{task['name']}", 0
    config.full_name = f"{config.name}|0"
    if task["data_dir"] is not None:
        config.hf_repo, config.hf_revision = task["data_dir"], None
        names = datasets.get_dataset_config_names(task["data_dir"])
        config.hf_subset = config.hf_subset if config.hf_subset in names else "default"
    config.metrics = means(config.metrics, correct)
    if not config.metrics:
        sys.exit(f"{task['name']}: lighteval's metrics of this task judge no completion by itself; take another task")
    return config


def means(metrics: Any, correct: dict[int, list[float]]) -> tuple[Any, ...]:
    """Those of the metrics that judge a completion by itself, as means over a document's completions."""
    import numpy as np
    from lighteval.metrics.metrics_sample import SampleLevelComputation, SamplingMetric
    from lighteval.metrics.utils.metric_utils import SampleLevelMetric
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import SamplingMethod

    class Mean(SampleLevelComputation):
        def __init__(self, judge: Any, first: bool) -> None:
            self.judge, self.first = judge, first

        def compute(self, doc: Any, model_response: Any, **_: Any) -> float:
            texts = model_response.final_text
            scores = [float(self.judge.compute(doc=doc, model_response=ModelResponse(text=[text]))) for text in texts]
            if self.first:
                correct[doc.specific["number"]] = scores
            return float(np.mean(scores))

    kept = [
        metric
        for metric in metrics
        if isinstance(metric, SampleLevelMetric)
        and metric.category == SamplingMethod.GENERATIVE
        and isinstance(metric.sample_level_fn, SampleLevelComputation)
        and (not isinstance(metric.sample_level_fn, SamplingMetric) or metric.sample_level_fn.num_samples() == 1)
    ]
    return tuple(
        SampleLevelMetric(
            metric_name=metric.metric_name.partition(":")[0],
            sample_level_fn=Mean(metric.sample_level_fn, number == 0),
            category=metric.category,
            corpus_level_fn=np.mean,
            higher_is_better=True,
        )
        for number, metric in enumerate(kept)
    )


def documents(task: dict[str, Any], spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompt and gold of each document of a benchmark, as lighteval asks and judges it."""
    from lighteval.tasks.prompt_manager import PromptManager

    config = benchmark(task, {})
    chat, plain = PromptManager(True), PromptManager(False)
    return [
        {
            "id": str(doc.id),
            "problem": chat.prepare_prompt_api(doc)[-1]["content"],
            "plain": plain.prepare_prompt(doc),
            "golds": [str(gold) for gold in doc.get_golds()],
        }
        for doc in pipeline(task, config, spec, given([], "", spec)).documents_dict[config.full_name]
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Judging


def evaluate(task: dict[str, Any], name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """lighteval's metrics of one model, and its verdict on each completion in the order of the problems."""
    answers = task["answers"][name]
    verdicts: dict[tuple[str, str], float] = {}
    correct: dict[int, list[float]] = {}
    config = benchmark(task, correct) if task["benchmark"] else own(task, spec, verdicts)
    run = pipeline(task, config, spec, given(answers, spec["models"][name], spec))
    run.evaluate()
    details = run.get_details()[config.full_name]
    if not task["benchmark"]:
        for detail in details:
            gold, texts = detail.doc.choices[0], detail.model_response.text
            correct[detail.doc.specific["number"]] = [
                verdicts[gold, normalise(text)] if text else 0.0 for text in texts
            ]
    aggregated = run.evaluation_tracker.metrics_logger.metric_aggregated[config.full_name]
    metrics = {key: float(value) for key, value in aggregated.items() if not key.endswith("_stderr")}
    found = problems(correct, answers, next(iter(metrics.values())), spec["num_samples"])
    return {
        "metrics": metrics,
        "correct": [correct.get(number, []) for number in range(len(answers))],
        "problems": found,
    }


def given(answers: list[dict[str, Any]], folder: str, spec: dict[str, Any]) -> Any:
    """A model that has answered already: for each problem the prompt that it was asked, and texts.

    Ends the process if it was not asked what lighteval would ask.
    """
    from lighteval.models.abstract_model import LightevalModel, ModelConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.prompt_manager import PromptManager
    from transformers import AutoTokenizer

    from posttrain.templates import pin_date

    class NoCache:
        def _init_registry(self, registry: Any) -> None: ...

    class Given(LightevalModel):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder) if folder else None
        add_special_tokens, max_length = False, None

        def __init__(self) -> None:
            self.config, self._cache = ModelConfig(model_name=folder or "none", system_prompt=spec["system"]), NoCache()
            if self.tokenizer is not None:
                pin_date(self.tokenizer)

        def greedy_until(self, docs: list[Any]) -> list[Any]:
            templated = self.tokenizer.chat_template is not None
            prompts = PromptManager(templated, self.tokenizer, spec["system"])
            numbers = [(doc.specific or {}).get("number", place) for place, doc in enumerate(docs)]
            return [self.response(doc, n, prompts.prepare_prompt(doc)) for doc, n in zip(docs, numbers, strict=True)]

        def response(self, doc: Any, number: int, prompt: str) -> Any:
            doc.specific = {**(doc.specific or {}), "number": number}
            answer = answers[number]
            if prompt != answer["prompt"]:
                sys.exit(f"{folder}: another prompt than lighteval's was answered: {prompt!r}")
            return ModelResponse(text=answer["texts"])

        def loglikelihood(self, docs: list[Any]) -> list[Any]:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    return Given()


def own(task: dict[str, Any], spec: dict[str, Any], verdicts: dict[tuple[str, str], float]) -> Any:
    """Problems and golds of ours as a lighteval task with strict answer extraction."""
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
        name="given",
        prompt_function=prompt,
        hf_repo=task["data_dir"],
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        few_shots_split=None,
        few_shots_select=None,
        generation_size=None,
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


def problems(
    correct: dict[int, list[float]], answers: list[dict[str, Any]], mean: float, num_samples: int
) -> list[str]:
    """Reasons not to trust the numbers."""
    found = []
    if sorted(correct) != list(range(len(answers))):
        found.append(f"{len(correct)} problems came back, {len(answers)} were sent")
    if (count := sum(map(len, correct.values()))) != len(answers) * num_samples:
        found.append(f"{count} verdicts came back, {len(answers) * num_samples} were asked for")
    if not any(text.strip() for answer in answers for text in answer["texts"]):
        found.append("every completion is empty")
    own_mean = sum(sum(one) / num_samples for one in correct.values()) / max(1, len(correct))
    if abs(own_mean - mean) > 1e-6:
        found.append(f"its first metric is {mean}, its verdicts say {own_mean}")
    return found


if __name__ == "__main__":
    # This folder leaves the path, so that no module here can shadow a package; the project's root enters it.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
