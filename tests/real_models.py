"""The architectures of some published checkpoints, told from their keys, their shapes and their descriptions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu, softmax

_CHANNELS = (1, 128, 16, 16, 16, 32, 64)


class CrepeTiny(nn.Module):
    """CREPE's smallest pitch tracker: frames of 1024 samples to 360 pitch bins."""

    def __init__(self) -> None:
        super().__init__()
        for block in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if block == 1 else ((64, 1), (1, 1))
            given, made = _CHANNELS[block - 1 : block + 1]
            self.add_module(f"conv{block}", nn.Conv2d(given, made, kernel, stride))
            self.add_module(f"conv{block}_BN", nn.BatchNorm2d(made, eps=0.0010000000474974513))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for block in range(1, 7):
            margins = (254, 254) if block == 1 else (31, 32)
            x = relu(self.get_submodule(f"conv{block}")(pad(x, (0, 0, *margins))))
            x = max_pool2d(self.get_submodule(f"conv{block}_BN")(x), (2, 1), (2, 1))
        x = x.permute(0, 2, 1, 3).reshape(-1, 256)
        return torch.sigmoid(self.classifier(x))


class ProposalNet(nn.Module):
    """MTCNN's first stage: where in an image faces may be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = max_pool2d(self.prelu1(self.conv1(images)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), softmax(self.conv4_1(x), dim=1)


class RefinementNet(nn.Module):
    """MTCNN's second stage: which of the proposals are faces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = nn.PReLU(28)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = nn.PReLU(48)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = nn.PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = max_pool2d(self.prelu1(self.conv1(images)), 3, 2, ceil_mode=True)
        x = max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu4(self.dense4(x))
        return self.dense5_2(x), softmax(self.dense5_1(x), dim=1)


class PerceptualWeights(nn.Module):
    """What DISTS learnt: how much texture and structure of each feature count."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(1, 1475, 1, 1))
        self.beta = nn.Parameter(torch.randn(1, 1475, 1, 1))

    def forward(self, texture: Tensor, structure: Tensor) -> Tensor:
        total = self.alpha.sum() + self.beta.sum()
        return 1 - (texture * self.alpha + structure * self.beta).sum(1) / total
