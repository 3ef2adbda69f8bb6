"""What GRPO or SFT is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from posttrain.params.schema import Params


class Precision(NamedTuple):
    """Bytes of a parameter."""

    weights: int
    gradients: int
    optimizer: int
    """Adam's two moments, and float32 weights where the weights are shorter."""


PRECISIONS = {
    "mixed": Precision(2, 2, 12),  # ZeRO, section 3.1: K = 12
    "float32": Precision(4, 4, 8),
    "bfloat16": Precision(2, 2, 4),  # no master weights: everything in the dtype of the weights
}
ADAPTER = Precision(4, 4, 8)  # PEFT keeps adapters in float32 (`autocast_adapter_dtype`)

GPU_MEMORY_UTILIZATION = {"no": 0.0, "colocate": 0.3, "server": 0.9}
"""Share of a GPU for vLLM where nothing says it, by mode."""


@dataclass(frozen=True)
class Work:
    """One optimizer step and how many there are, under the names of params.yaml and with the defaults of `plan`."""

    prompts_per_step: int = 32
    num_generations: int = 16
    num_iterations: int = 1
    prompt_length: int = 256
    """Tokens of a prompt; params.yaml does not say."""
    max_completion_length: int = 1024
    max_steps: int = 500
    reference: bool = True
    """Whether the KL divergence to a reference is wanted: beta is not 0."""
    adapters: bool = False
    """Whether adapters are wanted, rather than all weights."""
    lora_rank: int = 16
    precision: str = "mixed"
    full_logits: bool = False
    """Whether logits of all completions are there at once, without TRL's tiles."""
    generates: bool = True
    """False for SFT, which is given its completions."""
    vllm: Literal["no", "colocate", "server"] = "no"
    """Where vLLM generates: nowhere (transformers does), in the training processes, or on GPUs of its own."""
    tensor_parallel_size: int = 1
    """GPUs that share vLLM's copy of the model: all of a server's."""
    gpu_memory_utilization: float = 0.0
    enable_sleep_mode: bool = False

    @property
    def sequences(self) -> int:
        return self.prompts_per_step * self.num_generations

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.prompt_length + self.max_completion_length

    @property
    def vllm_beside_training(self) -> bool:
        """Whether vLLM holds memory of the GPUs that train while they do."""
        return self.vllm == "colocate" and not self.enable_sleep_mode

    @property
    def server_gpus(self) -> int:
        """GPUs beside those that train."""
        return self.tensor_parallel_size if self.vllm == "server" else 0


def grpo_work(flags: Mapping[str, Any], params: Params | None) -> Work:
    """A step of GRPO. A flag wins over params.yaml, that over the defaults."""
    asked = values_of(params) if params else {}
    asked |= {name: value for name, value in flags.items() if value is not None and value is not False}
    asked.setdefault("gpu_memory_utilization", GPU_MEMORY_UTILIZATION[asked.get("vllm", "no")])
    return Work(**{field.name: asked[field.name] for field in fields(Work) if field.name in asked})


def values_of(params: Params) -> dict[str, Any]:
    """Values of Work that params.yaml has, among others."""
    lora, vllm = params.model.lora, params.launch.vllm
    asked = params.grpo.model_dump() | {"reference": params.grpo.beta > 0, "adapters": lora is not None}
    if lora:
        asked["lora_rank"] = lora.r
    return asked | vllm.model_dump() | {"vllm": vllm.mode} if params.grpo.use_vllm else asked


def sft_work(params: Params) -> Work:
    """A step of SFT, whose rows are as long as they may be and all completion."""
    sft = params.require_sft()
    flags = {
        **{"prompts_per_step": sft.batch_size, "num_generations": 1, "num_iterations": 1, "max_steps": sft.max_steps},
        **{"prompt_length": 0, "max_completion_length": sft.max_length, "vllm": "no"},
    }
    return replace(grpo_work(flags, params), reference=False, generates=False)
