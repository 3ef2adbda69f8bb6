"""`launch`: on which hardware, in how many processes, with which server. Each key has a default, which leaves device
and processes to the machine; what ships names both, because its results are committed.

No DVC stage depends on this section, so moving to another machine reruns nothing.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from posttrain.params.section import Section

Strategy = Literal["auto", "cpu", "single", "ddp", "zero2", "zero3", "fsdp"]


class VLLM(Section):
    """Place of vLLM; read only if `grpo.use_vllm` or `evaluate.use_vllm` is true. TRL's names without `vllm_`."""

    mode: Literal["colocate", "server"] = "colocate"
    """Place of grpo's engine: `colocate` in the training processes, on their GPUs; `server` in a process on GPUs of its
    own. evaluate always uses a server, and starts one for each model."""
    gpus: list[int] = Field(default=[0])
    """CUDA numbers of the GPUs of a server that posttrain starts; empty for vLLM's CPU build, which can only
    evaluate."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one copy of the model: all of `gpus`. With `colocate` also training processes that do."""
    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    """Share of a GPU's memory for weights and cache: about 0.3 beside training, 0.9 on GPUs of its own."""
    max_model_length: int | None = Field(default=None, ge=2)
    """Tokens of prompt and completion for which there is room; null for the model's context length."""
    enable_sleep_mode: bool = False
    """Sleep of a colocated engine: its weights and cache leave the GPU while the optimizer works."""
    server_base_url: str | None = Field(
        default=None, pattern=r"^https?://[^/]+[^?#]*[^/?#]$", examples=["http://10.0.0.2:8000"]
    )
    """Address of a server that runs already, for grpo with `server`; it is used and not stopped. null starts one."""
    server_host: str = Field(default="127.0.0.1", pattern=r"^[\w\[:][\w.:\]%-]*$", examples=["0.0.0.0"])
    """Interface of a server that posttrain starts. Whoever reaches it can replace the model's weights."""
    server_port: int = Field(default=8000, ge=1, lt=2**16)
    """Port of a server that posttrain starts."""
    group_port: int = Field(default=51216, ge=1, lt=2**16)
    """Port over which grpo sends new weights to the server."""
    server_timeout: float = Field(default=600.0, gt=0)
    """Seconds until a server has to be ready: it loads the model and compiles."""
    python: str | None = None
    """Interpreter of the environment that the server runs in, such as .venv-vllm/bin/python; null for this one."""

    @field_validator("server_base_url")
    @classmethod
    def its_port_is_one(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).port == 0:
            raise ValueError("a port from 1")
        return url  # urlsplit has said what is wrong with others

    @property
    def starts_server(self) -> bool:
        """Whether a grpo that generates with vLLM starts a server for it."""
        return self.mode == "server" and self.server_base_url is None

    @model_validator(mode="after")
    def the_gpus_share_one_copy(self) -> "VLLM":
        if len(set(self.gpus)) != len(self.gpus) or any(gpu < 0 for gpu in self.gpus):
            raise ValueError(f"gpus {self.gpus}: each number once, from 0")
        if self.tensor_parallel_size != max(1, len(self.gpus)):
            raise ValueError(f"tensor_parallel_size {self.tensor_parallel_size} with gpus {self.gpus}: one for each")
        if self.server_port == self.group_port:
            raise ValueError(f"server_port and group_port are both {self.server_port}")
        return self


class Launch(Section):
    """Hardware, on which no stage depends. `POSTTRAIN_LAUNCH_<KEY>` stands in for a key on one machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains; `auto` is the GPU where there is one."""
    strategy: Strategy = "auto"
    """Way in which sft and grpo share the work between processes. `auto`: one process alone; zero2 on several GPUs, ddp
    in several CPU processes. `cpu` is one process on the CPU, `single` one on the device."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes of sft and of grpo, on all machines together. `auto` is one for each GPU; without GPUs two where
    both have cores for their `threads` and the strategy is `auto` or `ddp`, else one."""
    machines: int = Field(default=1, ge=1)
    """Machines that run the same command in the same folder, on a file system that they share."""
    machine_rank: int = Field(default=0, ge=0)
    """Number of this machine, from 0; set it by POSTTRAIN_LAUNCH_MACHINE_RANK."""
    main_address: str = Field(
        default="127.0.0.1:29500", pattern=r"^[\w.\-]+:\d+$|^\[[0-9a-fA-F:]+\]:\d+$", examples=["10.0.0.1:29500"]
    )
    """Host and port of machine 0, where several find each other. One machine takes a free port of its own."""
    mixed_precision: Literal["bf16"] | None = None
    """Precision of matrix work: `bf16`, or null for that of the weights. Under zero2 and zero3 bf16 makes the weights
    bfloat16 too, beside a float32 copy in the optimizer; under the others `model.dtype` is theirs."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Part that zero2 and zero3 keep in the machine's memory instead of the GPU's: optimizer states, or (zero3) weights
    too."""
    activation_checkpointing: bool = False
    """Recomputation of most activations in the backward pass: less memory, a third more work."""
    threads: int = Field(default=1, ge=0)
    """Threads of one process for matrix work; 0 leaves the choice to torch. Sums in another order differ in the
    last bits, so bit-equal runs need an equal count."""
    micro_batch_size: int = Field(default=64, ge=1)
    """Sequences per forward and backward pass, at most; the rest is gradient accumulation."""
    reward_workers: int = Field(default=2, ge=1)
    """Processes that verify answers and run your own rewards."""
    evaluate_timeout_s: int = Field(default=1800, ge=1)
    """Seconds after which a lighteval process is stopped; with vLLM also those for a batch of completions that
    evaluate or `grpo.difficulty` asks for."""
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[])
    """Trackers that sft, grpo and evaluate log to, in one run: docs/trackers.md. Their files go to .posttrain/logs/.
    Each is a package that you install. wandb sends what it gets to its servers unless WANDB_MODE=offline."""
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    """Seconds of sft and grpo between two checkpoints, which a killed run goes on from; 0 writes one after every step.
    Stretched where writing one takes more than 4 % of that. No checkpoint changes a byte of a result."""
    vllm: VLLM = VLLM()
    """Place of vLLM, key by key."""

    @field_validator("main_address")
    @classmethod
    def its_port_is_one(cls, address: str) -> str:
        if not 0 < int(address.rpartition(":")[2][:6]) < 2**16:
            raise ValueError("a host and a port below 65536")
        return address
