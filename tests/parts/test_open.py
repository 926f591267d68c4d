"""Parts: what each file offers, under which full model key."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.config.compose import compose
from loader.config.parse import parse_job
from loader.errors import CheckpointError, ConfigError, FitError
from loader.parts.open import open_parts
from loader.text.lines import value_text
from tests.jobs import assert_same_state, carry_out, job, save
from tests.models import Pair, Two, filled


@pytest.mark.parametrize(("key", "label"), [(None, "{path}"), ("net", "{path} under 'net'")])
def test_a_part_is_named_by_its_file_and_key(key: str | None, label: str, tmp_path: Path) -> None:
    path = save({"net": Two().state_dict()}, tmp_path / "two.pt")
    with ExitStack() as files:
        (part,) = open_parts(parse_job(job("Two", path, checkpoint={"key": key})), files)
        assert part.label == label.format(path=path)


def test_files_are_closed_with_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loader.formats.opened import OpenedFile

    closed: list[Path] = []
    original = OpenedFile.close

    def close(self: OpenedFile) -> None:
        closed.append(self.path)
        original(self)

    monkeypatch.setattr(OpenedFile, "close", close)
    good, bad = save(Two().state_dict(), tmp_path / "good.pt"), tmp_path / "bad.pt"
    bad.write_bytes(b"no checkpoint")
    parts = {"backbone": {"path": str(good)}, "head": {"path": str(bad)}}
    with pytest.raises(ValueError, match=r"bad\.pt"), ExitStack() as files:
        open_parts(parse_job(job("Pair", "", parts=parts)), files)
    assert closed == [good]


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda state: state,
    "nested": lambda state: {"optimizer": state, "epoch": 3, "scheduler": {"last_epoch": 3}},
    "two": lambda state: {"optimizers": [state, state]},
}


@pytest.mark.parametrize("case", OPTIMIZERS)
@pytest.mark.parametrize("key", [None, "auto"])
def test_a_file_of_an_optimizer_alone_is_told_by_its_name(case: str, key: str | None, tmp_path: Path) -> None:
    model = Two()
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = save(OPTIMIZERS[case](optimizer.state_dict()), tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError) as refusal:
        carry_out("Two", path, checkpoint={"key": key})
    assert refusal.value.message.startswith(
        f"{path} holds the state of an optimizer and no weights. In the file:\n  (top"
    )
    assert refusal.value.hint == "checkpoint.path=FILE   # the file with the weights, often next to this one"


def test_weights_in_one_dict_with_an_optimizers_tables_are_weights(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    optimizer = torch.optim.AdamW(Two().parameters()).state_dict()
    path = save({"model": state, **optimizer}, tmp_path / "both.pt")

    loaded = carry_out("Two", path, checkpoint={"key": "auto"})

    assert loaded.model is not None
    assert_same_state(loaded.model, state)


def test_weights_beside_an_optimizer_are_weights(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    optimizer = torch.optim.AdamW(Two().parameters()).state_dict()
    path = save({"model": state, "optimizer": optimizer}, tmp_path / "a.pt")
    assert carry_out("Two", path, checkpoint={"key": "model"}).report.keys.loaded == len(state)


def two_files(folder: Path) -> tuple[Path, Path]:
    """A backbone with its head in one file, another head in the other."""
    whole = {f"{name}.{key}": value + 1 for name in ("backbone", "head") for key, value in halves(name).items()}
    return save(whole, folder / "whole.pt"), save({k: v + 2 for k, v in halves("head").items()}, folder / "head.pt")


def halves(name: str) -> dict[str, torch.Tensor]:
    return filled(getattr(Pair(), name)).state_dict()


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize("root", [None, "", "_root_"])
def test_the_root_loads_what_other_parts_do_not_cover(root: str | None, tmp_path: Path) -> None:
    whole, head = two_files(tmp_path)
    parts: dict[str, Any] = {"head": {"path": str(head)}}
    if root is not None:
        parts |= {root: {"path": str(whole)}}

    loaded = carry_out("Pair", whole if root is None else "no_such_file.pt", parts=parts)

    state = values(loaded.model)
    assert all(torch.equal(state[f"backbone.{key}"], value + 1) for key, value in halves("backbone").items())
    assert all(torch.equal(state[f"head.{key}"], value + 2) for key, value in halves("head").items())
    assert set(loaded.report.parts) == {"", "head"}
    assert loaded.report.parts[""].path == str(whole)
    assert sorted(loaded.report.keys.dropped) == sorted(f"head.{key}" for key in halves("head"))
    assert loaded.report.keys.unexpected == []


def test_a_key_of_a_mounted_part_is_not_filled_from_the_root(tmp_path: Path) -> None:
    whole, head = two_files(tmp_path)
    (_, *rest) = halves("head").items()
    save(dict(rest), head)

    with pytest.raises(FitError) as refusal:
        carry_out("Pair", whole, parts={"head": {"path": str(head)}})
    assert refusal.value.plan is not None
    assert [key for key in refusal.value.plan.missing if key.startswith("head.")] == refusal.value.plan.missing != []


def test_a_path_that_only_parts_take_over_is_no_part_of_its_own(tmp_path: Path) -> None:
    whole, head = two_files(tmp_path)
    both = {"backbone": {"path": str(save(halves("backbone"), tmp_path / "a.pt"))}, "head": {"path": str(head)}}
    loaded = carry_out("Pair", whole, parts=both)
    told = f"checkpoint.path={whole} is not read: the parts fill the whole model"
    assert (set(loaded.report.parts), loaded.report.parts["backbone"].note) == ({"backbone", "head"}, told)

    nested = save({"b": halves("backbone"), "h": halves("head")}, tmp_path / "nested.pt")
    loaded = carry_out("Pair", nested, parts={"backbone": {"key": "b"}, "head": {"key": "h"}})
    assert (set(loaded.report.parts), loaded.report.parts["backbone"].note) == ({"backbone", "head"}, "")
    loaded = carry_out("Pair", nested, parts={"backbone": {"key": "b"}}, allow={"missing": ["head.*"]})
    assert set(loaded.report.parts) == {"backbone"}


def test_the_shipped_file_is_no_root(tmp_path: Path) -> None:
    _, head = two_files(tmp_path)
    shipped = "pkg://loader.examples/weights/simple_net.safetensors"
    loaded = carry_out("Pair", shipped, parts={"head": {"path": str(head)}}, allow={"missing": ["backbone.*"]})
    assert set(loaded.report.parts) == {"head"}


def test_a_root_that_parts_name_is_mended_where_it_is_set(tmp_path: Path) -> None:
    whole, head = two_files(tmp_path)
    nested = save({"model": torch.load(whole)}, tmp_path / "nested.pt")
    parts = {"_root_": {"path": str(nested)}, "head": {"path": str(head)}}

    with pytest.raises(FitError) as refusal:
        carry_out("Pair", "unset.pt", parts=parts)
    line = refusal.value.hint.splitlines()[0]
    assert line.startswith("parts._root_.key=model"), refusal.value.hint
    typed = [f"parts={value_text(parts)}", *shlex.split(line.partition("   #")[0]), "device=cpu"]
    config = compose(["model._target_=tests.models.Pair", *typed])
    assert loader.load(["model._target_=tests.models.Pair", "verify.forward=false", *typed]).report.status == "ok"
    assert config["parts"]["_root_"] == {"path": str(nested), "key": "model"}


def test_what_is_set_for_the_root_under_both_names_is_set_for_one_part() -> None:
    config = parse_job({"checkpoint": {"path": "a.pt"}, "parts": {"": {"path": "b.pt"}, "_root_": {"key": "c"}}})
    root = config.parts[""].checkpoint
    assert (list(config.parts), root.path, root.key) == ([""], "b.pt", "c")
    with pytest.raises(ConfigError, match=r"unknown config key 'parts\._root_\.pth'"):
        parse_job({"checkpoint": {"path": "a.pt"}, "parts": {"_root_": {"pth": "b.pt"}}})


def test_a_live_model_takes_a_root_and_a_head(tmp_path: Path) -> None:
    whole, head = two_files(tmp_path)
    model = Pair()
    report = loader.load_into(model, whole, parts={"head": {"path": str(head)}})
    assert set(report.parts) == {"", "head"}
    assert all(torch.equal(model.state_dict()[f"head.{key}"], value + 2) for key, value in halves("head").items())


@pytest.mark.parametrize("key", ["parts.encoder.0.key=sd", "+parts.encoder.0.key=sd"])
def test_a_setting_of_a_part_with_a_dotted_name_is_that_parts(key: str) -> None:
    config = compose(["parts={encoder.0: {path: a.pt}, b: {path: c.pt}}", key, "parts.encoder.0.rules.x.strip=a."])
    assert config["parts"] == {
        "encoder.0": {"path": "a.pt", "key": "sd", "rules": {"x": {"strip": "a."}}},
        "b": {"path": "c.pt"},
    }
