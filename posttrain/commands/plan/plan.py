"""One way to do the work on a machine: bytes of one GPU and seconds of one optimizer step, by formula.

The sources are ZeRO (arXiv:1910.02054), activation recomputation (arXiv:2205.05198), the estimators of DeepSpeed and
the code of TRL 1.16; docs/plan.md has the table of formulas and what they leave out.
"""

from dataclasses import dataclass, replace

from posttrain.commands.plan.machine import GIB, Machine, Strategy
from posttrain.commands.plan.model import Model
from posttrain.commands.plan.work import ADAPTER, PRECISIONS, Precision, Work

BUCKET = 5e8
"""Numbers in each of DeepSpeed's buckets: `reduce_bucket_size` and `allgather_bucket_size`."""
TILE_TOKENS, TILE_VOCAB = 4096, 32768
"""Tokens and words that TRL projects at a time (trl/kernels/chunked_logprob.py)."""
TILE_COPIES = 7
"""Float32 copies of such a tile of logits that its `_backward_tile` has at a time, where there is no Triton."""


@dataclass(frozen=True)
class Plan:
    """All that decides memory and time. Bytes are of one GPU, seconds of one optimizer step."""

    model: Model
    work: Work
    machine: Machine
    strategy: Strategy
    recompute: bool = False
    """Activations are computed again in the backward pass (`activation_checkpointing`)."""
    micro_batch: int = 1
    """Sequences per forward and backward pass of one GPU."""

    @property
    def own_sequences(self) -> int:
        """One GPU's sequences of a step."""
        return self.work.sequences // self.machine.gpus

    @property
    def passes(self) -> int:
        """Forward and backward passes of one GPU in a step."""
        return self.own_sequences // self.micro_batch

    @property
    def trained(self) -> int:
        """Parameters that have gradients."""
        return self.work.lora_rank * self.model.adapter if self.strategy.adapters else self.model.parameters

    @property
    def precision(self) -> Precision:
        """Bytes of a parameter that has gradients."""
        return ADAPTER if self.strategy.adapters else PRECISIONS[self.work.precision]

    @property
    def element(self) -> int:
        """Bytes of a weight, an activation or a key."""
        return PRECISIONS[self.work.precision].weights

    @property
    def model_bytes(self) -> int:
        return self.element * self.model.parameters

    # Memory that stays: ZeRO, section 3.1 and figure 1. P parameters on N GPUs in mixed precision take 2P + 2P + 12P;
    # ZeRO-2 divides gradients and optimizer states by N, ZeRO-3 all of it.

    def sharded(self, count: float, shards: bool) -> float:
        """One GPU's part; nothing of what is in the machine's memory."""
        if self.strategy.offloads:
            return 0.0
        return count / self.machine.gpus if shards else float(count)

    @property
    def offloaded(self) -> float:
        """Bytes of the machines' memory, of all GPUs: what stays on them otherwise, and the update's copies."""
        here = replace(self, strategy=replace(self.strategy, offloads=False))
        stays = here.weights + here.gradients + here.optimizer + here.reference + here.update
        return stays * self.machine.gpus if self.strategy.offloads else 0.0

    @property
    def weights(self) -> float:
        adapters = self.precision.weights * self.trained if self.strategy.adapters else 0
        return self.sharded(self.model_bytes + adapters, self.strategy.shards_weights)

    @property
    def gradients(self) -> float:
        return self.sharded(self.precision.gradients * self.trained, self.strategy.shards_optimizer)

    @property
    def optimizer(self) -> float:
        return self.sharded(self.precision.optimizer * self.trained, self.strategy.shards_optimizer)

    @property
    def reference(self) -> float:
        """A second model, unless there are adapters: TRL's reference is then the policy without them."""
        second = self.work.reference and not self.strategy.adapters
        return self.sharded(self.model_bytes, self.strategy.shards_weights) if second else 0.0

    @property
    def buffers(self) -> float:
        """Copies of all gradients, which DDP reduces (`gradient_as_bucket_view` is off); ZeRO's two buckets; and the
        largest layer, weights and gradient, which ZeRO-3 gathers, as in DeepSpeed's estimator."""
        if self.machine.gpus == 1 and not self.strategy.offloads:
            return 0.0
        if not self.strategy.shards_optimizer:
            return float(self.precision.gradients * self.trained)
        buckets = 2 * self.precision.gradients * min(BUCKET, self.trained)
        gathered = (self.element + self.precision.gradients) * self.model.largest_layer
        return buckets + (gathered if self.strategy.shards_weights else 0)

    # Memory of a phase: a forward and backward pass, generation, or the optimizer's update.

    @property
    def activations(self) -> float:
        tokens = self.micro_batch * self.work.length
        return float(tokens * self.model.activations(self.element, self.recompute))

    @property
    def logits(self) -> float:
        """Tiles of them, float32 gradients of the completions' hidden states and, where the output layer trains, of its
        weights: TRL 1.16. All at once: logits, their log-softmax and their gradient, float32."""
        work, vocab, hidden = self.work, self.model.vocab, self.model.hidden
        if work.full_logits:
            return 3.0 * 4 * self.micro_batch * work.max_completion_length * vocab
        triton = self.machine.triton
        tokens = self.micro_batch * (work.max_completion_length if triton else work.length)
        copies = self.element + (0 if triton else 4 * TILE_COPIES)
        tile = min(tokens, TILE_TOKENS) * min(vocab, TILE_VOCAB) * copies
        return tile + 4.0 * tokens * hidden + (0 if self.strategy.adapters else 4.0 * vocab * hidden)

    @property
    def token_cache(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.element * self.model.layers * self.model.key_values

    @property
    def kv_cache(self) -> int:
        """Keys and values of a GPU's whole share of the step, which transformers generates at once."""
        return self.token_cache * self.own_sequences * self.work.length

    @property
    def vllm_memory(self) -> float:
        """What vLLM takes of each of its GPUs, whatever the model: it fills its share with KV cache."""
        return self.work.gpu_memory_utilization * self.machine.memory_gib * GIB

    @property
    def kv_cache_completions(self) -> int:
        """Completions of full length that one vLLM has KV cache for at a time; the others wait."""
        free = self.vllm_memory * self.work.tensor_parallel_size - self.model_bytes
        return max(0, int(free // (self.token_cache * self.work.length)))

    @property
    def generation(self) -> float:
        """KV cache and the last token's logits, twice in float32; under ZeRO-3 all weights, which TRL gathers for
        transformers (`ds3_gather_for_generation`) and hands to vLLM tensor by tensor."""
        if self.work.vllm == "colocate":
            return self.vllm_memory
        if self.work.vllm == "server" or not self.work.generates:
            return 0.0
        gathered = self.model_bytes * (1 - 1 / self.machine.gpus) if self.strategy.shards_weights else 0
        return self.kv_cache + 2 * 4 * self.own_sequences * self.model.vocab + gathered

    @property
    def update(self) -> float:
        """A GPU's gradients in float32 while DeepSpeed's optimizer steps: 4P / N, the difference between the 18 bytes a
        parameter of its estimators and the 14 of weights, gradients and optimizer. None where gradients are float32."""
        copies = self.strategy.shards_optimizer and self.precision.gradients < 4
        return self.sharded(4 * self.model.parameters, True) if copies else 0.0

    @property
    def total(self) -> float:
        """What stays, and the largest phase. A vLLM that does not sleep stays too."""
        stays = self.weights + self.gradients + self.optimizer + self.reference + self.buffers + self.machine.reserve
        training = max(self.activations + self.logits, self.update)
        if self.work.vllm_beside_training:
            return stays + training + self.generation
        return stays + max(training, self.generation)

    @property
    def fits(self) -> bool:
        return self.total <= self.machine.memory_gib * GIB

    # Time.

    @property
    def forward_s(self) -> float:
        """Python's part of a forward pass of transformers."""
        return self.machine.pass_s + self.machine.layer_s * self.model.layers

    def operations_s(self, operations: int) -> float:
        """So many operations a parameter and token, over whole sequences; attention's own are left out."""
        tokens = self.work.sequences * self.work.length
        return operations * self.model.parameters * tokens / (self.machine.gpus * self.machine.flops)

    @property
    def training_s(self) -> float:
        """6 operations a parameter and token (arXiv:2001.08361, section 2.1), 4 where the weights are frozen, and 2
        more to recompute."""
        operations = (4 if self.strategy.adapters else 6) + 2 * self.recompute
        return self.operations_s(operations) + self.passes * (3 + self.recompute) * self.forward_s

    @property
    def scoring_s(self) -> float:
        """2 operations a parameter and token for the reference, and for the old log-probabilities where a batch is used
        more than once; TRL takes those of the update otherwise."""
        scored = self.work.reference + (self.work.num_iterations > 1)
        return self.operations_s(2 * scored) + scored * self.passes * self.forward_s

    @property
    def generation_s(self) -> float:
        """Token by token: each reads all weights and the cache, half full on the way, or computes 2 operations a
        parameter and sequence, whichever is longer.

        transformers generates a GPU's whole share at once; vLLM as many as it has KV cache for, and the next as one
        ends. A server is sent all weights before.
        """
        work, machine, vllm = self.work, self.machine, self.work.vllm != "no"
        if not work.generates:
            return 0.0
        gpus = work.tensor_parallel_size if vllm else 1
        prompt, completion = work.prompt_length, work.max_completion_length
        sequences = work.sequences / (1 if work.server_gpus else max(1, machine.gpus // gpus))
        together = min(sequences, max(1, self.kv_cache_completions)) if vllm else sequences
        read = self.model_bytes + self.token_cache * together * (prompt + completion / 2)
        reads_s = read / (machine.efficiency * machine.bandwidth * gpus)
        computes_s = 2 * self.model.parameters * together / (machine.flops * gpus)
        token_s = max(reads_s, computes_s) + (0 if vllm else self.forward_s)
        sent_s = self.model_bytes / (machine.efficiency * machine.link) if work.server_gpus else 0.0
        return sent_s + sequences / together * (computes_s * prompt + completion * token_s)

    @property
    def communication_s(self) -> float:
        """ZeRO, section 7: 2P a step for DDP; for ZeRO-2 P a pass (gradients) and P a step (weights); for ZeRO-3 3P a
        pass, and P a generation. Nothing is hidden behind computation."""
        each = 3 if self.strategy.shards_weights else 1
        volume = each * self.passes + 1 if self.strategy.shards_optimizer else 2
        moved = self.model.parameters if self.strategy.shards_weights else self.trained
        sent = volume * moved * self.element * (1 - 1 / self.machine.gpus)
        return sent / (self.machine.efficiency * self.machine.link)

    @property
    def step_s(self) -> float:
        """One optimizer step. Generation and scoring are shared by the steps that use one batch."""
        once = self.generation_s + self.scoring_s
        return once / self.work.num_iterations + self.training_s + self.communication_s

    @property
    def gpu_hours(self) -> float:
        """All steps, a server's GPUs among them."""
        return self.step_s * self.work.max_steps * (self.machine.gpus + self.work.server_gpus) / 3600
