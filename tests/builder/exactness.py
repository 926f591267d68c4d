"""The law of the hollow build: with every key assigned it is the plain build with its state loaded, bit for bit."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors

from loader.builder import Built, build_model

Construct = Callable[[], nn.Module]


def built(construct: Construct, *, hollow: bool = True) -> Built:
    return build_model({"_target_": construct}, seed=3, hollow=hollow)


def plain(construct: Construct) -> nn.Module:
    """The naive way, which everything is measured against."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        return construct()


def other_values(module: nn.Module) -> dict[str, Tensor]:
    """A checkpoint for a module: values unlike its own, the same under the names of a tied tensor."""
    made: dict[int, Tensor] = {}
    generator = torch.Generator().manual_seed(11)
    values = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_sparse:
            values[name] = tensor.detach().clone()
        elif not is_lazy(tensor):
            noise = 3 * torch.rand(tensor.shape, generator=generator)
            value = torch.empty_like(tensor, requires_grad=False).copy_(noise)  # with its strides, which sums depend on
            values[name] = made.setdefault(tensor.untyped_storage().data_ptr(), value)
    return values


def load_plainly(module: nn.Module, values: dict[str, Tensor]) -> None:
    missing, unexpected = module.load_state_dict(values, strict=False)
    assert not unexpected
    assert all(is_lazy(module.state_dict(keep_vars=True)[name]) for name in missing)


def assign(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Gives every tensor of a state dict its value without copying, keeping its identity wherever torch lets us."""
    done: set[int] = set()
    for owner_name, owner in module.named_modules():
        tensors = [*owner._parameters.items(), *owner._buffers.items()]
        for name, old in tensors:
            key = f"{owner_name}.{name}" if owner_name else name
            if old is None or key not in values or id(old) in done:
                continue
            new: Tensor = values[key].clone()
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            new.__dict__.update(old.__dict__)
            kind = type(old)
            if weakref.getweakrefs(old):
                setattr(owner, name, new)
            else:
                swap_tensors(old, new)  # type: ignore[no-untyped-call]
                old.__class__ = kind
            done.add(id(owner._parameters.get(name, owner._buffers.get(name))))


def assert_same(left: Any, right: Any, where: str) -> None:
    assert type(left) is type(right), where
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype, where
        assert left.device == right.device, where
        assert left.requires_grad == right.requires_grad, where
        assert left.__dict__ == right.__dict__, where
        if is_lazy(left):
            return
        assert torch.equal(left.to_dense(), right.to_dense()), where
    elif isinstance(left, nn.Module):
        assert_same_module(left, right, where)
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key}]")
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right), where
    elif isinstance(left, (bool, int, float, str)):
        assert left == right, where


def assert_same_module(left: nn.Module, right: nn.Module, where: str = "") -> None:
    """Everything that a module holds: parameters, buffers of both kinds, and attributes."""
    names = [name for name, _ in left.named_modules()]
    assert names == [name for name, _ in right.named_modules()], where
    for name in names:
        a, b = vars(left.get_submodule(name)), vars(right.get_submodule(name))
        for key in a.keys() - {"_modules", "_flat_weight_refs"}:
            if "hooks" not in key:
                assert_same(a[key], b[key], f"{where}{name}.{key}")


def ties(module: nn.Module) -> list[list[str]]:
    """Which names stand for one tensor, and which for one memory."""
    groups: dict[object, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
        if not is_lazy(tensor) and not tensor.is_sparse:
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return sorted(groups.values())


def assert_exact(construct: Construct, inputs: tuple[Any, ...] | None) -> Built:
    expected = plain(construct)
    values = other_values(expected)
    load_plainly(expected, values)
    result = built(construct)
    if result.hollow:
        assign(result.module, values)
    else:
        load_plainly(result.module, values)
    assert_same_module(result.module, expected)
    assert ties(result.module) == ties(expected)
    if inputs is not None:
        torch.manual_seed(5)
        ours = result.module(*inputs)
        torch.manual_seed(5)
        assert_same(ours, expected(*inputs), "output")
    return result
