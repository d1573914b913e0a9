"""An axolotl plugin: train on a CPU with products in bf16 and weights in fp32, which axolotl's own keys cannot say.

    plugins: [smt_plugin.training.cpu_autocast.CpuAutocast]

axolotl knows that mixture as `bf16: true`, which transformers refuses on a machine without a GPU.
"""

from typing import Any

import torch

# Imported by axolotl alone, which has long been loaded then.
from axolotl.integrations.base import BasePlugin


class CpuAutocast(BasePlugin):  # type: ignore[misc]
    """Compute the loss under torch's autocast; on processors with AVX512-BF16 or AMX some three times as fast."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Wrap the trainer's loss; called by axolotl once the trainer is there."""
        trainer.compute_loss = torch.autocast("cpu", torch.bfloat16)(trainer.compute_loss)
