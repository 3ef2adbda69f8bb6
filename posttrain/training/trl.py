"""The one seam to what TRL 1.16 and transformers 5.24 keep private.

Every private name that posttrain relies on is in PRIVATE and is used in this file alone; the rest of posttrain uses the
names without underscore that stand here. After an upgrade tests/unit/test_trl.py fails by the name that went, moved or
takes other arguments.

`SFTTrainer` and `GRPOTrainer` are TRL's with two additions: a killed run goes on (posttrain/training/resume.py), and
what a subclass may override has a public name.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
import trl
import trl.trainer.utils
from transformers.trainer_callback import PrinterCallback
from trl.distributed import DistributedBackend
from trl.kernels import chunked_logprob
from trl.models import unwrap_model_for_generation

from posttrain.generation.copied import Copied
from posttrain.generation.engine import Sampling, generate
from posttrain.training.divergence import require_sound, require_step
from posttrain.training.resume import Resume

PRIVATE: dict[type | ModuleType, dict[str, str]] = {
    transformers.Trainer: {
        "_run_epoch": "a run that was killed after its last step must not take another",
        "_save_checkpoint": "what transformers' own files lack is added to each checkpoint",
        "_get_output_dir": "where transformers has written one",
        "_get_train_sampler": "SFT's epochs leave out the rows that do not fill a step",
        "_issue_warnings_after_load": "weights that do not fit the model are an error, not a warning",
        "_get_grad_norm": "loss and gradients are looked at before the optimizer takes its step",
        "_tr_loss": "loss since the last log, part of a checkpoint",
        "_total_loss_scalar": "loss up to the last log, part of a checkpoint",
        "_globalstep_last_logged": "step of the last log, part of a checkpoint",
    },
    trl.SFTTrainer: {
        "_metrics": "sums since the last log, part of a checkpoint",
        "_total_train_tokens": "tokens seen, part of a checkpoint",
    },
    trl.GRPOTrainer: {
        "_metrics": "sums since the last log, part of a checkpoint; columns of our own are added",
        "_logs": "prompts, completions, rewards and advantages of the last generation batch",
        "_step": "position within the generation batch, part of a checkpoint",
        "_buffered_inputs": "generations that later steps still train on, part of a checkpoint",
        "_current_train_step_time": "part of a checkpoint, or a resumed run would log another mean",
        "_generate": "timed; further rounds of dynamic sampling generate by it",
        "_generate_single_turn": "draws completions by our own engine; gives those that were drawn before",
        "_calculate_rewards": "a completion may have no verdict; gives rewards that were drawn before",
        "_generate_and_score_completions": "dynamic sampling draws groups before TRL works on the batch",
        "_prepare_inputs": "groups stay whole where the passes of a step are made",
        "_get_per_token_logps_and_entropies": "a prompt is computed once for its group",
    },
    trl.trainer.utils: {
        "_use_triton": "on a CPU too, only positions with a label go through the LM head",
        "_CHUNKED_LOGPROB_CHUNK_SIZE": "columns of the LM head's tiles, on a CPU no more than the vocabulary has",
    },
}
"""Private names by the class or module that has them, with the use that they are put to."""

COUNTERS = ("_step", "_total_train_tokens", "_current_train_step_time")
LOGS = ("prompt", "completion", "rewards", "advantages")
TILE = (512, 8192)
"""Tokens and columns of a tile of the LM head on a CPU, at most."""


# ---------------------------------------------------------------------------------------------------------------------
# Both trainers


@contextmanager
def small_tiles(model: Any) -> Iterator[None]:
    """On a CPU, TRL's LM head scores what has a label alone, as it does on GPUs, on tiles that a cache holds.

    It would score prompts and padding too, on tiles of 4,096 tokens and 32,768 columns whatever the vocabulary has.
    """
    if model.device.type != "cpu":
        yield
        return
    head, columns = trl.trainer.utils, -(-model.config.get_text_config().vocab_size // 16) * 16
    kept = head._use_triton, head._CHUNKED_LOGPROB_CHUNK_SIZE, chunked_logprob.TOKEN_CHUNK_SIZE
    head._use_triton, head._CHUNKED_LOGPROB_CHUNK_SIZE = (lambda _: True), min(TILE[1], columns)
    chunked_logprob.TOKEN_CHUNK_SIZE = TILE[0]
    try:
        yield
    finally:
        head._use_triton, head._CHUNKED_LOGPROB_CHUNK_SIZE, chunked_logprob.TOKEN_CHUNK_SIZE = kept


class Seam(transformers.Trainer):
    """Hooks that SFT and GRPO share; goes before TRL's trainer among the bases of a class."""

    def __init__(self, *args: Any, resume: Resume | None = None, **kwargs: Any) -> None:
        self.resume = resume
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)

    def train_or_resume(self) -> None:
        """`train`, from the last checkpoint of this fingerprint if there is one.

        Raises: RetryError after SIGTERM or Ctrl-C, InputError if what runs is not what `launch` asks for or diverges
        """
        assert self.resume is not None, "a trainer without checkpoints"
        if not self.is_fsdp_enabled:  # under which only the first process has weights yet
            require_sound(self, self.some_ids())
        self.resume.train(self)
        require_sound(self, self.some_ids())  # no step comes after the last one to notice

    def some_ids(self) -> list[int]:
        """Tokens of a training example, which the model has to have an opinion on."""
        raise NotImplementedError

    def step_is_known(self, loss: torch.Tensor, norm: Any) -> None:
        """Loss and gradient norm of a step that the optimizer is about to take.

        Raises: Diverged if they are no finite numbers
        """
        require_step(self, loss, norm)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with small_tiles(self.model):
            return super().training_step(*args, **kwargs)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None for a checkpoint; TRL would write one beside each."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """transformers asks for the last step only after one, so a run killed after its last would take another."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.step_is_known(self._tr_loss, norm)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.resume is not None, "a trainer without checkpoints"
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        self.resume.save(self, folder, partial(super()._save_checkpoint, model, trial))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """transformers warns of tied weights, which it saved once; of others only our own checks can have failed."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        if (missing := set(load_result.missing_keys) - set(tied)) or load_result.unexpected_keys:
            raise RuntimeError(f"weights of another model: {sorted(missing)} {load_result.unexpected_keys}")

    def private_state(self) -> dict[str, Any]:
        """What determines the rest of a run and transformers' own files lack: plain data, lists and tensors."""
        return {
            "loss": (self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged),
            "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            "metrics": {mode: dict(values) for mode, values in self._metrics.items()},
        }

    def restore_private_state(self, state: dict[str, Any]) -> None:
        self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged = state["loss"]
        for name, value in state["counters"].items():
            setattr(self, name, value)
        for mode, values in state["metrics"].items():
            self._metrics[mode].update(values)


class SFTTrainer(Seam, trl.SFTTrainer):
    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return self.train_sampler(super()._get_train_sampler(dataset))

    def train_sampler(self, sampler: Any) -> Any:
        """The sampler to train with, in place of the one that transformers would use."""
        return sampler


# ---------------------------------------------------------------------------------------------------------------------
# GRPO


@dataclass(frozen=True)
class GenerationBatch:
    """The last batch of completions of all processes, as it was trained on."""

    prompts: list[Any]
    completions: list[Any]
    rewards: dict[str, list[float]]
    """Scores by the name of the reward; nan without a verdict."""
    advantages: list[float]
    weights: torch.Tensor
    """Factors of the rewards in the total, in their order."""
    group_size: int

    @classmethod
    def of(cls, trainer: trl.GRPOTrainer) -> "GenerationBatch":
        logs = trainer._logs
        return cls(
            prompts=list(logs["prompt"]),
            completions=list(logs["completion"]),
            rewards={name: list(logs["rewards"][name]) for name in trainer.reward_func_names},
            advantages=list(logs["advantages"]),
            weights=trainer.reward_weights.cpu(),
            group_size=trainer.num_generations,
        )


@dataclass(frozen=True)
class Rollout:
    """One completion, and the example that it answers."""

    example: dict[str, Any]
    ids: list[int]
    logprobs: list[float] | None
    """Log-probabilities of the tokens, from generators that say them."""
    completion: Any


@dataclass(frozen=True)
class RolloutBatch:
    """A process's share of the completions, and the rewards (N, rewards) of all processes."""

    rollouts: list[Rollout]
    rewards: torch.Tensor


class GRPOTrainer(Seam, trl.GRPOTrainer):
    """A subclass overrides `generate_and_score`, `generate`, `calculate_rewards`, `log_probs` or `passes`, and calls
    them by `super()`."""

    copied: Copied | None = None
    """The model in the dtype to draw completions in, if that is another."""
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._replayed: RolloutBatch | None = None
        """What TRL is given instead of generating and scoring."""
        super().__init__(*args, **kwargs)
        self.draws = self.can_draw()

    # What a subclass may override

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors that the loss takes, of fresh completions of each example."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return batch

    def generate(self, prompts: list[Any]) -> Any:
        """Completions of the prompts: a tuple of prompt ids, completion ids, masks, texts, log-probabilities, …"""
        return super()._generate(prompts)

    def calculate_rewards(self, *batch: Any) -> torch.Tensor:
        """Rewards (N, rewards) of all processes; `batch` is inputs, prompts, completions and their token ids."""
        rewards: torch.Tensor = super()._calculate_rewards(*batch)
        return rewards

    def log_probs(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **options: Any) -> Any:
        """Log-probabilities and entropies (N, keep) of the last `keep` tokens, and the loss of a mixture of experts."""
        return super()._get_per_token_logps_and_entropies(model, ids, mask, keep, **options)

    def passes(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The forward passes of a fresh generation batch, in place of those that TRL made."""
        return batches

    # What a subclass may call

    def end_only_at(self, token: int) -> None:
        """End completions at this token; TRL adds those of the model's generation_config.json."""
        self.eos_token_ids = [token]
        if not self.use_vllm:
            self.generation_config.eos_token_id = self.generation_kwargs["eos_token_id"] = [token]

    def can_draw(self) -> bool:
        """Completions come from posttrain/generation, not from vLLM or, with a line that says why, TRL's call of
        transformers."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return False
        backend, options = DistributedBackend(self.accelerator), self.generation_config
        bent = self.args.generation_kwargs or self.args.cache_implementation or options.min_p or options.top_k
        why = "the weights are in pieces" if backend.is_zero3 or backend.is_fsdp else None
        if bent or options.repetition_penalty not in (None, 1.0):
            why = "grpo.trl bends how tokens are drawn"
        if why and self.accelerator.is_main_process:
            print(f"grpo | completions by transformers' own generate: {why}", flush=True)
        return why is None

    def draw(self, prompts: list[list[int]]) -> list[list[int]]:
        """A completion of each prompt, by seeds from this process's generator."""
        seeds = torch.randint(2**63 - 1, (len(prompts), 1)).tolist()
        sampling = Sampling(self.max_completion_length, self.temperature, self.top_p)
        recomputing = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=recomputing
        ) as model:
            model = self.copied.of(model) if self.copied else model
            drawn = generate(model, prompts, sampling, self.eos_token_ids, seeds, rows=len(prompts))
        return [ids for (ids,) in drawn]

    def roll_out(self, examples: list[dict[str, Any]]) -> RolloutBatch:
        """Generate and score one completion for each example of this process."""
        prompts = [example["prompt"] for example in examples]
        _, ids, _, completions, logprobs, *_ = self.generate(prompts)
        rewards = self.calculate_rewards(examples, prompts, completions, ids)
        each = zip(examples, ids, logprobs or [None] * len(ids), completions, strict=True)
        return RolloutBatch([Rollout(*one) for one in each], rewards)

    def score(self, batch: RolloutBatch) -> dict[str, Any]:
        """The tensors that the loss takes, of completions and rewards that are there already: padding, advantages, the
        reference's log-probabilities and every metric are TRL's, once a batch."""
        self._replayed = batch
        try:
            scored: dict[str, Any] = super()._generate_and_score_completions([one.example for one in batch.rollouts])
            return scored
        finally:
            self._replayed = None

    def last_batch(self) -> GenerationBatch:
        return GenerationBatch.of(self)

    def add_metric(self, name: str, value: float) -> None:
        """A value of this step; what is logged is the mean since the last log."""
        self._metrics["train"][name].append(value)

    @contextmanager
    def metrics_aside(self) -> Iterator[dict[str, list[float]]]:
        """What TRL counts meanwhile, instead of among its metrics: it will count again the batch that is trained on."""
        kept, seen = self._metrics["train"], self.state.num_input_tokens_seen
        aside: dict[str, list[float]] = defaultdict(list)
        self._metrics["train"] = aside
        try:
            yield aside
        finally:
            self._metrics["train"], self.state.num_input_tokens_seen = kept, seen

    # The private side

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self.generate_and_score(inputs)

    def _generate(self, prompts: list[Any]) -> Any:
        return self.generate(prompts)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self._replayed is None and self.draws:
            return self.draw(prompt_ids), None
        if self._replayed is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        logprobs = [rollout.logprobs for rollout in self._replayed.rollouts if rollout.logprobs is not None]
        return [rollout.ids for rollout in self._replayed.rollouts], logprobs or None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **options: Any
    ) -> Any:
        return self.log_probs(model, input_ids, attention_mask, logits_to_keep, **options)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = self.passes(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _calculate_rewards(self, *batch: Any) -> torch.Tensor:
        return self.calculate_rewards(*batch) if self._replayed is None else self._replayed.rewards

    def private_state(self) -> dict[str, Any]:
        window = self.args.steps_per_generation * self.num_iterations
        in_use = self._buffered_inputs is not None and self._step % window != 0
        return super().private_state() | {
            "logs": {name: plain(self._logs[name]) for name in LOGS},
            "generations": self._buffered_inputs if in_use else None,
        }

    def restore_private_state(self, state: dict[str, Any]) -> None:
        super().restore_private_state(state)
        for name, values in state["logs"].items():
            restore(self._logs[name], values)
        if state["generations"] is not None:
            self._buffered_inputs = state["generations"]


def plain(values: Any) -> Any:
    """A deque as a list, a mapping of them as a dict of lists."""
    return {key: list(value) for key, value in values.items()} if isinstance(values, dict) else list(values)


def restore(target: Any, values: Any) -> None:
    """Undo `plain`, into the deques that are there."""
    if isinstance(values, dict):
        for key, items in values.items():
            target[key].extend(items)
    else:
        target.extend(values)
