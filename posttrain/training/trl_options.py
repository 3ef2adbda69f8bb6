"""`grpo.trl` and `sft.trl`: every further option of TRL's configs, under TRL's name, checked before it gets there."""

import dataclasses
import difflib
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from posttrain.errors import InputError

Config = TypeVar("Config")

OWNED = {
    "num_train_epochs", "auto_find_batch_size", "generation_batch_size", "steps_per_generation", "data_seed",
    "num_generations_eval", "fp16", "tf32", "remove_unused_columns", "do_train", "do_eval", "do_predict",
    "prediction_loss_only", "batch_eval_metrics", "resume_from_checkpoint", "ignore_data_skip", "local_rank",
    "restore_callback_states_from_checkpoint", "enable_jit_checkpoint", "deepspeed", "parallelism_config",
    "accelerator_config", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "push_to_hub",
    "run_name", "project", "debug", "label_names", "length_column_name", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "eos_token", "pad_token",
    "chat_template_path", "assistant_only_loss", "num_completions_to_print", "skip_memory_metrics", "use_vllm",
    "vllm_mode", "vllm_tensor_parallel_size", "vllm_gpu_memory_utilization", "vllm_max_model_length",
    "vllm_enable_sleep_mode", "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout",
    "vllm_group_port",
}  # fmt: skip
"""What batches, seeds, files, processes, vLLM and the tokenizer follow from elsewhere; other values would break a
promise of this project: equal results on other hardware, nothing published unless whole, plain checkpoints."""
OWNED_PREFIXES = ("per_device_", "save_", "hub_", "eval_", "log_", "logging_", "trackio_", "fsdp", "dataset_", "ddp_")


@cache
def types_of(kind: type) -> dict[str, Any]:
    """Name and type of each field that the config's constructor takes."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def configure(kind: type[Config], where: str, options: dict[str, Any], **ours: Any) -> Config:
    """A TRL config of what posttrain sets and of the further options that params name under `where`.

    Raises: InputError if an option is unknown, is not one to set there, has another type, or if TRL refuses it.
    """
    for name, value in options.items():
        check_option(kind, f"{where}.{name}", name, value, set(ours))
    try:
        return kind(**ours, **options)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        if not options:
            raise
        raise InputError(
            f"params.yaml: {where}",
            got=", ".join(f"{name}: {value}" for name, value in options.items()),
            wanted=f"options that {kind.__name__} takes together: {' '.join(str(error).split())[:300]}",
            do=f"change {where}",
        ) from None


def check_option(kind: type, where: str, name: str, value: Any, ours: set[str]) -> None:
    types, section = types_of(kind), where.split(".")[0]
    free = [known for known in types if known not in ours | OWNED and not known.startswith(OWNED_PREFIXES)]
    if name not in types:
        near = difflib.get_close_matches(name, free, n=1)
        raise InputError(
            f"params.yaml: {where}",
            got=f"no option of {kind.__name__}",
            wanted=f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(free)}",
            do=f"change {where}",
        )
    if name not in free:
        raise InputError(
            f"params.yaml: {where}",
            got="an option that posttrain sets itself",
            wanted=f"only options besides these; the rest of params.yaml decides on `{name}`",
            do=f"remove it; see the keys of `{section}`, `rewards`, `model`, `seed` and `launch`",
        )
    try:
        TypeAdapter(types[name]).validate_python(value, strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InputError(
            f"params.yaml: {where}", got=repr(value), wanted=message[0].lower() + message[1:], do=f"change {where}"
        ) from None
