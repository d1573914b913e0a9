"""Do weights move when they and their Adam moments are kept in bf16 alone, as axolotl 0.19 does under FSDP2?

    python benchmarks/bf16_weights.py        (CPU, about 3 minutes on one core; needs the `train` extra)

First it looks at what axolotl's own FSDP2 preparation leaves of a bf16 model: the dtype of the weights that the
optimizer gets. Then it trains the microworld's base model (a million parameters) on its own kind of text with AdamW at
the paper's learning rate, once with bf16 weights and moments, once with fp32 ones and a bf16 copy for the forward and
backward pass, as DeepSpeed does; and counts the weights that are bit for bit what they were, and the loss.
"""

import logging
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import smt_plugin
from smt_plugin.microworld import stream

MODEL = Path(smt_plugin.__file__).parent / "microworld" / "base_model"
STEPS, ROWS, LENGTH = 200, 2, 256
LEARNING_RATE, BETAS, WEIGHT_DECAY = 1e-5, (0.9, 0.999), 0.01


def weights_after_axolotls_fsdp2() -> set[torch.dtype]:
    """The dtypes that axolotl's replacement of accelerate's FSDP2 preparation leaves a bf16 model with.

    The accelerator is a stand-in with what that function reads: accelerate itself offers FSDP on GPUs alone.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from axolotl.monkeypatch.accelerate.fsdp2 import fsdp2_prepare_model

    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            cpu_ram_efficient_loading=False,
        )
        plugin.set_mixed_precision("bf16")
        accelerator = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin, device_mesh=None),
            device=torch.device("cpu"),
            is_main_process=True,
            mixed_precision="bf16",
        )
        model = fsdp2_prepare_model(accelerator, AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16))
        found = {weights.dtype for weights in model.parameters() if weights.requires_grad}
        torch.distributed.destroy_process_group()
    return found


def batches() -> list[torch.Tensor]:
    """Rows of the text that the base model was pretrained on, of another seed, twice over as the paper trains."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [row["text"] for row in stream.replay(1, 8_000) if "text" in row]
    tokens = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    size = ROWS * LENGTH
    assert len(tokens) >= STEPS // 2 * size, f"only {len(tokens)} tokens"
    return [torch.tensor(tokens[n * size : (n + 1) * size]).view(ROWS, LENGTH) for n in range(STEPS // 2)] * 2


def train(data: list[torch.Tensor], master: torch.dtype) -> tuple[float, float, float]:
    """Train with weights and moments in `master`; the share of weights that moved, and the loss before and after."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    copies = list(model.parameters())
    weights = copies if master is torch.bfloat16 else [copy.detach().to(master).requires_grad_() for copy in copies]
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    losses = []
    for tokens in data:
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        if master is not torch.bfloat16:
            for weight, copy in zip(weights, copies, strict=True):
                weight.grad, copy.grad = copy.grad.to(master), None
        optimizer.step()
        optimizer.zero_grad()
        if master is not torch.bfloat16:
            with torch.no_grad():
                for weight, copy in zip(weights, copies, strict=True):
                    copy.copy_(weight)
        losses.append(float(loss))
    moved = sum(int((weight != old).sum()) for weight, old in zip(weights, before, strict=True))
    tenth = STEPS // 10
    return moved / sum(old.numel() for old in before), sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print("weights under axolotl's FSDP2 with bf16:", weights_after_axolotls_fsdp2())
    data: Any = batches()
    for master in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        moved, first, last = train(data, master)
        print(
            f"{master}: {moved:.1%} of the weights moved in {STEPS} steps at {LEARNING_RATE:g}; "
            f"loss {first:.4f} in the first tenth, {last:.4f} in the last"
        )


if __name__ == "__main__":
    main()
