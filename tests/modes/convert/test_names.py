"""A conversion that writes the names and the layout of the checkpoint."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from loader import ConfigError, load
from loader.formats.boxes import narrowed
from loader.formats.formulas.inverse import inverse
from loader.modes.convert.backwards import Backwards
from loader.parts.open import open_checkpoint
from tests.derived import FUSED, ROWS, fused, numbers, shapes
from tests.jobs import carry_out, same_tensor, save, target
from tests.models import Two, filled

State = Mapping[str, torch.Tensor]


def back(node: Any, path: Path, rules: Mapping[str, Any], out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Converts a file under its own names; returns what was written."""
    convert = {"path": str(out), "names": "checkpoint", **settings.pop("convert", {})}
    carry_out(node, path, rules=rules, mode="convert", convert=convert, **settings)
    return load_file(out)


def assert_same(found: State, expected: State) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert same_tensor(found[key], value), key


def test_a_split_is_joined_again(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    assert_same(back(shapes(ROWS), path, FUSED, tmp_path / "b.safetensors"), fused())


def test_the_line_that_is_offered_loads_the_written_file(tmp_path: Path) -> None:
    path = save({"state_dict": {f"module.{key}": value for key, value in fused().items()}}, tmp_path / "a.pt")
    rules = {"ddp": {"strip": "module."}, **FUSED}
    out = tmp_path / "b.safetensors"
    report = carry_out(
        shapes(ROWS),
        path,
        rules=rules,
        checkpoint={"key": "state_dict"},
        mode="convert",
        convert={"path": str(out), "names": "checkpoint"},
    ).report
    assert report.written is not None
    words = shlex.split(report.written["next"])
    assert any(word.startswith("rules=") for word in words)
    again = load([*words, "device=cpu", "verify.forward=false"])
    first = carry_out(shapes(ROWS), path, rules=rules, checkpoint={"key": "state_dict"}).report
    assert again.report.verification.fingerprint == first.verification.fingerprint
    assert_same(load_file(out), {f"module.{key}": value for key, value in fused().items()})


EXPERTS = {f"e.{number}.w": [2, 3] for number in range(3)}
CASES: Mapping[str, tuple[Mapping[str, list[int]], State, Mapping[str, Any]]] = {
    "interleaved": (
        {"q.w": [4, 3], "k.w": [4, 3], "v.w": [4, 3]},
        {"qkv.w": numbers(12, 3)},
        {"fused": {"split": r"^qkv\.", "into": ["q.", "k.", "v."], "groups": 2}},
    ),
    "other dim": (
        {"a": [2, 3], "b": [2, 1]},
        {"ab": numbers(2, 4)},
        {"s": {"split": "ab", "into": ["a", "b"], "dim": 1}},
    ),
    "merge": (
        {"qk": [4, 3]},
        {"q": numbers(2, 3), "k": numbers(2, 3, start=9)},
        {"m": {"merge": ["q", "k"], "to": "qk"}},
    ),
    "stack": (
        {"e.w": [3, 2, 3]},
        {key: numbers(2, 3, start=10 * at) for at, key in enumerate(EXPERTS)},
        {"m": {"merge": r"e\.(\d+)\.w", "to": "e.w"}},
    ),
    "unstack": (EXPERTS, {"e.w": numbers(3, 2, 3)}, {"s": {"split": r"e\.w", "into": "e.{}.w"}}),
    "transposed": ({"w": [3, 2]}, {"w": numbers(2, 3)}, {"t": {"rearrange": "w", "pattern": "i o -> o i"}}),
    "stacked and turned": (
        {"e.w": [3, 3, 2]},
        {key: numbers(2, 3, start=10 * at) for at, key in enumerate(EXPERTS)},
        {"m": {"merge": r"e\.(\d+)\.w", "to": "e.w"}, "t": {"rearrange": "e.w", "pattern": "e i o -> e o i"}},
    ),
    "merged, turned and cut": (
        {"x": [3, 1], "y": [3, 3]},
        {"q": numbers(2, 3), "k": numbers(2, 3, start=9)},
        {
            "m": {"merge": ["q", "k"], "to": "qk"},
            "t": {"rearrange": "qk", "pattern": "i o -> o i"},
            "s": {"split": "qk", "into": ["x", "y"], "dim": 1, "sizes": [1, 3]},
        },
    ),
    "rotary": (
        {"q": [8, 3]},
        {"q": numbers(8, 3)},
        {"rope": {"rearrange": "q", "pattern": "(h d r) i -> (h r d) i", "axes": {"d": 2, "r": 2}}},
    ),
    "nothing": ({"a": [3]}, {"a": numbers(3)}, {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_every_move_has_its_inverse(name: str, ending: str, tmp_path: Path) -> None:
    keys, state, rules = CASES[name]
    path = tmp_path / f"a.{ending}"
    if ending == "pt":
        save(dict(state), path)
    else:
        save_file(dict(state), path)
    assert_same(back(shapes(keys), path, rules, tmp_path / "b.safetensors"), state)


@given(
    rest=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    groups=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    data=st.data(),
)
def test_a_chain_of_moves_comes_back(
    rest: list[int],
    sizes: list[int],
    groups: int,
    dtype: str,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dim = data.draw(st.integers(0, len(rest)))
    whole = [*rest[:dim], groups * sum(sizes), *rest[dim:]]
    order = data.draw(st.permutations(range(len(whole))))
    names, axes = [f"p{at}" for at in range(len(sizes))], [f"a{at}" for at in range(len(whole))]
    rules = {
        "cut": {"split": "^w$", "into": names, "dim": dim, "sizes": sizes, "groups": groups},
        "turn": {"rearrange": "p*", "pattern": f"{' '.join(axes)} -> {' '.join(axes[at] for at in order)}"},
    }
    pieces = {name: [*rest[:dim], groups * size, *rest[dim:]] for name, size in zip(names, sizes, strict=True)}
    node = shapes({name: [piece[at] for at in order] for name, piece in pieces.items()}, dtype)
    folder = tmp_path_factory.mktemp("chain")
    state = {"w": numbers(*whole, dtype=getattr(torch, dtype))}
    assert_same(back(node, save(state, folder / "a.pt"), rules, folder / "b.safetensors"), state)


def test_a_file_with_views_of_one_storage_comes_back(tmp_path: Path) -> None:
    base = numbers(6, 4)
    path = save({"qk": base[:4], "o": base[4:], "t": base.t()}, tmp_path / "a.pt")
    rules = {"s": {"split": "qk", "into": ["q", "k"]}}
    found = back(shapes({"q": [2, 4], "k": [2, 4], "o": [2, 4], "t": [4, 6]}), path, rules, tmp_path / "b.safetensors")
    assert_same(found, {"qk": base[:4], "o": base[4:], "t": base.t()})


def test_both_names_of_a_tied_tensor_come_back(tmp_path: Path) -> None:
    table = numbers(6, 4)
    halves = {"low": table[:3].clone(), "high": table[3:].clone(), "head.weight": table.clone()}
    path = save(halves, tmp_path / "a.pt")
    rules = {"m": {"merge": ["low", "high"], "to": "embed.weight"}}
    assert_same(back(target("Tied"), path, rules, tmp_path / "b.safetensors"), halves)
    del halves["head.weight"]
    path = save(halves, tmp_path / "c.pt")
    assert_same(back(target("Tied"), path, rules, tmp_path / "d.safetensors"), halves)


def test_what_the_model_does_not_hold_is_named_and_not_written(tmp_path: Path) -> None:
    path = save({**fused(), "head.weight": numbers(2)}, tmp_path / "a.pt")
    out = tmp_path / "b.safetensors"
    rules = {"fused": FUSED["fused"], "head": {"drop": "head.*"}}
    report = carry_out(
        shapes(ROWS), path, rules=rules, mode="convert", convert={"path": str(out), "names": "checkpoint"}
    ).report
    assert report.written is not None
    assert report.written["absent"] == ["head.weight"]
    assert_same(load_file(out), fused())
    assert "drop" not in report.written["next"]
    assert load([*shlex.split(report.written["next"]), "device=cpu", "verify.forward=false"]).report.keys.loaded == 5


def test_the_dtype_of_the_job_is_the_dtype_of_the_file(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    found = back(shapes(ROWS), path, FUSED, tmp_path / "b.safetensors", dtype="bfloat16")
    assert_same(found, {key: value.bfloat16() for key, value in fused().items()})


def test_large_models_are_written_in_shards(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    (tmp_path / "out").mkdir()
    convert = {"path": str(tmp_path / "out"), "names": "checkpoint", "shard_size": "130B"}
    report = carry_out(shapes(ROWS), path, rules=FUSED, mode="convert", convert=convert).report
    assert report.written is not None
    shards = [load_file(file) for file in report.written["files"][:-1]]
    assert len(shards) == 3
    assert_same({key: value for shard in shards for key, value in shard.items()}, fused())


def refusal(node: Any, path: Path, rules: Mapping[str, Any], tmp_path: Path, **settings: Any) -> str:
    """The message of a conversion that is refused; nothing is written."""
    with pytest.raises(ConfigError) as refused:
        back(node, path, rules, tmp_path / "b.safetensors", **settings)
    assert not (tmp_path / "b.safetensors").exists()
    assert refused.value.exit_code == 2
    assert "convert.names=model" in refused.value.hint
    return str(refused.value.message)


def test_a_dropped_piece_has_no_inverse(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    rules = {"fused": {"split": r"\.qkv\.", "into": [".q.", ".k.", None], "sizes": [2, 1, 1]}}
    keys = {key: of for key, of in ROWS.items() if ".v." not in key}
    message = refusal(shapes(keys), path, rules, tmp_path)
    assert "rule 'fused' (split: \\.qkv\\., into: [.q., .k., null]" in message
    assert "has no inverse for l.qkv.weight [8, 4], of which the model does not hold every element exactly" in message


def test_a_repeated_axis_has_no_inverse(tmp_path: Path) -> None:
    path = save({"w": numbers(3)}, tmp_path / "a.pt")
    rules = {"tile": {"rearrange": "w", "pattern": "a -> a b", "axes": {"b": 2}}}
    message = refusal(shapes({"w": [3, 2]}), path, rules, tmp_path)
    assert "rule 'tile' (rearrange: w" in message
    assert "has no inverse for w [3]" in message


def test_a_key_that_the_file_has_no_name_for_is_refused(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    keys = {**ROWS, "new.weight": [3]}
    message = refusal(shapes(keys), path, FUSED, tmp_path, allow={"missing": ["new.*"]})
    assert "the file has no name for 1 key of the model: new.weight" in message


def test_parts_have_no_single_file(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "a.pt")
    parts = {"first": {"path": str(path), "rules": {"f": {"keep": "first.*"}, "s": {"strip": "first."}}}, "second": {}}
    parts["second"] = {"path": str(path), "rules": {"f": {"keep": "second.*"}, "s": {"strip": "second."}}}
    assert "the parts first, second" in refusal("Two", path, {}, tmp_path, parts=parts)


def test_copies_that_differ_are_not_one_tensor(tmp_path: Path) -> None:
    """A hook of the model changes one of the copies once it is loaded."""
    with open_checkpoint(save({"w": numbers(3)}, tmp_path / "a.pt")) as checkpoint:
        tensors = checkpoint.root.tensors()
        backwards = Backwards(tensors)
        backwards.add(tensors["w"], numbers(3))
        backwards.add(tensors["w"], numbers(3, start=1))
        assert list(dict(backwards.given())) == ["w"]
        with pytest.raises(ConfigError, match="different values for what is one tensor in the file: w"):
            backwards.tensor("w")


def test_only_the_same_names_are_replaced(tmp_path: Path) -> None:
    path, out = save(fused(), tmp_path / "a.pt"), tmp_path / "b.safetensors"
    back(shapes(ROWS), path, FUSED, out)
    back(shapes(ROWS), path, FUSED, out)
    with pytest.raises(ConfigError, match=r"converted with convert\.names=checkpoint"):
        back(shapes(ROWS), path, FUSED, out, convert={"names": "model"})


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """The values that are written are made when they are asked for."""
    with open_checkpoint(save({"a": numbers(4), "b": numbers(4)}, tmp_path / "a.pt")) as checkpoint:
        tensors = checkpoint.root.tensors()
        backwards = Backwards(tensors)
        for entry, start in itertools.product(tensors.values(), (0, 2)):
            backwards.add(narrowed(entry, 0, start, 2), numbers(2, start=start))
        given = dict(backwards.given())
        assert all(value.is_meta for value in given.values())
        assert torch.equal(backwards.tensor("b"), numbers(4))
        assert not backwards._last


NORMS: Mapping[str, Any] = {"plus": {"scale": "*.norm.weight", "by": 2.0, "plus": 1.0}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_scale_is_inverted_by_its_formula(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in fused().items()}
    path = save(state, tmp_path / "a.pt")
    name = str(dtype).removeprefix("torch.")
    found = back(shapes(ROWS, name), path, {**FUSED, **NORMS}, tmp_path / "b.safetensors")
    assert_same(found, state)


def test_a_scaled_piece_is_unscaled_in_its_place(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    rules = {"fused": {**FUSED["fused"], "sizes": [2, 1, 1]}, "k": {"scale": "l.k.weight", "by": 0.5}}
    out = tmp_path / "b.safetensors"
    assert_same(back(shapes(ROWS), path, rules, out), fused())
    again = carry_out(shapes(ROWS), out, rules=rules).model.state_dict()
    assert torch.equal(again["l.k.weight"], fused()["l.qkv.weight"][4:6] / 2)


LOSSY: Mapping[str, tuple[Mapping[str, list[int]], Mapping[str, Any], str]] = {
    "take": ({"w": [2, 4]}, {"take": "w", "index": [1, 0]}, "rule 'r' (take: w, index: [1, 0])"),
    "resize": ({"w": [3, 4]}, {"resize": "w", "by": "rows"}, "rule 'r' (resize: w, by: rows)"),
    "reduce": ({"w": [4]}, {"rearrange": "w", "pattern": "a b -> b", "reduce": "sum"}, "rule 'r' (rearrange: w"),
    "sum": ({"s": [2, 4]}, {"merge": ["^w$", "^v$"], "to": "s", "by": "sum"}, "rule 'r' (merge: "),
    "copies": ({"a": [2, 4], "b": [2, 4]}, {"copy": "w", "into": ["a", "b"]}, "rule 'r' (copy: w, into: [a, b])"),
    "zero": ({"w": [2, 4]}, {"scale": "w", "by": 0.0}, "rule 'r' (scale: w, by: 0.0)"),
}


@pytest.mark.parametrize("name", LOSSY)
def test_a_rule_without_an_inverse_is_refused_by_name(name: str, tmp_path: Path) -> None:
    keys, rule, expected = LOSSY[name]
    path = save({"w": numbers(2, 4), "v": numbers(2, 4)}, tmp_path / "a.pt")
    message = refusal(shapes(keys), path, {"r": rule}, tmp_path, allow={"unexpected": ["v"]})
    assert f"convert.names=checkpoint cannot write the file's names and layout: {expected}" in message
    assert message.endswith("has no inverse")


def test_adapters_have_no_inverse(tmp_path: Path) -> None:
    path = save({"w": numbers(2, 4)}, tmp_path / "a.pt")
    other = save({"w": numbers(2, 4, start=2)}, tmp_path / "b.pt")
    delta = {"delta": {"path": str(other)}}
    message = refusal(shapes({"w": [2, 4]}), path, {}, tmp_path, adapters=delta)
    assert "adapters have no inverse: delta" in message


def test_a_scaled_stack_is_unscaled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[int] = []

    def noted(formula: Any, values: torch.Tensor) -> torch.Tensor:
        undone.append(values.numel())
        return inverse(formula, values)

    monkeypatch.setattr("loader.modes.convert.backwards.inverse", noted)
    state = {key: numbers(2, 3, start=10 * at) for at, key in enumerate(EXPERTS)}
    rules = {"m": {"merge": r"e\.(\d+)\.w", "to": "e.w"}, "s": {"scale": "e.w", "by": 4.0}}
    path = save(state, tmp_path / "a.pt")
    assert_same(back(shapes({"e.w": [3, 2, 3]}), path, rules, tmp_path / "b.safetensors"), state)
    assert undone == [18]
