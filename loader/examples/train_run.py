"""Writes the checkpoints of one small training run, for `experiment=sweep_demo`: from epoch 1 to an overfitted one.

Guarantees: all randomness is seeded and one thread does the work, so that one machine always produces the same files.
A quarter of the labels is wrong on purpose, so that the network gets worse once it learns them by heart.

`python -m loader.examples.train_run [FOLDER]` writes them, by default into the package. It needs the `[examples]`
extra.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from .models import SimpleNet
from .train import Digits, load_digits

HIDDEN = 16
"""Width of the hidden layer; an eighth of that of the SimpleNet that `train` makes."""
_EPOCHS = (1, 2, 5, 10, 20, 30, 60, 120)
_HALF, _DAMAGED = 20, 40
"""The epochs that are also written in half precision, and written damaged."""
_IMAGES, _WRONG = 300, 0.25
_BATCH = 32
_SEED = 0


def noisy(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images ``[300, 784]`` and a label for each, a quarter of them drawn at random."""
    draw = torch.Generator().manual_seed(_SEED)
    images, labels = digits.images[:_IMAGES], digits.labels[:_IMAGES].clone()
    wrong = torch.rand(_IMAGES, generator=draw) < _WRONG
    labels[wrong] = torch.randint(10, (int(wrong.sum()),), generator=draw)
    return images, labels


def train(digits: Digits, epochs: int = max(_EPOCHS)) -> Iterator[tuple[int, int, SimpleNet]]:
    """Trains a small SimpleNet; yields epoch, steps so far and the model after each epoch."""
    images, labels = noisy(digits)
    torch.manual_seed(_SEED)
    model, step = SimpleNet(hidden_features=HIDDEN), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for epoch in range(1, epochs + 1):
        for batch in torch.split(torch.randperm(_IMAGES), _BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
        yield epoch, step, model


def checkpoint(model: SimpleNet, epoch: int, step: int, dtype: torch.dtype = torch.float32) -> bytes:
    """Returns the content of a checkpoint's file: the weights under ``model``, ``epoch`` and ``global_step``."""
    state = {name: value.detach().to(dtype) for name, value in model.state_dict().items()}
    content = io.BytesIO()
    torch.save({"model": state, "epoch": epoch, "global_step": step}, content)
    return content.getvalue()


def damaged(content: bytes) -> bytes:
    """Returns a file with one bit of its weights flipped, as a bad disk or a bad cable leaves it."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def write(folder: Path, digits: Digits) -> list[Path]:
    """Trains and writes the checkpoints; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for epoch, step, model in train(digits):
        name = f"epoch_{epoch:03}"
        if epoch in _EPOCHS:
            files[f"{name}.pt"] = checkpoint(model, epoch, step)
        if epoch == _HALF:
            files[f"{name}_half.pt"] = checkpoint(model, epoch, step, torch.float16)
        if epoch == _DAMAGED:
            files[f"{name}_damaged.pt"] = damaged(checkpoint(model, epoch, step))
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return [folder / file for file in files]


def main(arguments: list[str] | None = None) -> None:
    """Trains the model, writes its checkpoints and prints their paths."""
    parser = argparse.ArgumentParser(prog="python -m loader.examples.train_run", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "run", help="where to write")
    folder: Path = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    training, _ = load_digits()
    for path in write(folder, training):
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
