"""A file in a published layout is recognized by its names; the number that no shape shows is never chosen."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader.examples import TinyLlama
from loader.suggest.tensors.proposed import DOUBT
from tests.jobs import save
from tests.keys.rules.test_moves_of_libraries import meta_llama

State = dict[str, torch.Tensor]


class Saying(TinyLlama):
    """Says the size of its heads, as transformers' modules do."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.model.get_submodule("layers").children():
            layer.get_submodule("self_attn").head_dim = 4  # type: ignore[assignment]


class Holding(nn.Module):
    """Has Llama as a part."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Saying()


def llama() -> State:
    torch.manual_seed(0)
    return dict(TinyLlama().state_dict())


def job(name: str, *overrides: str) -> list[str]:
    return [f"model._target_=tests.suggest.test_published.{name}", "device=cpu", "verify.forward=false", *overrides]


def refused(overrides: list[str]) -> Any:
    with pytest.raises(loader.LoaderError) as refusal:
        loader.load(overrides)
    assert refusal.value.exit_code == 4
    return refusal.value


@pytest.mark.parametrize("key", [None, "model"])
def test_the_size_is_that_of_the_models_heads(key: str | None, tmp_path: Path) -> None:
    right = llama()
    path = save(meta_llama(right) if key is None else {key: meta_llama(right)}, tmp_path / "file.pth")
    own = job("Saying", f"checkpoint.path={path}")

    error = refused(own)

    assert "21 of 21 keys would be loaded this way: " in error.message
    assert (
        "the file has the names of Llama as Meta publishes it; d is half the size of a head, which is 4"
        in error.message
    )
    line = "'rules=[llama_meta]' rules.rope.axes.d=2"
    assert error.hint == f"{f'checkpoint.key={key} ' if key else ''}{line}   # {DOUBT}"
    state = loader.load([*own, *shlex.split(error.hint, comments=True)]).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in right.items())


def test_a_size_that_the_model_does_not_say_is_left_blank(tmp_path: Path) -> None:
    own = job("TinyLlama", f"checkpoint.path={save(meta_llama(llama()), tmp_path / 'file.pth')}")

    error = refused(own)

    assert error.hint == f"'rules=[llama_meta]' 'rules.rope.axes.d=…'   # {DOUBT}"
    assert error.message.endswith("d is half the size of a head")


@pytest.mark.parametrize("name", ["Saying", "TinyLlama"])
def test_auto_refuses_and_offers(name: str, tmp_path: Path) -> None:
    path = save(meta_llama(llama()), tmp_path / "file.pth")

    error = refused(job(name, f"checkpoint.path={path}", "rules=auto", "checkpoint.key=auto"))

    assert "fits only in a way that" in error.message
    assert error.hint.startswith("checkpoint.key=null 'rules=[llama_meta]' ")
    assert f"rules.rope.axes.d={2 if name == 'Saying' else '…'}" in error.hint
    assert error.hint.endswith(DOUBT)


def test_the_line_of_a_part_names_its_rules(tmp_path: Path) -> None:
    right = llama()
    path = save(meta_llama(right), tmp_path / "file.pth")
    own = job("Holding", f"parts={{net: {{path: {path}}}}}")

    error = refused(own)

    assert error.hint.startswith("'parts.net.rules={rope: {rearrange: ")
    assert error.hint.endswith(DOUBT)
    state = loader.load([*own, *shlex.split(error.hint, comments=True)]).model.state_dict()
    assert all(torch.equal(state[f"net.{name}"], value) for name, value in right.items())


@pytest.mark.parametrize("gone", ["tok_embeddings.weight", "layers.1.ffn_norm.weight"])
def test_a_file_without_one_of_the_tensors_is_not_taken_for_the_layout(gone: str, tmp_path: Path) -> None:
    state = {name: value for name, value in meta_llama(llama()).items() if name != gone}

    error = refused(job("Saying", f"checkpoint.path={save(state, tmp_path / 'file.pth')}"))

    assert "llama_meta" not in (error.hint or "")
