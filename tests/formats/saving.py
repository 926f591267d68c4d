"""Saves and loads distributed checkpoints in one process, with whatever torch is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any

from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


def save_alone(state: dict[str, Any], **place: Any) -> None:
    _alone(save, state, place)


def load_alone(state: dict[str, Any], **place: Any) -> None:
    _alone(load, state, place)


def _alone(act: Callable[..., object], state: dict[str, Any], place: dict[str, Any]) -> None:
    """Without a process group; torch before 2.7 has no word for that, and warns."""
    told = {"no_dist": True} if "no_dist" in signature(act).parameters else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is|TypedStorage is deprecated")
        act(state, **place, **told)
