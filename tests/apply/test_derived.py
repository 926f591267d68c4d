"""Tensors that rules made, as values of a model: memory, dtypes, ties and live modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from zlib_ng import zlib_ng

from loader import FitError, LoaderError, load_into, load_model
from loader.files.file import CheckpointFile
from loader.formats import checksums
from loader.formats import tensor as tensors
from tests.derived import FUSED, ROWS, Shapes, fused, numbers, shapes
from tests.jobs import carry_out, save, snapshot, target
from tests.models import Tied

QKV = fused()["l.qkv.weight"]
EXPECTED = {
    "l.norm.weight": fused()["l.norm.weight"],
    "l.q.weight": QKV[:4],
    "l.k.weight": QKV[4:6],
    "l.v.weight": QKV[6:],
    "out.weight": fused()["out.weight"],
}


def assert_holds(module: nn.Module, expected: Mapping[str, torch.Tensor]) -> None:
    state = module.state_dict()
    assert set(state) == set(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def assert_apart(module: nn.Module) -> None:
    """Asserts that writing to one parameter changes no other."""
    for name, parameter in module.named_parameters():
        others = {key: value.detach().clone() for key, value in module.named_parameters() if key != name}
        with torch.no_grad():
            parameter.add_(1)
        for key, value in others.items():
            assert torch.equal(module.get_parameter(key), value), (name, key)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_split_loads_and_its_pieces_are_apart(ending: str, mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    save(fused(), path) if ending == "pt" else save_file(fused(), path)
    model = carry_out(shapes(ROWS), path, rules=FUSED, checkpoint={"mmap": mmap}).model
    assert_holds(model, EXPECTED)
    assert_apart(model)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_copies_have_memory_of_their_own(mmap: bool, dtype: str | None, tmp_path: Path) -> None:
    path = save({"w": numbers(3, 2)}, tmp_path / "a.pt")
    for rules in (
        {"c": {"copy": "w", "into": ["a", "b", "c"]}},
        {"c": {"copy": "w", "into": ["a", "b", "c"]}, "t": {"rearrange": "a", "pattern": "i o -> i o"}},
        {
            "t": {"rearrange": "w", "pattern": "i o -> (i o) "},
            "b": {"rearrange": "w", "pattern": "(i o) -> i o", "axes": {"o": 2}},
            "c": {"copy": "w", "into": ["a", "b", "c"]},
        },
    ):
        model = carry_out(
            shapes({key: [3, 2] for key in "abc"}), path, rules=rules, checkpoint={"mmap": mmap}, dtype=dtype
        ).model
        assert_holds(model, dict.fromkeys("abc", numbers(3, 2, dtype=getattr(torch, dtype or "float32"))))
        assert_apart(model)


def test_a_copied_piece_and_the_whole_tensor_are_apart(tmp_path: Path) -> None:
    path = save({"w": numbers(4, 2)}, tmp_path / "a.pt")
    rules = {"c": {"copy": "w", "into": ["whole", "cut"]}, "s": {"split": "cut", "into": ["x", "y"]}}
    model = carry_out(shapes({"whole": [4, 2], "x": [2, 2], "y": [2, 2]}), path, rules=rules).model
    assert_holds(model, {"whole": numbers(4, 2), "x": numbers(4, 2)[:2], "y": numbers(4, 2)[2:]})
    assert_apart(model)


def test_repeated_values_have_memory_each(tmp_path: Path) -> None:
    rules = {"tile": {"rearrange": "w", "pattern": "a -> a b", "axes": {"b": 2}}}
    model = carry_out(shapes({"w": [3, 2]}), save({"w": numbers(3)}, tmp_path / "a.pt"), rules=rules).model
    weight = model.get_parameter("w")
    with torch.no_grad():
        weight[0, 0] = 9
    assert weight[0, 1] == 0
    assert weight.is_contiguous()


def test_tied_names_may_be_fed_by_one_derived_tensor(tmp_path: Path) -> None:
    table = numbers(6, 4)
    path = save({"low": table[:3].clone(), "high": table[3:].clone()}, tmp_path / "a.pt")
    merge = {"m": {"merge": ["low", "high"], "to": "w"}, "c": {"copy": "^w$", "into": ["embed.weight", "head.weight"]}}
    model = carry_out(target("Tied"), path, rules=merge).model
    assert isinstance(model, Tied)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, table)


def test_tied_names_that_are_derived_and_differ_are_refused(tmp_path: Path) -> None:
    table = numbers(6, 4)
    path = save({"low": table[:3].clone(), "high": table[3:].clone(), "head.weight": table + 1}, tmp_path / "a.pt")
    with pytest.raises(FitError, match="the model ties names that hold different values"):
        carry_out(target("Tied"), path, rules={"m": {"merge": ["low", "high"], "to": "embed.weight"}})


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what checksums are computed of."""
    sizes: list[int] = []
    crc32 = zlib_ng.crc32

    def noted(data: Any, start: int = 0) -> int:
        sizes.append(len(data))
        return int(crc32(data, start))

    monkeypatch.setattr(zlib_ng, "crc32", noted)
    return sizes


@pytest.mark.parametrize("others", [{}, {"a": "bfloat16"}, {"a": "bfloat16", "b": "float16", "c": "float64"}])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_storage_that_is_split_is_checked_once(
    mmap: bool, others: dict[str, str], tmp_path: Path, compared: list[int]
) -> None:
    path = save({"w": numbers(6, 2), "v": numbers(5)}, tmp_path / "a.pt")
    node = shapes({"a": [2, 2], "b": [2, 2], "c": [2, 2], "v": [5]}, **others)
    carry_out(node, path, rules={"s": {"split": "w", "into": ["a", "b", "c"]}}, checkpoint={"mmap": mmap})
    assert [size for size in compared if size in (48, 20)] in ([48, 20], [20, 48])


def test_damage_in_a_split_tensor_names_it(tmp_path: Path) -> None:
    path = save(fused(), tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[data.index(QKV.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    for mmap in (True, False):
        with pytest.raises(LoaderError, match=r"is damaged: .*l\.qkv\.weight"):
            carry_out(shapes(ROWS), path, rules=FUSED, checkpoint={"mmap": mmap})


EXPERTS = {f"e.{at}.w": numbers(2, 3, start=10 * at) for at in range(4)}
STACK = {"stack": {"merge": r"^e\.(\d+)\.w$", "to": "e.w"}}


@pytest.mark.parametrize("dtype", [None, "float64", "bfloat16"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_stack_is_read_expert_by_expert(
    mmap: bool, dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    hold = checksums.ReadOnce._held

    def noted(self: checksums.ReadOnce, storage: Any) -> Any:
        held.append(len(self._memory))
        return hold(self, storage)

    monkeypatch.setattr(checksums.ReadOnce, "_held", noted)
    path = save(EXPERTS, tmp_path / "a.pt")
    model = carry_out(shapes({"e.w": [4, 2, 3]}), path, rules=STACK, checkpoint={"mmap": mmap}, dtype=dtype).model
    assert torch.equal(
        model.get_parameter("e.w"), torch.stack([*EXPERTS.values()]).to(getattr(torch, dtype or "float32"))
    )
    assert not any(held)
    assert bool(held) is not mmap


def test_the_pages_of_pieces_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    monkeypatch.setattr(CheckpointFile, "release", lambda self, offset, length: released.append(length))
    carry_out(shapes({"e.w": [4, 2, 3]}), save(EXPERTS, tmp_path / "a.pt"), rules=STACK)
    assert released.count(24) >= 4


def test_a_cast_of_a_stack_counts_its_losses(tmp_path: Path) -> None:
    path = save({**EXPERTS, "e.2.w": torch.full((2, 3), 1e6)}, tmp_path / "a.pt")
    with pytest.raises(FitError, match=r"e\.w \(float32 → float16: 6 elements become inf or nan\)"):
        carry_out(shapes({"e.w": [4, 2, 3]}), path, rules=STACK, dtype="float16")


def test_the_dtype_of_a_file_stays_with_what_rules_make(tmp_path: Path) -> None:
    path = save({key: value.bfloat16() for key, value in fused().items()}, tmp_path / "a.pt")
    model = carry_out(shapes(ROWS), path, rules=FUSED, dtype="checkpoint").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def live(keys: Mapping[str, list[int]] = ROWS) -> nn.Module:
    return Shapes(keys)


def in_file(state: dict[str, torch.Tensor], path: Path) -> Path:
    return save(state, path)


def in_memory(state: dict[str, torch.Tensor], _path: Path) -> Any:
    return state


@pytest.mark.parametrize("source", [in_file, in_memory])
def test_a_live_module_takes_the_same_rules(source: Callable[..., Any], tmp_path: Path) -> None:
    net = live()
    before = {name: (id(value), value.data_ptr()) for name, value in net.named_parameters()}
    report = load_into(net, source(fused(), tmp_path / "a.pt"), rules=FUSED, verify={"forward": False})
    assert_holds(net, EXPECTED)
    assert {name: (id(value), value.data_ptr()) for name, value in net.named_parameters()} == before
    assert [row["key"] for row in report.keys.derived] == ["l.q.weight", "l.k.weight", "l.v.weight"]


@pytest.mark.parametrize("source", [in_file, in_memory])
def test_load_model_takes_the_same_rules(source: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert_holds(load_model(live(), source(fused(), path), rules=FUSED, device="cpu"), EXPECTED)
    assert_holds(load_model(shapes(ROWS), in_file(fused(), path), rules=FUSED, device="cpu"), EXPECTED)


def test_a_module_may_be_loaded_from_its_own_memory() -> None:
    net = live({"w": [2, 2], "v": [2, 2]})
    load_into(net, {"w": numbers(2, 2), "v": numbers(2, 2, start=9)})
    swap = {
        "turn": {"rearrange": "*", "pattern": "i o -> o i"},
        "a": {"rename": "w", "to": "x"},
        "b": {"rename": "v", "to": "w"},
        "c": {"rename": "x", "to": "v"},
    }
    load_into(net, net.state_dict(), rules=swap)
    assert_holds(net, {"w": numbers(2, 2, start=9).t(), "v": numbers(2, 2).t()})


def test_a_key_without_a_name_is_not_a_derived_tensor() -> None:
    net = live({"x": [1, 2], "y": [1, 2]})
    state = {"w": numbers(2, 2), "": numbers(1, 2, start=70)}
    load_into(net, state, rules={"s": {"split": "w", "into": ["x", "y"]}}, allow={"unexpected": ["*"]})
    assert_holds(net, {"x": numbers(2, 2)[:1], "y": numbers(2, 2)[1:]})


BROKEN = st.sampled_from(
    [
        {"split": r"\.qkv\.", "into": [".q.", ".k."]},
        {"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."], "sizes": [3, 1, 1]},
        {"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."], "groups": 3},
        {"split": r"\.qkv\.", "into": [".q.", ".k.", ".w."]},
        {"merge": [r"\.q\.", r"\.k\."], "to": ".x."},
        {"merge": [r"norm", r"qkv"], "to": "x"},
        {"merge": r"(\d)", "to": "x"},
        {"rearrange": "l.*", "pattern": "a b -> b a"},
        {"rearrange": "out.weight", "pattern": "(a b) c -> a b c", "axes": {"a": 2}},
        {"rearrange": "out.weight", "pattern": "a b -> b a"},
        {"copy": "out", "into": ["out", "other"]},
        {"drop": "out.*"},
        {"strip": "l."},
    ]
)


@given(
    broken=st.lists(BROKEN, min_size=1, max_size=3),
    first=st.booleans(),
    memory=st.booleans(),
    damaged=st.booleans(),
)
def test_a_refusal_leaves_a_live_module_as_it_was(
    broken: list[dict[str, Any]],
    first: bool,
    memory: bool,
    damaged: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    net, extra = live(), {f"b{at}": rule for at, rule in enumerate(broken)}
    rules = {**extra, **FUSED} if first else {**FUSED, **extra}
    path = save(fused(), tmp_path_factory.mktemp("broken") / "a.pt")
    if damaged and not memory:
        data = bytearray(path.read_bytes())
        data[data.index(QKV.numpy().tobytes()) + 9] ^= 4
        path.write_bytes(data)
    before = snapshot(net)
    try:
        load_into(net, fused() if memory else path, rules=rules)
    except LoaderError:
        assert snapshot(net) == before
    else:
        assert not damaged or memory
        assert_holds(net, EXPECTED)


class Halved(nn.Module):
    """Takes its weight in two halves, by a load hook of its own that sees their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 2))
        self.seen: list[torch.dtype] = []
        self.register_load_state_dict_pre_hook(_join)  # type: ignore[no-untyped-call]


def _join(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    halves = [state.pop(f"{prefix}{name}") for name in ("low", "high")]
    module.seen.extend(half.dtype for half in halves)  # type: ignore[union-attr, operator]
    state[f"{prefix}weight"] = torch.cat(halves).float()


@pytest.mark.parametrize("build", [True, False])
def test_load_hooks_see_derived_tensors(build: bool, tmp_path: Path) -> None:
    path = save({"w": numbers(4, 2, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    rules = {"s": {"split": "w", "into": ["low", "high"], "sizes": [1, 1]}}
    node = {"_target_": "tests.apply.test_derived.Halved"}
    model = carry_out(node, path, rules=rules).model if build else Halved()
    if not build:
        load_into(model, path, rules=rules)
    assert isinstance(model, Halved)
    assert torch.equal(model.weight, numbers(4, 2))
    assert {*model.seen} == {torch.bfloat16}


MADE = {
    "stack": {"merge": r"^e\.(\d+)\.w$", "to": "e.w"},
    "turn": {"rearrange": "e.w", "pattern": "e i o -> e o i"},
    "apart": {"split": r"^e\.w$", "into": "x.{}"},
}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("mmap", [True, False])
def test_what_several_tensors_are_cut_out_of_is_made_once(
    mmap: bool, dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: list[int]
) -> None:
    joined: list[int] = []
    join = tensors._joined

    def noted(entry: Any, *arguments: Any, **settings: Any) -> torch.Tensor:
        joined.append(entry.numel)
        return join(entry, *arguments, **settings)

    monkeypatch.setattr(tensors, "_joined", noted)
    path = save(EXPERTS, tmp_path / "a.pt")
    node = shapes({f"x.{at}": [3, 2] for at in range(4)})
    model = carry_out(node, path, rules=MADE, checkpoint={"mmap": mmap}, dtype=dtype).model
    kind = getattr(torch, dtype or "float32")
    assert_holds(model, {f"x.{at}": EXPERTS[f"e.{at}.w"].t().to(kind) for at in range(4)})
    assert_apart(model)
    assert joined.count(24) == 2  # to load it, and to read it back
    assert compared.count(24) == 4
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in model.state_dict().values())


def test_copies_of_what_is_made_are_apart(tmp_path: Path) -> None:
    rules = {**{name: MADE[name] for name in ("stack", "turn")}, "copy": {"copy": r"^e\.w$", "into": ["x", "y"]}}
    path = save(EXPERTS, tmp_path / "a.pt")
    model = carry_out(shapes({"x": [4, 3, 2], "y": [4, 3, 2]}), path, rules=rules).model
    assert_holds(model, {name: torch.stack([*EXPERTS.values()]).mT for name in "xy"})
    assert_apart(model)


def test_parts_have_derived_tensors_of_their_own(tmp_path: Path) -> None:
    path = save({"a": {"w": numbers(4, 2)}, "b": {"x": numbers(2), "y": numbers(2, start=5)}}, tmp_path / "a.pt")
    keys = {"a.p": [2, 2], "a.q": [2, 2], "b.z": [4]}
    parts = {
        "a": {"path": str(path), "key": "a", "rules": {"cut": {"split": "w", "into": ["p", "q"]}}},
        "b": {"path": str(path), "key": "b", "rules": {"join": {"merge": ["x", "y"], "to": "z"}}},
    }
    loaded = carry_out(shapes(keys), path, parts=parts)
    z = torch.cat([numbers(2), numbers(2, start=5)])
    assert_holds(loaded.model, {"a.p": numbers(4, 2)[:2], "a.q": numbers(4, 2)[2:], "b.z": z})
    assert loaded.report.keys.derived == [
        {"key": "a.p", "sources": ["w"], "rules": ["cut"]},
        {"key": "a.q", "sources": ["w"], "rules": ["cut"]},
        {"key": "b.z", "sources": ["x", "y"], "rules": ["join"]},
    ]
    plan = carry_out(shapes(keys), path, parts=parts, mode="plan").report.plan
    assert plan is not None
    assert [(row["part"], row["sources"]) for row in plan] == [("a", ["w"]), ("a", ["w"]), ("b", ["x", "y"])]


@pytest.mark.parametrize("source", [in_file, in_memory])
def test_computed_values_are_rounded_once(source: Callable[..., Any], tmp_path: Path) -> None:
    """0.1 x + 0.2 in float32, then in bfloat16; the file stays as it was."""
    state = {"w": numbers(3, 4, dtype=torch.bfloat16)}
    rules = {"s": {"scale": "w", "by": 0.1, "plus": 0.2}}
    net = Shapes({"w": [3, 4]}, "bfloat16")
    load_into(net, source(state, tmp_path / "a.pt"), rules=rules, verify={"forward": False})
    expected = (numbers(3, 4) * torch.tensor(0.1) + torch.tensor(0.2)).bfloat16()
    assert torch.equal(net.get_parameter("w"), expected)
    assert torch.equal(state["w"], numbers(3, 4, dtype=torch.bfloat16))


def test_a_computed_value_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    path = save({"w": numbers(3, 4, start=1)}, tmp_path / "a.pt")
    rules = {"s": {"scale": "w", "by": 1e5}}
    net = Shapes({"w": [3, 4]}, "float16")
    before = snapshot(net)
    with pytest.raises(FitError, match=r"a cast would change values: w \(float32 → float16: 12 elements become inf"):
        load_into(net, path, rules=rules)
    assert snapshot(net) == before


OVERFLOWS: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], list[int], str]] = {
    "a factor": ({"w": torch.tensor([3e38, 1.0])}, {"scale": "w", "by": 2.0}, [2], "float32: 1 element of inf"),
    "a factor, then float16": (
        {"w": torch.tensor([3e4, 1.0], dtype=torch.float16)},
        {"scale": "w", "by": 1e35},
        [2],
        "1 element of inf",
    ),
    "a mean of nothing": (
        {"w": torch.zeros(0, 3)},
        {"rearrange": "w", "pattern": "a b -> b", "reduce": "mean"},
        [3],
        "3 elements of inf or nan",
    ),
    "a stack": (
        {"a.0": torch.full((2,), 3e38), "a.1": torch.ones(2)},
        {"merge": ["^a.0", "^a.1"], "to": "w", "by": "sum"},
        [2],
        "",
    ),
}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", OVERFLOWS)
def test_arithmetic_that_makes_inf_or_nan_is_refused(name: str, mmap: bool, tmp_path: Path) -> None:
    state, rule, shape, said = OVERFLOWS[name]
    net, path = Shapes({"w": shape}), {"path": str(save(state, tmp_path / "a.pt")), "mmap": mmap}
    before = snapshot(net)
    if not said:
        load_into(net, path, rules={"r": rule})  # large, and finite
        return
    with pytest.raises(FitError, match=r"^arithmetic would change values: w \(float") as refused:
        load_into(net, path, rules={"r": rule})
    assert said in refused.value.message
    assert refused.value.hint == (
        "smaller factors or weights keep them finite\n'allow.mismatched=[w]'   # accepts the values"
    )
    assert snapshot(net) == before
    report = load_into(net, path, rules={"r": rule}, allow={"mismatched": ["w"]})
    (cast,) = report.keys.cast
    assert cast["loss"].endswith("of inf or nan by arithmetic on finite values")
    assert not net.get_parameter("w").isfinite().all()


def test_inf_of_a_file_stays_with_what_arithmetic_makes(tmp_path: Path) -> None:
    path = save({"w": torch.tensor([float("inf"), 1.0])}, tmp_path / "a.pt")
    net = Shapes({"w": [2]})
    load_into(net, path, rules={"s": {"scale": "w", "by": 2.0}})
    assert net.get_parameter("w").tolist() == [float("inf"), 2.0]


@pytest.mark.parametrize("mmap", [True, False])
def test_a_piece_keeps_nothing_else_in_memory(mmap: bool, tmp_path: Path) -> None:
    path = save({"w": numbers(300, 100)}, tmp_path / "a.pt")
    rules = {"s": {"split": "w", "into": ["q", None, None], "sizes": [1, 1, 1]}}
    model = carry_out(shapes({"q": [100, 100]}), path, rules=rules, checkpoint={"mmap": mmap}).model
    assert model.get_parameter("q").untyped_storage().nbytes() == 40_000
    pieces = carry_out(
        shapes({key: [100, 100] for key in "abc"}),
        path,
        checkpoint={"mmap": mmap},
        rules={"s": {"split": "w", "into": ["a", "b", "c"]}},
    ).model
    assert {value.untyped_storage().nbytes() for value in pieces.state_dict().values()} == {40_000}
