"""Writes folders of DeepSpeed as its ZeRO optimizers lay them out, for known weights."""

from __future__ import annotations

import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

State = Mapping[str, torch.Tensor]


@contextmanager
def deepspeed_classes() -> Iterator[tuple[Any, Any]]:
    """Classes under the names that DeepSpeed's files mention; they are gone again when the files are read."""

    class ZeroStageEnum(int, enum.Enum):
        optimizer_states = 1
        gradients = 2
        weights = 3

    class LossScaler:
        def __init__(self) -> None:
            self.cur_scale = 1.0

    classes = {"deepspeed.runtime.zero.config": ZeroStageEnum, "deepspeed.runtime.fp16.loss_scaler": LossScaler}
    modules = [".".join(name.split(".")[:depth]) for name in classes for depth in range(1, 5)]
    sys.modules.update({name: types.ModuleType(name) for name in modules})
    for module, made in classes.items():
        made.__module__, made.__qualname__ = module, made.__name__
        setattr(sys.modules[module], made.__name__, made)
    try:
        yield ZeroStageEnum, LossScaler
    finally:
        for module in set(modules):
            del sys.modules[module]


@dataclass
class Run:
    """What was trained, and how it was split."""

    groups: Sequence[State]
    """The trained parameters in float32, by parameter group."""
    stage: int = 2
    processes: int = 2
    buffers: State = field(default_factory=dict)
    frozen: State = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    """bf16_ for what DeepSpeed's bfloat16 optimizer writes."""
    sub_groups: int = 1
    """Into how many flat tensors stage 3 divides a process's shares; each holds shares of whole parameters."""
    aligned: int = 1
    """Parameters of stages 1 and 2 begin at multiples of this many elements."""

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with deepspeed_classes() as (stage, scaler):
            for rank in range(self.processes):
                states = self._optimizer(rank, stage(self.stage), scaler())
                torch.save(states, folder / f"{self.prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        for rank in range(self.processes if self.stage == 3 else 1):
            ranked = f"zero_pp_rank_{rank}_" if self.stage == 3 else ""
            torch.save(self._model(rank), folder / f"{ranked}mp_rank_00_model_states.pt")
        return folder

    def states(self, name: str) -> dict[str, Any]:
        """What stands in one of the files, without DeepSpeed's own classes."""
        rank = int(name.partition("zero_pp_rank_")[2].partition("_")[0] or 0)
        return self._optimizer(rank, self.stage, None) if name.endswith("_optim_states.pt") else self._model(rank)

    def _model(self, rank: int) -> dict[str, Any]:
        trained = {name: value.bfloat16() for group in self.groups for name, value in group.items()}
        frozen = {name: value.bfloat16() for name, value in self.frozen.items()}
        names = {**trained, **frozen}
        module = OrderedDict({**(names if self.stage < 3 else {}), **self.buffers})
        fragments = {name: self._share(value, rank) for name, value in frozen.items()} if self.stage == 3 else frozen
        return {
            "module": module,
            "buffer_names": list(self.buffers),
            "param_shapes": [
                OrderedDict((name, value.shape) for name, value in group.items()) for group in self.groups
            ],
            "frozen_param_shapes": {name: value.shape for name, value in self.frozen.items()} or None,
            "frozen_param_fragments": fragments or None,
            "shared_params": dict(self.shared),
            "ds_version": "0.19.8",
            "global_steps": 3,
        }

    def _optimizer(self, rank: int, stage: Any, scaler: Any) -> dict[str, Any]:
        flat = [self._partition(group, rank) for group in self.groups]
        state: dict[str, Any] = {
            "loss_scaler": scaler,
            "zero_stage": stage,
            "partition_count": [self.processes] * len(self.groups) if self.stage < 3 else self.processes,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.full((4096,), 0.5)}}, "param_groups": []},
        }
        if self.stage < 3:
            state["single_partition_of_fp32_groups"] = flat
            if self.aligned > 1:
                state["param_alignment_paddings"] = [
                    [-value.numel() % self.aligned for value in group.values()] for group in self.groups
                ]
        else:
            shares = [self._share(value, rank) for group in self.groups for value in group.values()]
            size = -(-len(shares) // self.sub_groups)
            state["fp32_flat_groups"] = [torch.cat(shares[i : i + size]) for i in range(0, len(shares), size)]
        return {"optimizer_state_dict": state, "ds_version": "0.19.8", "ds_config": {}}

    def _partition(self, group: State, rank: int) -> torch.Tensor:
        parts = [torch.nn.functional.pad(v.flatten(), (0, -v.numel() % self.aligned)) for v in group.values()]
        vector = torch.cat(parts)
        vector = torch.nn.functional.pad(vector, (0, -vector.numel() % (2 * self.processes)))
        return vector.chunk(self.processes)[rank].clone()

    def _share(self, value: torch.Tensor, rank: int) -> torch.Tensor:
        padded = torch.nn.functional.pad(value.flatten(), (0, -value.numel() % self.processes))
        return padded.chunk(self.processes)[rank].clone()
