"""How many of the positions that a training computes are real tokens?

    python benchmarks/packing.py --questions run/records/synthetic_qa.jsonl --documents run/records/focal_rewrite.jsonl

Mixes the given records (1:1 by tokens, or as --weights say) with a tokenizer of 32K entries trained on them, writes
the config of `smt mix`, and iterates over one epoch of the batches that axolotl's own trainer makes: as the shipped
config says, and as axolotl does without packing. Only what a CPU cannot do is changed. Prints a Markdown table.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from smt_plugin.config import MixSection
from smt_plugin.files import read_jsonl
from smt_plugin.mixing.mix import mix_run
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.shipped import read_config

SPECIALS = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|finetune_right_pad_id|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
)
# What a CPU cannot do, and nothing else. Flash attention packs a batch into one row, which is why it is said here.
CPU = {
    "bf16": False,
    "fp16": False,
    "tf32": False,
    "attn_implementation": "sdpa",
    "multipack_real_batches": False,
    "optimizer": "adamw_torch",
    "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None,
    "use_cpu": True,
}
GPU_ONLY = ("deepspeed", "fsdp_config", "fsdp_version", "plugins")
UNPACKED = {"sample_packing": False, "pad_to_sequence_len": None, "multipack_real_batches": None}


def make_model(folder: Path, texts: list[str]) -> None:
    """Write a tokenizer trained on the texts and a random Llama for it."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=32_000, show_progress=False, initial_alphabet=alphabet)
    )
    rust.add_special_tokens(SPECIALS)
    begin = (SPECIALS[0], rust.token_to_id(SPECIALS[0]))
    rust.post_processor = processors.TemplateProcessing(single=f"{SPECIALS[0]} $A", special_tokens=[begin])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[4],
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=rust.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def batches_of(config: Path) -> tuple[list[int], list[int], int]:
    """One epoch of axolotl's own batches on one device: positions and real tokens of each, and tokens in the data."""
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets
    from axolotl.train import setup_model_and_trainer

    cfg = load_cfg(str(config))
    data = load_datasets(cfg=cfg)
    trainer: Any = setup_model_and_trainer(cfg, data)[0]
    positions, real = [], []
    for batch in trainer.get_train_dataloader():
        positions.append(batch["input_ids"].numel())
        real.append(int((batch["input_ids"] != trainer.processing_class.pad_token_id).sum()))
    return positions, real, sum(map(len, data.train_dataset["input_ids"]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="JSONL with `messages` in each line")
    parser.add_argument("--documents", type=Path, required=True, help="JSONL with `text` in each line")
    parser.add_argument("--weights", type=float, nargs=2, default=(1.0, 1.0), metavar=("QUESTIONS", "DOCUMENTS"))
    parser.add_argument("--config", default="llama-3.1-8b/full", help="of a Llama 3, shipped")
    arguments = parser.parse_args()
    shipped = read_config(arguments.config)
    length = shipped["sequence_len"]
    texts = [row["text"] for _, row in read_jsonl(arguments.documents)]
    texts += [turn["content"] for _, row in read_jsonl(arguments.questions) for turn in row["messages"]]
    with TemporaryDirectory() as folder:
        run, model = Path(folder) / "run", Path(folder) / "model"
        # What axolotl prints goes to stderr, so that stdout is the table.
        with contextlib.redirect_stdout(sys.stderr):
            make_model(model, texts)
            sources = {"questions": arguments.questions, "documents": arguments.documents}
            shares = dict(zip(sources, arguments.weights, strict=True))
            settings = MixSection(
                tokenizer=str(model),
                shares=shares,
                sources=sources,
                replay_share=0,
                near_duplicates=1,
                sequence_len=length,
            )
            manifest = mix_run(run, settings)
            rows = sum(file["rows"] for file in manifest["files"].values())
            lines = []
            overlay = {**CPU, **dict.fromkeys(GPU_ONLY), **{key: None for key in shipped if key.startswith("liger_")}}
            for what, changes in ((f"`{arguments.config}`, as shipped", {}), ("axolotl's unpacked default", UNPACKED)):
                path = write_axolotl_config(run, arguments.config, str(model), {**overlay, **changes})
                positions, real, tokens = batches_of(path)
                lines.append(
                    f"| {what} | {shipped['micro_batch_size']} x {length} | {len(positions):,} | {sum(positions):,} "
                    f"| {sum(real):,} | {sum(real) / sum(positions):.2%} | {sum(real[:-1]) / sum(positions[:-1]):.2%} "
                    f"| {tokens - sum(real):,} |"
                )
    print(f"{rows:,} texts, {manifest['tokens']:,} tokens, {manifest['tokens'] / rows:.0f} a text\n")
    print(
        "| batches | micro-batch | batches an epoch | positions | real tokens | share | without the last batch "
        "| tokens left out |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
