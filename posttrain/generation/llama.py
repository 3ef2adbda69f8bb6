"""The decoder of Llama, Qwen2 and Qwen3, a step of which is written out: half of the calls of their own `forward`.

Prompts go through the model's own `forward`. In the steps after that, attention is products with keys that lie
transposed, and completions of a prompt share its keys and values. Logits are those of `forward` up to rounding.

Shapes: N completions, P prompts with G completions each, K heads of keys with R heads of queries each, D dimensions,
T tokens of prompts, E of completions. Where prompts have different numbers of completions or one each, a completion
counts as a prompt: G is 1, and what is remembered of a completion begins with the prompt.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedModel

from posttrain.generation.cache import ROOM
from posttrain.generation.decoder import Decoder

KINDS = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
TRL = "trl.trainer.utils"
"""Where its LM head for training is: its name, since to import it takes seconds that generation can do without."""
FIXED_ROPE = {"default", "linear", "llama3", "yarn"}
"""Rotations that do not change with the length of the text."""


def is_written_out(model: PreTrainedModel) -> bool:
    """One of these models, without sliding windows, whole on one device, nothing wrapped around it or its layers but
    TRL's LM head for training."""
    config = model.config
    if type(model).__name__ not in KINDS or config.hidden_act != "silu":
        return False
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    spread = len({weight.device for weight in model.parameters()}) > 1
    partitioned = any(weight.numel() == 0 for weight in model.parameters())  # ZeRO-3, and nobody has gathered it
    hooked = any(hasattr(part, "_hf_hook") for part in model.modules())
    wrapped = "forward" in vars(model) and not has_trls_head(model)
    wrapped |= any(type(layer).__module__ != type(model).__module__ for layer in model.model.layers)
    whole = not (sliding or spread or partitioned or hooked or wrapped)
    return whole and config.rope_parameters["rope_type"] in FIXED_ROPE


def has_trls_head(model: PreTrainedModel) -> bool:
    """What `add_fused_lm_head` puts there computes with labels only as it is asked to, else by the model's own."""
    function = getattr(vars(model)["forward"], "__func__", None)
    return getattr(function, "__globals__", {}).get("__name__") == TRL


class LlamaDecoder(Decoder):
    def go_on(self, cache: DynamicCache, rows_N: torch.Tensor, limit: int) -> None:
        counts_P = rows_N.bincount()
        self.group = int(counts_P[0]) if bool((counts_P == counts_P[0]).all()) else 1
        self.memories = [Memory(layer.keys, layer.values, rows_N, self.group, limit) for layer in cache.layers]
        self.hidden: torch.Tensor | None = None
        """Minus infinity at the padding of prompts."""
        if self.mask_NT is not None:
            prompts_PT = self.mask_NT[:: self.group, : self.length]
            hidden_PT = torch.zeros(prompts_PT.shape, dtype=self.logits_NV.dtype, device=rows_N.device)
            self.hidden = hidden_PT.masked_fill_(prompts_PT == 0, -torch.inf)[:, None, None, None]
        positions = torch.arange(int(self.positions_N1.max()) + limit, device=rows_N.device)
        cos, sin = self.model.model.rotary_emb(self.logits_NV, positions[None])
        first, second = sin[0, :, None].chunk(2, -1)
        self.cos, self.sin = cos[0, :, None], torch.cat((-first, second), -1)  # the sign of the half that is rotated

    @torch.inference_mode()
    def step(self, tokens_N: torch.Tensor) -> torch.Tensor:
        body = self.model.model
        cos, sin = self.cos[self.positions_N1[:, 0]], self.sin[self.positions_N1[:, 0]]
        x = body.embed_tokens(tokens_N)
        for layer, memory in zip(body.layers, self.memories, strict=True):
            attended = self.attend(layer.self_attn, memory, norm(layer.input_layernorm, x), cos, sin)
            x = x + layer.self_attn.o_proj(attended)
            y = norm(layer.post_attention_layernorm, x)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(y)).mul_(layer.mlp.up_proj(y)))
        self.logits_NV = self.model.lm_head(norm(body.norm, x))
        self.positions_N1 = self.positions_N1 + 1
        return self.logits_NV

    def attend(
        self, part: Any, memory: "Memory", x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        size = part.head_dim
        queries, keys, values = (
            project(x).view(len(x), -1, size) for project in (part.q_proj, part.k_proj, part.v_proj)
        )
        if hasattr(part, "q_norm"):
            queries, keys = norm(part.q_norm, queries), norm(part.k_norm, keys)
        turned = torch.cat((queries, keys), 1)
        turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        queries, keys = turned.split((queries.shape[1], keys.shape[1]), 1)
        shape = (len(x) // self.group, self.group, values.shape[1])
        memory.add(keys.unflatten(0, shape[:2]).transpose(1, 2), values.unflatten(0, shape[:2]).transpose(1, 2))
        queries = (queries * part.scaling).view(*shape, -1, size).transpose(1, 2)
        return memory.attend(queries, self.hidden).transpose(1, 2).reshape(len(x), -1)

    def keep(self, rows_N: torch.Tensor) -> None:
        for memory in self.memories:
            memory.keep(rows_N)
        self.positions_N1 = self.positions_N1[rows_N]
        self.hidden = None if self.hidden is None else self.hidden[rows_N // self.group]
        self.group = 1


def norm(part: Any, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], part.weight, part.variance_epsilon)


class Memory:
    """Keys (P, K, G, D, E) and values (P, K, G, E, D) of a layer, in buffers with room for more; prompts by themselves
    where they are shared."""

    def __init__(
        self, keys_PKTD: torch.Tensor, values_PKTD: torch.Tensor, rows_N: torch.Tensor, group: int, limit: int
    ) -> None:
        self.group, self.limit = group, limit
        keys, values = keys_PKTD.transpose(2, 3), values_PKTD
        if group == 1:
            self.prompt_length, self.filled = 0, keys.shape[-1]
            self.hold(keys[rows_N][:, :, None], values[rows_N][:, :, None])
        else:
            self.prompt_keys, self.prompt_values = keys.contiguous(), values.contiguous()
            self.prompt_length, self.filled = keys.shape[-1], 0
            none = [prompts[:, :, None].expand(-1, -1, group, -1, -1) for prompts in (keys, values)]
            self.hold(none[0][..., :0], none[1][..., :0, :])

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """These, in buffers with room for more."""
        room = min(self.limit, max(ROOM, self.filled // 2))
        self.keys = keys.new_empty((*keys.shape[:-1], self.filled + room))
        self.values = values.new_empty((*values.shape[:-2], self.filled + room, values.shape[-1]))
        self.keys[..., : self.filled], self.values[..., : self.filled, :] = keys, values

    def add(self, keys_PKGD: torch.Tensor, values_PKGD: torch.Tensor) -> None:
        if self.filled == self.keys.shape[-1]:
            self.hold(self.keys, self.values)
        self.keys[..., self.filled], self.values[..., self.filled, :] = keys_PKGD, values_PKGD
        self.filled += 1

    def attend(self, queries_PKGRD: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        scores = queries_PKGRD @ self.keys[..., : self.filled]
        shared = self.prompt_length
        if shared:
            on_prompt = queries_PKGRD.flatten(2, 3) @ self.prompt_keys
            scores = torch.cat((on_prompt.unflatten(2, queries_PKGRD.shape[2:4]), scores), -1)
        if hidden is not None:
            scores[..., : hidden.shape[-1]] += hidden
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        attended = weights[..., shared:] @ self.values[..., : self.filled, :]
        if shared:
            from_prompt = weights[..., :shared].flatten(2, 3) @ self.prompt_values
            attended += from_prompt.unflatten(2, queries_PKGRD.shape[2:4])
        return attended

    def keep(self, rows_N: torch.Tensor) -> None:
        """These completions, of whatever prompts: each with its own copy of the prompt."""
        prompt_N, place_N = rows_N // self.group, rows_N % self.group
        keys = self.keys[prompt_N, :, place_N, :, : self.filled]
        values = self.values[prompt_N, :, place_N, : self.filled]
        if self.prompt_length:
            keys = torch.cat((self.prompt_keys[prompt_N], keys), -1)
            values = torch.cat((self.prompt_values[prompt_N], values), -2)
        self.filled += self.prompt_length
        self.group, self.prompt_length = 1, 0
        self.hold(keys[:, :, None], values[:, :, None])
