"""The architectures of the example files.

Guarantees: parameter names and shapes never change, because users have files with them.
"""

from __future__ import annotations

import torch
from torch import nn

from .tiny import TinyBert, TinyGPT2, TinyLlama, TinyViT

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


class SimpleNet(nn.Module):
    """A classifier of flattened images: linear, relu, linear.

    Args:
        in_features: Pixels of one image.
        hidden_features: Width of the hidden layer.
        out_features: Number of classes.
    """

    def __init__(self, in_features: int = 784, hidden_features: int = 128, out_features: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images ``[n, in_features]`` to logits ``[n, out_features]``."""
        hidden = torch.relu(self.fc1(x))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


class LinearModel(nn.Module):
    """One linear layer.

    Args:
        in_features: Size of one input.
        out_features: Size of one output.
    """

    def __init__(self, in_features: int = 10, out_features: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, in_features]`` to ``[n, out_features]``."""
        result: torch.Tensor = self.linear(x)
        return result


class CustomLayer(nn.Module):
    """A linear layer followed by a sigmoid.

    Args:
        in_features: Size of one input.
        out_features: Size of one output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, in_features]`` to ``[n, out_features]``, each value between 0 and 1."""
        return torch.sigmoid(self.linear(x))


class CustomModel(nn.Module):
    """A model with a layer of its own: CustomLayer, then linear.

    Args:
        in_features: Size of one input.
        hidden_features: Width of the custom layer.
        out_features: Size of one output.
    """

    def __init__(self, in_features: int = 64, hidden_features: int = 128, out_features: int = 10) -> None:
        super().__init__()
        self.custom = CustomLayer(in_features, hidden_features)
        self.fc = nn.Linear(hidden_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, in_features]`` to ``[n, out_features]``."""
        result: torch.Tensor = self.fc(self.custom(x))
        return result
