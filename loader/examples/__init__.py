"""Small models, and real checkpoint files of them, to try the loader on.

Guarantees: importing this package does not import torch; a model's class is imported on first access, so that
`loader.examples.SimpleNet` works both as a `_target_` and in an import statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import CustomLayer, CustomModel, LinearModel, SimpleNet, TinyBert, TinyGPT2, TinyLlama, TinyViT

__all__ = [
    "CustomLayer",
    "CustomModel",
    "LinearModel",
    "SimpleNet",
    "TinyBert",
    "TinyGPT2",
    "TinyLlama",
    "TinyViT",
]

COMMAND = f"python -m {__name__}"
"""The command that writes the example files; its argument is the folder."""

EXAMPLE_FILES: Mapping[str, str] = MappingProxyType(
    {
        "simple_net.pth": "SimpleNet, a plain state dict",
        "simple_net_cuda.pth": "the same, saved from a GPU",
        "simple_net_ddp.pth": "the same, half of its keys under `module.`",
        "my_model.pth": "a whole pickled model of standard layers",
        "my_own_model.pth": "a whole pickled model whose class is in the user's own module",
        "training_checkpoint.pth": "weights under `model_state_dict`, with epoch and optimizer state",
        "linear_model.pth": "LinearModel, a plain state dict",
        "custom_model.pth": "CustomModel, a plain state dict",
        "two_models.pth": "two models, under `modelA_state_dict` and `modelB_state_dict`",
    }
)
"""File name → content, in the README's order."""

TENSOR_FILES: Mapping[str, str] = MappingProxyType(
    {
        "tiny_gpt2.safetensors": "GPT-2 as transformers writes it, with transposed weights (Conv1D)",
        "tiny_llama.pth": "Llama as Meta writes it: other names, and another order of rotary coordinates",
        "tiny_bert.safetensors": "BERT with a vocabulary of 16 tokens",
        "tiny_bert_lora/adapter_model.safetensors": "a PEFT adapter (LoRA) for it",
        "tiny_fp8.safetensors": "LinearModel in float8, with a scale for each block",
        "tiny_epoch_1.pt": "LinearModel after its first epoch",
        "tiny_epoch_2.pt": "after its second",
        "tiny_epoch_3.pt": "after its third",
        "tiny_vit.safetensors": "a vision transformer for images of 16 × 16 pixels",
    }
)
"""File name → content, of files whose tensors differ from the model's, in the order of docs/examples.md."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import models  # noqa: PLC0415 (keeps torch out until a model is accessed)

    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
