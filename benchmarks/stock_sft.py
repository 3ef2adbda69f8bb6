"""SFT with stock TRL, as a user writes it: one SFTTrainer on prompts and completions.

Reads   models/sft (to begin at), data/prepared/sft.* and the hyperparameters of params.yaml in the working folder
Writes  phases.json
Run     python benchmarks/stock_sft.py THREADS
"""

import sys
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from phases import Phases
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from posttrain.outputs.rows import read_rows


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    sft = params["sft"]
    rows = read_rows(Path("data/prepared"), "sft")
    same = ("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained("models/sft"),
        args=SFTConfig(
            output_dir="stock",
            seed=params["seed"],
            per_device_train_batch_size=sft["batch_size"],
            max_length=sft["max_length"],
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=sft["logging_steps"],
            include_num_input_tokens_seen="non_padding",
            **{name: sft[name] for name in same},
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row["problem"]}],
                    "completion": [{"role": "assistant", "content": row["completion"]}],
                }
                for row in rows
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained("models/sft"),
    )
    Phases(trainer, Path("phases.json"))
    trainer.train()


if __name__ == "__main__":
    main(int(sys.argv[1]))
