"""GRPO with stock TRL, as a user writes it: one GRPOTrainer, rewards that math-verify decides one after the other.

Reads   models/sft, data/prepared/train.jsonl and the hyperparameters of params.yaml in the working folder
Writes  phases.json
Run     python benchmarks/stock_grpo.py THREADS
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from math_verify import parse, verify
from phases import Phases
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORM = re.compile(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)


def texts(completions: list[Any]) -> list[str]:
    return [completion[0]["content"] for completion in completions]


def accuracy(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    answers = [text.rpartition("<answer>")[2].partition("</answer>")[0] for text in texts(completions)]
    return [float(verify(parse(f"${gold}$"), parse(f"${said}$"))) for gold, said in zip(answer, answers, strict=True)]


def form(completions: list[Any], **_: Any) -> list[float]:
    return [float(FORM.fullmatch(text) is not None) for text in texts(completions)]


def tag_count(completions: list[Any], **_: Any) -> list[float]:
    return [sum(text.count(tag) == 1 for tag in TAGS) / len(TAGS) for text in texts(completions)]


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    grpo, micro_batch = params["grpo"], params["launch"]["micro_batch_size"]
    batch = grpo["prompts_per_step"] * grpo["num_generations"]
    same = ("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm")
    sampled = ("num_generations", "max_completion_length", "temperature", "top_p", "beta", "epsilon", "loss_type")
    with Path("data/prepared/train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    text = params["prompts"]["system"]
    system = [{"role": "system", "content": text}] if text else []
    trainer = GRPOTrainer(
        model="models/sft",
        reward_funcs=[accuracy, form, tag_count],
        args=GRPOConfig(
            output_dir="stock",
            seed=params["seed"],
            per_device_train_batch_size=min(batch, micro_batch),
            gradient_accumulation_steps=max(1, batch // micro_batch),
            reward_weights=[1.0, 0.1, 0.05],
            scale_rewards=grpo["scale_rewards"],
            model_init_kwargs={"dtype": params["model"]["dtype"]},
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            include_num_input_tokens_seen="all",
            **{name: grpo[name] for name in (*same, *sampled)},
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": [*system, {"role": "user", "content": row["problem"]}], "answer": row["answer"]}
                for row in rows
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained("models/sft"),
    )
    Phases(trainer, Path("phases.json"))
    trainer.train()


if __name__ == "__main__":
    main(int(sys.argv[1]))
