"""How much memory lm-eval takes without a GPU to look for a batch size (`auto`), and with a given one.

The model is a random Llama with a byte-level tokenizer. What counts is its context and its vocabulary, the rows of its
embedding that no token of the tokenizer uses included.

    python benchmarks/batch_size_memory.py --context 1024 --vocabulary 8000
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smt_plugin.assets import asset_dir

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.tiny_llama import MICROWORLD_LIKE, make_tokenizer


def make_model(folder: Path, context: int, vocabulary: int) -> float:
    """Write a model into the folder, and return its size in MB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch-sizes", nargs="+", default=["8", "auto"], help="from the smallest need of memory on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tokenizer(Path(folder) / "model", MICROWORLD_LIKE)
        size = make_model(model, options.context, options.vocabulary)
        print(f"a model of {size:.1f} MB, context {options.context}, vocabulary {options.vocabulary}")
        print("| batch size | peak memory, MiB | seconds |\n| --- | --- | --- |")
        for batch_size in options.batch_sizes:
            command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
            command += ["--model_args", f"pretrained={model},enable_thinking=False", "--apply_chat_template"]
            command += ["--include_path", str(asset_dir("lm_eval_tasks")), "--tasks", "microworld_smt", "--limit", "1"]
            command += ["--gen_kwargs", "max_gen_toks=8", "--batch_size", batch_size]
            begun = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - begun
            # The largest of all children so far.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"| {batch_size} | {peak:,.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
