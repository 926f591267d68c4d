"""Several files that become one: laws, the oracle of torch, and what is refused."""

from __future__ import annotations

import math
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from loader import CheckpointError, ConfigError, FitError, load, load_into, load_model
from loader.parts.combine import Combined, short_names
from loader.parts.open import open_checkpoint
from loader.report.data import Report
from loader.schema import MEAN
from tests.formats.saving import save_alone
from tests.formats.sharding import write_shards
from tests.laws import examples
from tests.models import Buffers, Two, filled

State = dict[str, torch.Tensor]


class Normed(nn.Module):
    """A layer with statistics, and a count that is a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(self.layer(x))
        return result


def trained(number: int, kind: type[nn.Module] = Normed) -> nn.Module:
    """A model as it is after so many steps."""
    torch.manual_seed(number)
    model = kind()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
        else:
            buffer.fill_(10 * number)
    return model


def saved(folder: Path, *states: Any, ending: str = "pt") -> list[str]:
    paths = []
    for number, state in enumerate(states):
        path = folder / f"s{number}.{ending}"
        save_file(state, path) if ending == "safetensors" else torch.save(state, path)
        paths.append(str(path))
    return paths


def combined(model: nn.Module, paths: list[str], combine: Any, **more: Any) -> Report:
    return load_into(model, {"path": paths, "combine": combine, **more})


def test_the_mean_is_that_of_averaged_model(tmp_path: Path) -> None:
    models = [trained(number) for number in range(5)]
    average = AveragedModel(models[0], use_buffers=True)
    for model in models:
        average.update_parameters(model)
    found = Normed()
    combined(found, saved(tmp_path, *(model.state_dict() for model in models)), MEAN)
    theirs = average.module.state_dict()
    for key, value in found.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=1e-7)
    exact = {key: torch.stack([m.state_dict()[key].double() for m in models]).mean(0) for key in theirs}
    for key, value in found.named_parameters():
        torch.testing.assert_close(value.double(), exact[key], rtol=3e-7, atol=1e-8)


def test_whole_numbers_are_the_last_files_and_statistics_are_reported(tmp_path: Path) -> None:
    models = [trained(number) for number in range(3)]
    found = Normed()
    report = combined(
        found, saved(tmp_path, *({"epoch": n, "sd": m.state_dict()} for n, m in enumerate(models))), MEAN, key="auto"
    )
    assert found.norm.num_batches_tracked == 20
    part = report.parts[""]
    assert part.combined is not None
    assert part.combined["how"] == "mean"
    assert part.combined["last"] == ["norm.num_batches_tracked"]
    assert [file["path"] for file in part.combined["files"]] == [str(tmp_path / f"s{n}.pt") for n in range(3)]
    assert [file["weight"] for file in part.combined["files"]] == [1 / 3] * 3
    assert [file["bytes"] for file in part.combined["files"]] == [
        (tmp_path / f"s{n}.pt").stat().st_size for n in range(3)
    ]
    assert part.bytes == sum(file["bytes"] for file in part.combined["files"])
    assert part.note == (
        "BatchNorm statistics of 1 layer are combined like the weights; torch.optim.swa_utils.update_bn was not run"
    )
    assert part.key == "sd"
    assert part.beside == {"epoch": "2"}
    mean = torch.stack([m.state_dict()["norm.running_var"] for m in models]).mean(0)
    torch.testing.assert_close(found.norm.running_var, mean)


WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=4).filter(any)


@settings(max_examples=examples(60), deadline=None)
@given(weights=WEIGHTS, dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
def test_a_weighted_sum_is_computed_wide_and_rounded_once(
    weights: list[float], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sum")
    states = [{"weight": torch.randn(3, 4).to(dtype), "bias": torch.randn(3).to(dtype)} for _ in weights]
    found = nn.Linear(4, 3).to(dtype)
    combined(found, saved(folder, *states, ending="safetensors"), weights)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for key, value in found.state_dict().items():
        total = None
        for weight, state in zip(weights, states, strict=True):
            if weight:
                term = state[key].to(wide) * weight
                total = term if total is None else total + term
        assert total is not None
        assert torch.equal(value, total.to(dtype))


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), count=st.integers(1, 4))
def test_a_weight_of_1_for_one_file_and_0_for_the_others_is_that_file(
    data: st.DataObject, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, chosen = tmp_path_factory.mktemp("one"), data.draw(st.integers(0, count - 1))
    odd = torch.tensor([-0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38])
    states = [{"weight": odd.roll(n).view(2, 3), "bias": odd[: 2 + 0].roll(n)} for n in range(count)]
    found = nn.Linear(3, 2)
    combined(found, saved(folder, *states, ending="safetensors"), [float(at == chosen) for at in range(count)])
    for key, value in states[chosen].items():
        assert torch.equal(found.state_dict()[key].view(torch.int32), value.view(torch.int32))


def test_a_list_of_one_file_is_that_file(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    paths = saved(tmp_path, state)
    found, half = Two(), Two()
    combined(found, paths, MEAN)
    combined(half, paths, [0.5])
    for key, value in state.items():
        assert torch.equal(found.state_dict()[key], value)
        assert torch.equal(half.state_dict()[key], value / 2)


def test_one_file_twice_counts_twice_and_is_opened_once(tmp_path: Path) -> None:
    first, second = filled(Two()).state_dict(), {key: value + 1 for key, value in filled(Two()).state_dict().items()}
    paths = saved(tmp_path, first, second)
    found = Two()
    report = combined(found, [paths[0], paths[1], paths[0]], MEAN)
    assert report.parts[""].bytes == sum(Path(path).stat().st_size for path in paths)
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value, (2 * first[key] + second[key]) / 3)


def test_files_of_different_formats_and_dtypes_are_combined(tmp_path: Path) -> None:
    states = [{key: value + n for key, value in filled(Two()).state_dict().items()} for n in range(5)]
    torch.save({key: value.half() for key, value in states[0].items()}, tmp_path / "a.pt")
    save_file({key: value.bfloat16() for key, value in states[1].items()}, tmp_path / "b.safetensors")
    items = list(states[2].items())
    write_shards(tmp_path / "c", dict(items[:2]), dict(items[2:]))
    save_alone(states[3], checkpoint_id=tmp_path / "d")
    torch.save(
        {key: value.double() for key, value in states[4].items()},
        tmp_path / "e.pt",
        _use_new_zipfile_serialization=False,
    )
    paths = [str(tmp_path / name) for name in ("a.pt", "b.safetensors", "c", "d", "e.pt")]
    expected = {
        key: (
            states[0][key].half().double() + states[1][key].bfloat16().double()
            + states[2][key].double() + states[3][key].double() + states[4][key].double()
        ) / 5
        for key in states[0]
    }  # fmt: skip
    for mmap in (True, False):
        found = Two()
        combined(found, paths, MEAN, mmap=mmap)
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, expected[key].float(), rtol=1e-6, atol=1e-6)
    kept = load_model(
        {"_target_": "tests.models.Two"}, {"path": paths[:2], "combine": MEAN}, dtype="checkpoint", device="cpu"
    )
    assert {value.dtype for value in kept.parameters()} == {torch.float32}


def test_metadata_and_other_entries_are_the_last_files(tmp_path: Path) -> None:
    states: list[Any] = [OrderedDict(filled(Two()).state_dict()) for _ in range(2)]
    for number, state in enumerate(states):
        state._metadata = {"": {"version": number + 1}}
    paths = saved(tmp_path, *({"model": state, "epoch": n} for n, state in enumerate(states)))
    with open_checkpoint(paths[0]) as first, open_checkpoint(paths[1]) as second:
        both = Combined([first, second], MEAN)
        model = both.root.children["model"]
        assert model.metadata[""]["version"] == 2  # type: ignore[union-attr]
        assert both.root.children["epoch"] is second.root.children["epoch"]
        assert both.path == second.path


def refused(paths: list[str], combine: Any = MEAN, **more: Any) -> FitError:
    with pytest.raises(FitError) as caught:
        combined(Two(), paths, combine, **more)
    return caught.value


def test_files_with_other_keys_are_refused_and_the_odd_keys_are_named(tmp_path: Path) -> None:
    full = filled(Two()).state_dict()
    less = {key: value for key, value in full.items() if key != "second.bias"}
    more = {**full, "extra.weight": torch.ones(2)}
    paths = saved(tmp_path, full, less, full, more, full)
    error = refused(paths)
    assert error.exit_code == 4
    assert error.message == (
        f"the mean of 5 files in {tmp_path}/ (s0.pt, s1.pt, s2.pt, s3.pt, s4.pt) cannot be computed: second.bias is "
        "missing from s1.pt, extra.weight is only in s3.pt; the same keys with the same shapes were expected in each "
        "file"
    )
    kept = f"'checkpoint.path=[{paths[0]},{paths[2]},{paths[4]}]' checkpoint.combine=mean"
    assert str(error.fixes[0]) == f"{kept}   # leaves out s1.pt, s3.pt"
    assert [fix.line for fix in error.fixes[1:]] == [f"mode=inspect checkpoint.path={paths[n]}" for n in (1, 3)]
    combined(Two(), [paths[0], paths[2], paths[4]], MEAN)


def test_files_with_other_shapes_dtypes_or_kinds_are_refused(tmp_path: Path) -> None:
    full = filled(Two()).state_dict()
    changed: list[dict[str, Any]] = [
        {**full, "first.weight": torch.ones(3, 4)},
        {**full, "first.weight": torch.ones(4, 4, dtype=torch.int64)},
        {**full, "first.weight": 3},
        {**full, "first.weight": torch.ones(4, 4).to_sparse()},
        {**full, "first.weight": torch.ones(4, 4, dtype=torch.complex64)},
        {**full, "first.weight": torch.ones(4, 4, device="meta")},
    ]
    said = [
        "first.weight is [4, 4] in s0.pt, [3, 4] in s1.pt;",
        "first.weight is float32 in s0.pt, int64 in s1.pt;",
        "first.weight is a tensor in s0.pt, no tensor in s1.pt;",
        "first.weight is sparse_coo, which cannot be combined;",
        "first.weight is complex64, which cannot be combined;",
        "first.weight has no data in one of the files;",
    ]
    for other, expected in zip(changed, said, strict=True):
        paths = saved(tmp_path, full, other)
        model = filled(Two())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        for order in (paths, paths[::-1]):
            with pytest.raises(FitError) as caught:
                combined(model, order, [0.5, 0.5])
            assert expected.partition(" is ")[0].partition(" has ")[0] in caught.value.message
            assert caught.value.exit_code == 4
        assert expected in refused(paths).message
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_quantized_files_are_refused(tmp_path: Path) -> None:
    full: dict[str, torch.Tensor] = {
        "first.weight": torch.ones(4, 4, dtype=torch.int8), "first.SCB": torch.ones(4), "first.bias": torch.ones(4),
    }  # fmt: skip
    paths = saved(tmp_path, full, full)
    for combine in (MEAN, [1.0, 0.0]):
        error = refused(paths, combine)
        assert error.message == (
            f"the {'mean' if combine == MEAN else 'weighted sum'} of 2 files in {tmp_path}/ (s0.pt, s1.pt) cannot be "
            "computed: the files are quantized: bitsandbytes int8 in 1 layer (first); their integers and scales cannot "
            "be summed apart from each other (expected plain weights)"
        )
        line = f"mode=convert checkpoint.path={paths[0]} convert.path=PLAIN 'rules=[bnb8]'"
        assert [fix.line for fix in error.fixes] == [line]


def test_only_what_is_under_the_selected_key_must_agree(tmp_path: Path) -> None:
    full = filled(Two()).state_dict()
    first = {"model": full, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "old": 1}
    second = {"model": full, "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}, 1: {}}}, "new": torch.ones(1)}
    paths = saved(tmp_path, first, second)
    found = Two()
    combined(found, paths, MEAN, key="model")
    assert all(torch.equal(value, full[key]) for key, value in found.state_dict().items())


def test_a_file_without_the_nested_key_is_named(tmp_path: Path) -> None:
    full = filled(Two()).state_dict()
    paths = saved(tmp_path, {"net": full}, {"model": full}, {"model": full})
    error = refused(paths, key="model")
    assert "s0.pt has no such nested key; the same keys" in error.message
    assert error.fixes[1].line == f"mode=inspect checkpoint.path={paths[0]}"


def test_every_file_that_cannot_be_opened_is_named_and_the_line_keeps_the_others(tmp_path: Path) -> None:
    paths = saved(tmp_path, filled(Two()).state_dict(), filled(Two()).state_dict())
    absent = str(tmp_path / "s7.pt")
    with pytest.raises(CheckpointError) as caught:
        combined(Two(), [paths[0], absent, paths[1]], MEAN)
    assert caught.value.message.startswith(f"no such file: {absent}")
    assert caught.value.fixes[0].line == f"'checkpoint.path=[{paths[0]},{paths[1]},{paths[1]}]'"
    with pytest.raises(CheckpointError, match=r"^2 of 3 files are refused: no such file: .*s8\.pt.*s7\.pt") as caught:
        combined(Two(), [str(tmp_path / "s8.pt"), paths[0], absent], MEAN)
    assert [fix.line for fix in caught.value.fixes] == [f"'checkpoint.path=[{paths[1]},{paths[0]},{paths[1]}]'"]
    with pytest.raises(CheckpointError, match=r"^2 of 3 files are refused") as caught:
        combined(Two(), [paths[0], absent, "nowhere/a.pt"], MEAN)
    assert [fix.line for fix in caught.value.fixes] == [f"'checkpoint.path=[{paths[0]},{paths[1]},FILE]'"]
    with pytest.raises(CheckpointError, match=r"^no such file") as caught:
        combined(Two(), [absent, paths[0], absent], MEAN)
    assert [fix.line for fix in caught.value.fixes] == [f"'checkpoint.path=[{paths[1]},{paths[0]},{paths[1]}]'"]


def test_a_line_for_several_files_mends_all_or_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    path, *_ = saved(tmp_path / "a b", filled(Two()).state_dict())
    (tmp_path / "notes.txt").write_text("no checkpoint")
    with pytest.raises(CheckpointError) as caught:
        combined(Two(), [path.replace("s0", "s9"), path], MEAN)
    assert shlex.split(caught.value.fixes[0].line) == [f'checkpoint.path=["{path}","{path}"]']
    with pytest.raises(CheckpointError, match=r"^2 of 3 files are refused") as caught:
        combined(Two(), [path.replace("s0", "s9"), str(tmp_path / "notes.txt"), path], MEAN)
    assert not any("checkpoint.path=[" in fix.line for fix in caught.value.fixes)


def test_each_file_has_its_own_digest(tmp_path: Path) -> None:
    paths = saved(tmp_path, filled(Two()).state_dict(), {k: v + 1 for k, v in filled(Two()).state_dict().items()})
    digests = []
    for path in paths:
        with open_checkpoint(path) as one:
            digests.append(one.sha256())
    report = combined(Two(), paths, MEAN, sha256=digests)
    assert report.parts[""].combined is not None
    assert [file["sha256"] for file in report.parts[""].combined["files"]] == digests
    with open_checkpoint(paths[0]) as one, open_checkpoint(paths[1]) as two:
        assert report.parts[""].sha256 == Combined([one, two], MEAN).sha256()
        assert report.parts[""].sha256 != Combined([two, one], MEAN).sha256()
    with pytest.raises(CheckpointError, match=r"s0\.pt is not the expected file") as caught:
        combined(Two(), paths, MEAN, sha256=digests[::-1])
    assert caught.value.fixes[-1].line == f"'checkpoint.sha256=[{digests[0]},{digests[1]}]'"  # mends both
    with pytest.raises(CheckpointError, match=r"^s?.*s0\.pt is not the expected file") as caught:
        combined(Two(), paths, MEAN, sha256=[digests[1], digests[1]])
    assert caught.value.fixes[-1].line == f"'checkpoint.sha256=[{digests[0]},{digests[1]}]'"


def test_damage_of_any_file_is_found(tmp_path: Path) -> None:
    states = [{key: torch.full_like(value, n + 0.7) for key, value in Two().state_dict().items()} for n in range(3)]
    paths = saved(tmp_path, *states)
    data = bytearray(Path(paths[1]).read_bytes())
    at = data.index(states[1]["first.weight"].numpy().tobytes())
    data[at] ^= 1
    Path(paths[1]).write_bytes(data)
    for mmap in (True, False):
        model = filled(Two())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"s1\.pt is damaged: .*first\.weight"):
            combined(model, paths, MEAN, mmap=mmap)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    combined(filled(Two()), paths, [0.5, 0, 0.5])  # that file is not read


A, AB = ["a.pt"], ["a.pt", "b.pt"]
HALVES = "'checkpoint.combine=[0.5,0.5]'"
ASKS = "'checkpoint.path' lists 2 files (a.pt, b.pt), and 'checkpoint.combine' does not say how they become one; "


@pytest.mark.parametrize(
    ("settings", "said", "line"),
    [
        ({"path": AB}, f"{ASKS}expected mean or 2 weights", "checkpoint.combine=mean"),
        ({"path": []}, "'checkpoint.path' lists no files", "checkpoint.path=FILE"),
        ({"path": A, "combine": "avg"}, "is 'avg', expected mean or a list of 1 weight", "checkpoint.combine=mean"),
        ({"path": AB, "combine": [1]}, "has 1 weight for the 2 files of 'checkpoint.path'", HALVES),
        ({"path": AB, "combine": [0, 0]}, "has no weight other than 0: 0.0, 0.0", HALVES),
        ({"path": AB, "combine": [1, math.inf]}, "has a weight that is not a finite number: 1.0, inf", HALVES),
        (
            {"path": "a.pt", "combine": "mean"},
            "'checkpoint.combine' needs a list of files, and 'checkpoint.path' is one",
            "'checkpoint.path=[a.pt,FILE]'",
        ),
        (
            {"path": AB, "combine": "mean", "sha256": "ab"},
            "'checkpoint.sha256' has one digest for the 2 files of 'checkpoint.path'",
            "checkpoint.sha256=null",
        ),
        (
            {"path": "a.pt", "sha256": ["ab"]},
            "'checkpoint.sha256' is a list, and 'checkpoint.path' is one file",
            "checkpoint.sha256=null",
        ),
        ({"path": {"a": 1}}, "'checkpoint.path' is \"{'a': 1}\", expected text or a list of names", ""),
        ({"path": A, "combine": {"a": 1}}, "expected text or a list of numbers or null", "checkpoint.combine=null"),
    ],
)
def test_settings_that_do_not_say_what_is_meant_are_refused(settings: Any, said: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_into(Two(), settings)
    assert said in caught.value.message
    assert not line or line in [fix.line for fix in caught.value.fixes]


def test_a_whole_pickled_model_is_not_combined(tmp_path: Path) -> None:
    paths = saved(tmp_path, Two(), Two())
    with pytest.raises(ConfigError, match="combining files needs a declared architecture, and model is null"):
        load({"model": None, "checkpoint": {"path": paths, "combine": "mean"}, "device": "cpu"})


def test_rules_work_on_the_names_that_the_files_share(tmp_path: Path) -> None:
    states = [{f"module.{key}": value + n for key, value in filled(Two()).state_dict().items()} for n in range(2)]
    paths = saved(tmp_path, *states)
    for rules in ({"ddp": {"strip": "module."}}, "auto"):
        found = Two()
        report = load_into(found, {"path": paths, "combine": MEAN}, rules=rules)
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, states[0][f"module.{key}"] + 0.5)
    assert report.parts[""].applied == ["'rules=[ddp]'"]


def test_parts_have_lists_of_their_own(tmp_path: Path) -> None:
    states = [{key: value + n for key, value in filled(Two()).state_dict().items()} for n in range(3)]
    paths = saved(tmp_path, *states)
    model = nn.ModuleDict({"left": Two(), "right": Two(), "plain": Two()})
    report = load_into(
        model,
        {"path": paths[:2], "combine": MEAN},
        parts={"left": {}, "right": {"path": paths[1:], "combine": [1, -1]}, "plain": {"path": paths[2]}},
    )
    key = "first.weight"
    torch.testing.assert_close(model["left"].state_dict()[key], states[0][key] + 0.5)
    torch.testing.assert_close(model["right"].state_dict()[key], states[1][key] - states[2][key])
    assert torch.equal(model["plain"].state_dict()[key], states[2][key])
    assert report.parts["plain"].combined is None
    assert report.parts["right"].combined is not None
    assert [file["weight"] for file in report.parts["right"].combined["files"]] == [1, -1]


def test_buffers_that_are_not_floats_are_taken_whole(tmp_path: Path) -> None:
    states = [filled(Buffers()).state_dict() for _ in range(2)]
    found = Buffers()
    combined(found, saved(tmp_path, *states), MEAN)
    for key, value in states[-1].items():
        torch.testing.assert_close(found.state_dict()[key], value)


def test_containers_that_hold_each_other_are_matched_in_bounded_time(tmp_path: Path) -> None:
    def ring(length: int) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [{"x": torch.ones(1)} for _ in range(length)]
        for at, node in enumerate(nodes):
            node["next"] = nodes[(at + 1) % length]
        return nodes[0]

    with pytest.raises(CheckpointError, match=r"nest their entries in ways that do not match: s0\.pt, s1\.pt"):
        combined(Two(), saved(tmp_path, ring(97), ring(89)), MEAN)
    same = saved(tmp_path, ring(50), ring(50))
    with open_checkpoint(same[0]) as one, open_checkpoint(same[1]) as two:
        assert len([*Combined([one, two], MEAN).root.walk()]) == 50


def test_names_are_short_where_folders_are_shared() -> None:
    assert short_names(["/a/b/c.pt", "/a/b/d.pt"]) == ["c.pt", "d.pt"]
    assert short_names(["/a/1/last.pt", "/a/2/last.pt"]) == ["1/last.pt", "2/last.pt"]
    assert short_names(["/a/b.pt"]) == ["b.pt"]
    assert short_names(["/a/b.pt", "/a/b.pt"]) == ["b.pt", "b.pt"]
    assert short_names(["https://h/x/a.pt", "/x/b.pt"]) == ["https://h/x/a.pt", "/x/b.pt"]
