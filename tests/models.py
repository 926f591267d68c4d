"""Tiny models, one for each thing that makes loading hard; configs name them as `tests.models.…`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Two(nn.Module):
    """Two layers of one shape, so that their weights can be taken for each other."""

    def __init__(self, activation: str = "relu", bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=bias)
        self.second = nn.Linear(4, 4, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = getattr(torch, self.activation)(self.first(x))
        result: Tensor = self.second(hidden)
        return result


class Pair(nn.Module):
    """A backbone and a head that is one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Two()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.backbone(x))
        return result


class Tied(nn.Module):
    """An embedding whose matrix is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embed(tokens))
        return result


class Buffers(nn.Module):
    """A persistent buffer, one that is not saved, and a plain tensor attribute."""

    saved: Tensor
    computed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("saved", torch.zeros(3))
        self.register_buffer("computed", torch.arange(3.0), persistent=False)
        self.plain = torch.full((3,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x) + self.saved + self.computed * self.plain
        return result


class Scalars(nn.Module):
    """A parameter and a buffer without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Extra(nn.Module):
    """Extra state: whatever `state` is, beside a parameter."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.norm = nn.BatchNorm1d(2) if norm else nn.Identity()
        self.state: Any = None

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        if isinstance(state, Mapping) and state.get("version") == "bad":
            raise ValueError("version bad is too old")
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x * self.weight)
        return result


class Lazy(nn.Module):
    """Layers that take their input size from the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LazyLinear(4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x))
        return result


class WeightNormed(nn.Module):
    """The parametrized weight norm, which also loads the old names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


class Normed(nn.Module):
    """A batch norm, which has versions, behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.linear(x))
        return result


class Nested(nn.Module):
    """Submodules called `my_module` and `module`, which a careless prefix rule mixes up."""

    def __init__(self) -> None:
        super().__init__()
        self.my_module = nn.Linear(2, 2)
        self.inner = nn.ModuleDict({"module": nn.Linear(2, 2)})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner["module"](self.my_module(x))
        return result


class Arguments(nn.Module):
    """Keeps its constructor's arguments."""

    def __init__(self, sizes: list[int], options: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.given = (sizes, options, dtype)
        self.linear = nn.Linear(sizes[0], sizes[1], dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


class Typed(nn.Module):
    """One parameter and one buffer of any dtype and size."""

    def __init__(self, dtype: str = "float32", size: int = 3) -> None:
        super().__init__()
        kind: torch.dtype = getattr(torch, dtype)
        learns = kind.is_floating_point or kind.is_complex
        self.weight = nn.Parameter(torch.zeros(2, size, dtype=kind), requires_grad=learns)
        self.register_buffer("count", torch.zeros(size, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return x


class HalfTrained(nn.Linear):
    """Stays in training mode, whatever is asked of it."""

    def train(self, mode: bool = True) -> HalfTrained:
        super().train(True)
        return self


class Hollowed(nn.Linear):
    """Keeps a tensor without data where no state dict sees it."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.cache = torch.empty(2, device="meta")


class KeepsOwn(nn.Linear):
    """Brings its own value for a key that old files lack."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.scale = nn.Parameter(torch.rand(2))
        self.register_load_state_dict_pre_hook(_bring_scale)  # type: ignore[no-untyped-call]


def _bring_scale(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    state.setdefault(f"{prefix}scale", module.get_parameter("scale"))


class Refusing(nn.Linear):
    """Its hooks take exception to a file: before, while or after it is loaded."""

    def __init__(self, when: str = "before") -> None:
        super().__init__(2, 2)
        if when == "before":
            self.register_load_state_dict_pre_hook(_refuse)  # type: ignore[no-untyped-call]
        else:
            self.register_load_state_dict_post_hook(_refuse)  # type: ignore[no-untyped-call]


def _refuse(*_: object) -> None:
    raise RuntimeError("this file is too old")


class Behaving(nn.Linear):
    """Its forward pass does what it is told to: raise, exit, give nothing, nan, or a kind of output."""

    def __init__(self, how: str = "well") -> None:
        super().__init__(2, 2)
        self.how = how

    def forward(self, x: Tensor) -> Any:
        result = super().forward(x)
        if self.how == "raise":
            raise ValueError("cannot broadcast\nsecond line")
        if self.how == "exit":
            sys.exit(3)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        return _OUTPUTS[self.how](result)


_OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "well": lambda x: x,
    "nothing": lambda x: {"loss": None},
    "nan": lambda x: x * float("nan"),
    "nested": lambda x: {"logits": x, "aux/loss": (x.sum(), [x > 0])},
    "complex": lambda x: torch.complex(x, x),
    "imaginary": lambda x: torch.complex(x, -x),
    "conjugate": lambda x: torch.complex(x, x).conj(),
    "sparse": lambda x: x.to_sparse(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "empty": lambda x: x[:0],
}


class TwoInputs(nn.Module):
    """Takes a batch and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.dtype is not torch.bool:
            raise TypeError(f"mask is {mask.dtype}")
        result: Tensor = self.linear(x * mask)
        return result


class Noisy(nn.Linear):
    """Draws random numbers in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1)


def two_models() -> nn.ModuleDict:
    """Two models that know nothing of each other."""
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 1)})


def filled(module: nn.Module, seed: int = 1) -> nn.Module:
    """Gives every floating parameter and buffer values of its own, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator).add(0.1))
    return module
