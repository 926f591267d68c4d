"""Trains the SimpleNet that the package ships, on scikit-learn's handwritten digits scaled to 28 × 28.

Guarantees: all randomness is seeded and one thread does the work, so that one machine always produces the same weights;
the recorded accuracy was measured on images that training never saw, and those are written as well.

`python -m loader.examples.train [FOLDER]` writes the weights, their golden record and the unseen digits, by default
into the package. It needs the `[examples]` extra.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from .data import FILE, enlarged
from .models import SimpleNet

_EPOCHS = 60
_BATCH = 64
_SEED = 0
_TEST_IMAGES = 360


@dataclass(frozen=True, slots=True)
class Digits:
    """Images ``[n, 784]`` with values between 0 and 1, the digit of each, ``[n]``, and the images as they came."""

    images: torch.Tensor
    labels: torch.Tensor
    small: torch.Tensor
    """``[n, 8, 8]``, uint8, with values from 0 to 16."""


def load_digits(test_images: int = _TEST_IMAGES) -> tuple[Digits, Digits]:
    """Returns the digits for training and for testing, split at random by a fixed seed."""
    from sklearn.datasets import load_digits as load  # noqa: PLC0415 (an optional extra, and slow to import)

    raw = load()
    small, labels = torch.tensor(raw.images, dtype=torch.uint8), torch.tensor(raw.target, dtype=torch.int64)
    images = enlarged(small)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    train, test = order[test_images:], order[:test_images]
    return Digits(images[train], labels[train], small[train]), Digits(images[test], labels[test], small[test])


def train(digits: Digits, epochs: int = _EPOCHS) -> SimpleNet:
    """Trains a new SimpleNet and returns it in eval mode."""
    torch.manual_seed(_SEED)
    model = SimpleNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(digits.labels)), _BATCH):
            loss = nn.functional.cross_entropy(model(digits.images[batch]), digits.labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: SimpleNet, digits: Digits) -> float:
    """Returns the fraction of the digits that the model classifies correctly."""
    right = model(digits.images).argmax(1) == digits.labels
    return int(right.sum()) / len(digits.labels)


@torch.no_grad()
def golden_record(model: SimpleNet, digits: Digits) -> dict[str, torch.Tensor]:
    """Returns the first image of each digit, and the model's logits for it."""
    firsts = torch.stack([(digits.labels == digit).nonzero()[0, 0] for digit in range(10)])
    images = digits.images[firsts].contiguous()
    return {"input.0": images, "output.0": model(images)}


def write(folder: Path, model: SimpleNet, digits: Digits) -> Path:
    """Writes the weights and, next to them, their golden record and the digits; returns the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "simple_net.safetensors"
    about = {
        "format": "pt",
        "architecture": "loader.examples.SimpleNet",
        "data": "scikit-learn load_digits, bilinear to 28 x 28, values 0 to 1",
        "test_images": str(len(digits.labels)),
        "test_accuracy": f"{accuracy(model, digits):.4f}",
        "torch": torch.__version__,
    }
    save_file(model.state_dict(), path, metadata=about)
    golden = {"format": "hydra-loader-golden", "schema": "1", "torch": torch.__version__, "dtype": "float32"}
    save_file(golden_record(model, digits), folder / f"{path.name}.golden.safetensors", metadata=golden)
    write_digits(folder / FILE.name, digits)
    return path


def write_digits(path: Path, digits: Digits) -> None:
    """Writes digits as `data.UnseenDigits` reads them."""
    tensors = {"images": digits.small.contiguous(), "labels": digits.labels.to(torch.uint8)}
    save_file(tensors, path, metadata={"data": "scikit-learn load_digits, never trained on", "split_seed": str(_SEED)})


def main(arguments: list[str] | None = None) -> None:
    """Trains the model, writes it and prints its accuracy."""
    parser = argparse.ArgumentParser(prog="python -m loader.examples.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(__file__).parent / "weights", help="where to write"
    )
    folder: Path = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    training, test = load_digits()
    model = train(training)
    path = write(folder, model, test)
    sys.stdout.write(f"{path}: {accuracy(model, test):.2%} of {len(test.labels)} test images right\n")


if __name__ == "__main__":
    main()
