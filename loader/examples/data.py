"""The handwritten digits that the shipped weights were never trained on.

Guarantees: the images are exactly those on which the recorded accuracy was measured; they come from a small file in the
package, so that measuring needs nothing to be installed or downloaded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

FILE = Path(__file__).parent / "weights" / "digits.safetensors"
"""``images`` ``[360, 8, 8]`` with values from 0 to 16, and ``labels`` ``[360]``, both uint8; written by `train`."""


def enlarged(images: torch.Tensor) -> torch.Tensor:
    """Returns images ``[n, 8, 8]`` with values from 0 to 16 as inputs ``[n, 784]`` with values from 0 to 1."""
    small = images.to(torch.float32).unsqueeze(1) / 16
    return nn.functional.interpolate(small, size=(28, 28), mode="bilinear").flatten(1)


class UnseenDigits(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The 360 digits: images ``[784]``, each with its label, an int64."""

    def __init__(self) -> None:
        tensors = load_file(FILE)
        self.images = enlarged(tensors["images"])
        self.labels = tensors["labels"].to(torch.int64)

    def __len__(self) -> int:
        """Returns the number of digits."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns an image and its label."""
        return self.images[index], self.labels[index]
