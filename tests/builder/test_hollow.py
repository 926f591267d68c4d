from __future__ import annotations

import copy
import functools
import random
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from loader.builder import Built
from loader.builder.hollow import build_hollow, seeded
from tests.builder import zoo, zoo_plain
from tests.builder.exactness import Construct, assert_exact, assert_same_module, built, plain
from tests.command import run
from tests.laws import examples
from tests.libraries import library


@pytest.mark.parametrize("construct", zoo.HOLLOW, ids=lambda c: c.__name__)
def test_a_hollow_model_with_every_key_assigned_is_the_plain_one_with_its_state_loaded(construct: Construct) -> None:
    result = assert_exact(construct, zoo.HOLLOW[construct])
    assert (result.hollow, result.reason) == (True, "")


@pytest.mark.parametrize("construct", zoo_plain.PLAIN, ids=lambda c: c.__name__)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_model_that_hollow_cannot_be_exact_for_is_built_plainly_and_says_why(construct: Construct) -> None:
    result = assert_exact(construct, None)
    assert not result.hollow
    assert zoo_plain.PLAIN[construct] in result.reason


@pytest.mark.parametrize("construct", zoo.HOLLOW, ids=lambda c: c.__name__)
def test_every_parameter_of_a_hollow_model_is_on_meta_and_no_unsaved_buffer_is(construct: Construct) -> None:
    module = built(construct).module
    assert all(parameter.is_meta or is_lazy(parameter) for parameter in module.parameters())
    for owner in module.modules():
        for name in owner._non_persistent_buffers_set:
            assert not owner.get_buffer(name).is_meta


@pytest.mark.parametrize("construct", [*zoo.HOLLOW, *zoo_plain.PLAIN], ids=lambda c: c.__name__)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_building_leaves_every_random_state_as_it_was(construct: Construct) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    built(construct)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the random kernels that run, and the values that are written into real memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("construct", [c for c in zoo.HOLLOW if c is not zoo.Chance], ids=lambda c: c.__name__)
def test_no_initialiser_runs_in_a_hollow_build(construct: Construct) -> None:
    with Draws() as plainly:
        plain(construct)
    with Draws() as hollow:
        build_hollow(construct)
    assert hollow.names == []
    assert plainly.names or construct is zoo.lazy


PIECES = [
    lambda: nn.Linear(4, 4),
    lambda: nn.LayerNorm(4),
    lambda: nn.Dropout(0.1),
    zoo.Copies,
    zoo.Rotary,
    zoo.SavedNoise,
    zoo.Initialised,
    zoo.OwnParameter,
    zoo_plain.UnsavedNoise,
    zoo_plain.NumberOfChance,
    zoo_plain.PartOfAWeight,
    zoo.Chance,
    zoo.parametrized,
]


@st.composite
def compositions(draw: st.DrawFn, depth: int = 2) -> Construct:
    """Constructors of random nests of the pieces, some of them deep copies, some the same module twice."""
    if depth == 0:
        return draw(st.sampled_from(PIECES))
    inner = draw(st.lists(compositions(depth - 1), min_size=1, max_size=3))
    twice = draw(st.booleans())

    def construct() -> nn.Module:
        modules = [make() for make in inner]
        return nn.Sequential(*modules, *modules[:1] * twice)

    return construct


@settings(deadline=None, max_examples=examples(60))
@given(compositions())
def test_whatever_a_model_is_made_of_the_result_is_exact(construct: Construct) -> None:
    result = assert_exact(construct, None)
    needs_plain = {zoo_plain.UnsavedNoise, zoo_plain.NumberOfChance, zoo_plain.PartOfAWeight}
    assert result.hollow == needs_plain.isdisjoint({type(module) for module in result.module.modules()})


def test_a_model_that_another_thread_builds_meanwhile_is_real_and_its_own() -> None:
    inside, done = threading.Event(), threading.Event()
    others: list[nn.Module] = []

    def other() -> None:
        inside.wait(10)
        others.append(nn.Linear(4, 4))
        done.set()

    def construct() -> nn.Module:
        model = nn.Linear(4, 4)
        inside.set()
        done.wait(10)
        return model

    thread = threading.Thread(target=other)
    thread.start()
    result = built(construct)
    thread.join()
    weight = others[0].get_parameter("weight")
    assert not weight.is_meta
    assert weight.std() > 0
    assert result.module.get_parameter("weight").is_meta == result.hollow


def test_builds_in_many_threads_do_not_disturb_each_other() -> None:
    results: list[tuple[Construct, Built]] = []
    constructs = [zoo.linear, zoo_plain.UnsavedNoise, zoo.Rotary, zoo_plain.NumberOfChance] * 3
    threads = [threading.Thread(target=lambda c=c: results.append((c, built(c)))) for c in constructs]
    before = torch.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(before, torch.get_rng_state())
    assert len(results) == len(constructs)
    for construct, result in results:
        assert result.hollow == (construct in zoo.HOLLOW)
        if not result.hollow:
            assert_same_module(result.module, plain(construct))


def modes() -> int:
    return torch._C._len_torch_function_stack()


def test_nothing_stays_patched_after_an_exception() -> None:
    def construct() -> nn.Module:
        nn.Linear(2, 2)
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        build_hollow(construct)
    assert not modes()
    assert not nn.Linear(2, 2).weight.is_meta
    assert torch.randn(3).abs().sum() > 0


def test_an_interruption_passes() -> None:
    def construct() -> nn.Module:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(construct)
    assert not modes()


def test_a_constructor_that_writes_into_a_leaf_is_refused_by_torch_as_ever() -> None:
    def construct() -> nn.Module:
        layer = nn.Linear(2, 2)
        layer.weight.normal_()
        return layer

    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        build_hollow(construct)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_is_not_touched() -> None:
    resident = _resident_bytes()

    def construct() -> nn.Module:
        layer = nn.Linear(16_000, 16_000)
        return nn.Sequential(layer, *(copy.deepcopy(layer) for _ in range(3))).half()

    module = built(construct).module
    assert sum(p.numel() for p in module.parameters()) > 10**9
    assert _resident_bytes() - resident < 10**8


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def optional_models() -> Iterator[Any]:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
    for name, extra in {
        "BertModel": {"vocab_size": 99},
        "LlamaForCausalLM": {"vocab_size": 99},
        "ViTModel": {},
        "DebertaV2Model": {"vocab_size": 99},
        "Wav2Vec2Model": {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
    }.items():
        yield pytest.param("transformers", name, {**small, **extra}, id=name)
    for name in ("resnet18", "vit_tiny_patch16_224", "hiera_tiny_224", "swinv2_cr_tiny_224", "convnext_atto"):
        yield pytest.param("timm", name, {}, id=name)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "name", "arguments"), [*optional_models()])
@pytest.mark.filterwarnings("ignore")
def test_models_of_other_libraries_are_built_hollow_and_exactly(
    package: str, name: str, arguments: dict[str, Any]
) -> None:
    models = library(package)
    if package == "timm":
        construct = functools.partial(models.create_model, name)
    else:
        kind = getattr(models, name)
        construct = functools.partial(kind, kind.config_class(**arguments))
    assert assert_exact(construct, None).hollow


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_a_seed_gives_the_same_numbers_and_the_states_are_put_back() -> None:
    seed_all()
    expected = draws()
    seed_all()
    found = []
    for seed in (7, 7, 2**40):
        with seeded(seed):
            found.append(draws())
    assert found[0] == found[1] != found[2]
    with pytest.raises(KeyError), seeded(7):
        raise KeyError
    assert draws() == expected


def test_a_process_whose_numpy_is_blocked_does_without(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["numpy"] = None
import torch
from loader.builder.hollow import seeded
with seeded(0):
    drawn = torch.rand(())
print(torch.equal(drawn, torch.rand((), generator=torch.Generator().manual_seed(0))))
"""
    assert run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path).stdout == "True\n"
