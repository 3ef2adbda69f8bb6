"""`model.lora`: sft and grpo train small matrices beside the weights (LoRA, arXiv:2106.09685) instead of the weights.

Adapters are merged before anything is published, so models/sft and models/grpo are plain checkpoints either way. A new
adapter starts as zero, so the reference of GRPO's KL divergence is the SFT model: the policy with its adapter off.
"""

import difflib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel

from posttrain.errors import InputError
from posttrain.params.schema import Lora, Params
from posttrain.training.install import install
from posttrain.training.models import DTYPES, load_model

PREFIX, BASE = "base_model.model.", ".base_layer.weight"
"""What PEFT puts before the name of every weight, and at the end of one that has an adapter."""


def adapter_config(params: Params) -> LoraConfig | None:
    """What TRL takes as `peft_config`; None trains all weights."""
    lora = params.model.lora
    if lora is None:
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def quantization(params: Params) -> BitsAndBytesConfig | None:
    """NF4 with double quantization, as QLoRA (arXiv:2305.14314) has it; None keeps the weights whole.

    Raises: InputError without a GPU or without bitsandbytes.
    """
    if params.model.lora is None or not params.model.lora.quantize_4bit:
        return None
    if params.launch.device == "cpu" or not torch.cuda.is_available():
        raise InputError(
            "params.yaml: model.lora.quantize_4bit",
            got="true, on a machine where torch uses no CUDA device",
            wanted="a CUDA GPU, whose kernels bitsandbytes brings",
            do="set it to false, which trains the same adapters on whole weights",
        )
    if find_spec("bitsandbytes") is None:
        raise InputError(
            "params.yaml: model.lora.quantize_4bit",
            got="true, and no package bitsandbytes",
            wanted="bitsandbytes in this environment",
            do=install("bitsandbytes"),
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[params.model.dtype],
    )


def loading(params: Params) -> dict[str, Any]:
    """Keyword arguments for loading or making a trainer, empty without quantization."""
    config = quantization(params)
    return {} if config is None else {"quantization_config": config}


def check_targets(model: PreTrainedModel, params: Params) -> None:
    """peft is content if one of several names is found.

    Raises: InputError for a name that no linear layer of the model has.
    """
    lora = params.model.lora
    if lora is None or isinstance(lora.target_modules, str):
        return
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name in lora.target_modules:
        if name.rpartition(".")[2] not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                "params.yaml: model.lora.target_modules",
                got=name,
                wanted=f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(sorted(known))}",
                do="change model.lora.target_modules, or use all-linear",
            )


def merged(model: Any, base: str, params: Params, folder: Path) -> PreTrainedModel:
    """The trained model without adapters: their product is added to the weights that they belong to.

    `base` is what was trained, loaded anew where its weights were quantized: rounded weights are not published.
    """
    lora = params.model.lora
    if lora is None:
        return model
    if lora.quantize_4bit:
        model.save_pretrained(folder / "adapter")
        device = model.device
        model = PeftModel.from_pretrained(load_model(base, params.model), folder / "adapter").to(device)
    plain: PreTrainedModel = model.merge_and_unload()
    return plain


def merged_weights(weights: dict[str, torch.Tensor], lora: Lora) -> dict[str, torch.Tensor]:
    """Weights under the names of the model without adapters, from those under PEFT's: W + alpha / r * B A."""
    found = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(BASE):
            stem = name.removesuffix(BASE)
            down, up = (weights[f"{stem}.lora_{letter}.default.weight"] for letter in "AB")
            value = value + (lora.alpha / lora.r * (up.float() @ down.float())).to(value.dtype)
        found[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = value
    return found
