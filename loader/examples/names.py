"""The names of the example files; light, so that an error message can name them without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COMMAND = "python -m loader.examples"
"""What writes the example files; takes the folder."""

EXAMPLE_FILES: Mapping[str, str] = MappingProxyType(
    {
        "simple_net.pth": "SimpleNet, a plain state dict",
        "simple_net_cuda.pth": "the same, saved from a GPU",
        "simple_net_ddp.pth": "the same, half of its keys under `module.`",
        "my_model.pth": "a whole pickled model of standard layers",
        "my_own_model.pth": "a whole pickled model whose class is in a module of the user's own",
        "training_checkpoint.pth": "weights under `model_state_dict`, epoch and optimizer state beside them",
        "linear_model.pth": "LinearModel, a plain state dict",
        "custom_model.pth": "CustomModel, a plain state dict",
        "two_models.pth": "two models, under `modelA_state_dict` and `modelB_state_dict`",
    }
)
"""File name and what is in it, in the order in which the README shows them."""
