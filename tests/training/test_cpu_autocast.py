from types import SimpleNamespace

import torch

from smt_plugin.training.cpu_autocast import CpuAutocast


def test_products_of_the_loss_are_in_bf16_and_weights_and_gradients_stay_in_fp32() -> None:
    layer = torch.nn.Linear(4, 4)
    seen = []

    def compute_loss(inputs: torch.Tensor) -> torch.Tensor:
        product = layer(inputs)
        seen.append(product.dtype)
        return product.float().sum()

    trainer = SimpleNamespace(compute_loss=compute_loss)
    CpuAutocast().post_trainer_create(None, trainer)
    trainer.compute_loss(torch.ones(2, 4)).backward()
    assert seen == [torch.bfloat16]
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
