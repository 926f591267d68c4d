"""What is loaded is read again: for its identity, and to compare it with the model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import loader
from loader import ConfigError, VerificationError, load_into, load_model
from loader.text.lines import line
from loader.verify.rereading import _samples
from tests.command import run_loader
from tests.jobs import carry_out, save, target
from tests.laws import examples
from tests.models import Extra, Two, WeightNormed, filled

VERIFY = {"forward": False}


def mark(model: Any, path: Path, **job: Any) -> str:
    found = carry_out(model, path, **job).report.verification.fingerprint
    assert found is not None
    assert len(found) == 32
    return found


def test_the_fingerprint_does_not_depend_on_the_container(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    plain = save(state, tmp_path / "two.pth")
    expected = mark("Two", plain)
    save_file(state, tmp_path / "two.safetensors")
    assert mark("Two", plain, checkpoint={"mmap": False}) == expected
    assert mark("Two", save(state, tmp_path / "legacy.pth", legacy=True)) == expected
    assert mark("Two", tmp_path / "two.safetensors") == expected
    assert mark("Two", tmp_path / "two.safetensors", checkpoint={"mmap": False, "check": "structure"}) == expected
    nested = save({"deep": {"state": state}, "epoch": 1}, tmp_path / "nested.pth")
    assert mark("Two", nested, checkpoint={"key": "deep.state"}) == expected
    prefixed = save({f"module.{key}": value for key, value in state.items()}, tmp_path / "ddp.pth")
    assert mark("Two", prefixed, rules={"ddp": {"strip": "module."}}) == expected
    assert load_into(Two(), state, verify=VERIFY).verification.fingerprint == expected
    assert load_into(Two().double(), plain, verify=VERIFY).verification.fingerprint == expected


def test_the_fingerprint_is_that_of_the_weights_alone(tmp_path: Path) -> None:
    path = save(filled(Two(), 1).state_dict(), tmp_path / "one.pt")
    expected = mark("Two", path)
    assert mark("Two", path, seed=1, verify={"input": {"shape": [3, 4]}}) == expected
    assert mark(target("Two", activation="tanh"), path) == expected
    assert mark("Two", path, dtype="bfloat16") == mark("Two", path, dtype="float64") == expected
    assert mark("Two", save(filled(Two(), 2).state_dict(), tmp_path / "two.pt")) != expected
    half = save({key: value.half() for key, value in filled(Two(), 1).state_dict().items()}, tmp_path / "half.pt")
    assert mark("Two", half) != expected


def test_threads_do_not_change_it(tmp_path: Path) -> None:
    state = {"weight": torch.randn(1000, 900), "bias": torch.randn(1000)}
    path, node = (
        save(state, tmp_path / "a.pt"),
        {"_target_": "torch.nn.Linear", "in_features": 900, "out_features": 1000},
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = mark(node, path)
    finally:
        torch.set_num_threads(before)
    assert mark(node, path) == expected


def test_every_name_of_a_tied_tensor_counts_once_or_twice_in_the_file(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)
    both = save({"embed.weight": weight, "head.weight": weight.clone()}, tmp_path / "both.pt")
    first = save({"embed.weight": weight}, tmp_path / "first.pt")
    second = save({"head.weight": weight}, tmp_path / "second.pt")
    assert mark("Tied", both) == mark("Tied", first) == mark("Tied", second)
    lone = load_into(nn.Linear(4, 6, bias=False), {"weight": weight}, verify=VERIFY).verification.fingerprint
    assert lone != mark("Tied", first)


def test_null_without_a_verification_and_on_meta(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    assert load_into(Two(), path).verification.fingerprint is None
    assert carry_out("Two", path, device="meta").report.verification.fingerprint is None
    assert carry_out("Two", path, mode="plan").report.verification.fingerprint is None


def test_nothing_is_read_twice_without_a_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.verify.read_plan", lambda *_: pytest.fail("it was read again"))
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    load_into(Two(), path)
    load_model({"_target_": "tests.models.Two"}, path)


def test_old_names_that_a_load_hook_renames_count_under_the_models_names(tmp_path: Path) -> None:
    new = filled(WeightNormed()).state_dict()
    renamed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = {next((key.replace(n, o) for n, o in renamed.items() if n in key), key): value for key, value in new.items()}
    assert set(old) != set(new)
    assert mark("WeightNormed", save(dict(old), tmp_path / "old.pt")) == mark(
        "WeightNormed", save(dict(new), tmp_path / "new.pt")
    )


class Splitting(nn.Module):
    """Computes its two weights from one tensor of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        self.register_load_state_dict_pre_hook(self._split)  # type: ignore[no-untyped-call]

    def _split(self, _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}q"], state[f"{prefix}k"] = (state.pop(f"{prefix}qk") * 2).chunk(2)


def test_values_that_a_hook_computes_count_by_what_the_file_gave() -> None:
    def found(*values: float) -> str | None:
        return load_into(Splitting(), {"qk": torch.tensor(values)}, verify=VERIFY).verification.fingerprint

    assert found(1, 2, 3, 4) == found(1, 2, 3, 4)
    assert found(1, 2, 3, 4) != found(1, 2, 3, 5)


def test_extra_state_counts_where_it_is_a_tensor() -> None:
    def found(state: Any) -> str | None:
        given = {"weight": torch.ones(2), "_extra_state": state}
        return load_into(Extra(), given, verify=VERIFY).verification.fingerprint

    assert found({"version": 1}) == found({"version": 2})
    assert found(torch.tensor([1])) != found(torch.tensor([2]))


@pytest.mark.parametrize(
    "how", [{"allow_globals": ["tests.models.Two", "torch.nn.modules.linear.Linear"]}, {"trust": True}]
)
def test_a_model_that_came_whole_out_of_its_file_has_the_fingerprint_of_its_weights(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    model = filled(Two())
    path = save(model, tmp_path / "whole.pt")
    expected = mark("Two", save(model.state_dict(), tmp_path / "state.pt"))
    assert mark(None, path, checkpoint=how) == expected
    assert mark(None, path, checkpoint=how, dtype="float64") == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_script_has_the_fingerprint_of_its_weights(tmp_path: Path) -> None:
    model, node = filled(nn.Linear(2, 3)), {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    torch.jit.save(torch.jit.script(model), tmp_path / "script.pt")
    expected = mark(node, save(model.state_dict(), tmp_path / "state.pt"))
    assert mark(node, tmp_path / "script.pt") == expected
    assert mark(None, tmp_path / "script.pt", checkpoint={"trust": True}) == expected


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = save(filled(Two(), 1).state_dict(), tmp_path / "one.pt")
    found = mark("Two", path)
    assert carry_out("Two", path, verify={"forward": False, "fingerprint": found.upper()}).report.exit_code == 0
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path, verify={"forward": False, "fingerprint": "0" * 32})
    assert refusal.value.message == (
        f"fingerprint: the loaded weights are {found}, and verify.fingerprint expects {'0' * 32}"
    )
    assert refusal.value.hint == (
        "checkpoint.path=FILE   # the file with the expected weights\n"
        f"{line('verify.fingerprint', found, note='if these weights are right')}"
    )
    live = Two()
    before = {key: value.clone() for key, value in live.state_dict().items()}
    with pytest.raises(VerificationError, match=r"verify\.fingerprint expects"):
        load_into(live, path, verify={"forward": False, "fingerprint": "0" * 32})
    assert all(torch.equal(value, before[key]) for key, value in live.state_dict().items())


def test_a_fingerprint_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"fingerprint": "abc"})
    assert refusal.value.message == "'verify.fingerprint' is 'abc', expected 32 hexadecimal digits"
    assert refusal.value.hint == "verify.fingerprint=null   # accepts any weights"
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"fingerprint": "ab" * 32})
    assert refusal.value.hint == f"checkpoint.sha256={'ab' * 32}   # if it is the digest of the file"
    with pytest.raises(ConfigError) as refusal:
        carry_out("Two", path, verify={"fingerprint": "ab" * 16}, device="meta")
    assert refusal.value.message == "'verify.fingerprint' needs the weights, and device=meta reads none"


def test_digits_alone_are_text_on_the_command_line(tmp_path: Path) -> None:
    for typed in ("0" * 31 + "1", "1e" + "0" * 30):
        done = run_loader(f"verify.fingerprint={typed}", cwd=tmp_path)
        assert done.code == 5, done.err
        assert f"verify.fingerprint expects {typed}" in done.err
    printed = done.report["verification"]["fingerprint"]
    done = run_loader(f"verify.fingerprint={printed}", cwd=tmp_path)
    assert done.code == 0
    assert f"\nweights    fingerprint {printed}\n" in done.out


@given(st.integers(1, 9000), st.lists(st.integers(1, 4000), min_size=1, max_size=6))
@settings(max_examples=examples(100), deadline=None)
def test_samples_are_the_same_however_a_tensor_is_cut(numel: int, cuts: list[int]) -> None:
    bounds = sorted({0, numel, *(cut for cut in cuts if cut < numel)})
    covered = [
        index
        for start, end in pairwise(bounds)
        for low, high in _samples(numel, start, end)
        for index in range(low, high)
    ]
    assert set(covered) == {index for low, high in _samples(numel, 0, numel) for index in range(low, high)}
    assert {0, numel // 2, numel - 1} <= set(covered) | ({numel // 2} if numel < 3 else set())


def test_large_weights_are_read_by_several_threads_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.formats.identity.BATCH", 1000)
    monkeypatch.setattr("loader.verify.rereading.WHOLE_BELOW", 10_000)
    layers = [nn.Linear(50, 50) for _ in range(20)]
    model = nn.Sequential(*layers)
    path = save(filled(model).state_dict(), tmp_path / "many.pt")
    expected = load_into(nn.Sequential(*(nn.Linear(50, 50) for _ in range(20))), path, verify=VERIFY)
    assert "samples of every tensor" in str(expected.verification.checks)
    monkeypatch.undo()
    again = load_into(nn.Sequential(*(nn.Linear(50, 50) for _ in range(20))), path, verify=VERIFY)
    assert "all bytes" in str(again.verification.checks)
    assert again.verification.fingerprint == expected.verification.fingerprint


def test_loaded_from_python_or_by_the_tool_it_is_the_same(tmp_path: Path) -> None:
    done = run_loader(cwd=tmp_path)
    assert loader.load().report.verification.fingerprint == done.report["verification"]["fingerprint"]
