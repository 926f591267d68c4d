"""Metrics for classifiers, as functions of a prediction and a target.

Guarantees: each returns one number per sample, so that a mean over any batches is the same and has a standard error;
``higher_is_better`` says which of two values is the better one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

_Metric = TypeVar("_Metric", bound=Callable[..., torch.Tensor])


def _better(*, higher: bool) -> Callable[[_Metric], _Metric]:
    """Marks a metric with its direction."""

    def mark(metric: _Metric) -> _Metric:
        vars(metric)["higher_is_better"] = higher
        return metric

    return mark


@_better(higher=True)
def accuracy(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns 1 for each sample whose largest logit is its target's, else 0.

    Args:
        prediction: Logits ``[n, classes, …]``.
        target: Classes ``[n, …]``, integers; with more than one dimension, a sample gets the mean of its elements.
    """
    right = (prediction.argmax(1) == target).to(torch.float32)
    return right.flatten(1).mean(1) if right.dim() > 1 else right


@_better(higher=False)
def cross_entropy(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the cross entropy of each sample, in nats.

    Args:
        prediction: Logits ``[n, classes, …]``.
        target: Classes ``[n, …]``, integers, or probabilities in the shape of the logits.
    """
    loss = nn.functional.cross_entropy(prediction, target, reduction="none")
    return loss.flatten(1).mean(1) if loss.dim() > 1 else loss
