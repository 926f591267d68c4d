"""Parts: what each file offers, under which full model key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from loader.config.parse import parse_job
from loader.errors import CheckpointError, FitError
from loader.formats.memory import MemoryCheckpoint
from loader.parts import Part, offers, open_parts, part_configs
from loader.wants import slots, wanted
from tests.jobs import assert_same_state, carry_out, job, save
from tests.models import Extra, Normed, Pair, Two, filled


def offered(module: torch.nn.Module, state: Any, **settings: Any) -> tuple[Any, list[Part]]:
    """What a state dict in memory offers to a module."""
    settings.setdefault("parts", {})
    config = parse_job(job("Two", "in memory", **settings))
    parts = [Part(name, part, MemoryCheckpoint(state)) for name, part in part_configs(config).items()]
    return offers(parts, wanted(slots(module))), parts


def test_a_plain_job_is_one_part_at_the_root() -> None:
    found, (part,) = offered(Two(), filled(Two()).state_dict())
    assert (part.name, part.full("first.weight")) == ("", "first.weight")
    assert list(found.entries) == list(Two().state_dict())
    assert all(offer.part == "" and offer.source == key for key, offer in found.entries.items())


def test_entries_are_known_under_their_full_keys_after_the_rules() -> None:
    state = {f"module.{key}": value for key, value in Two().state_dict().items()}
    parts = {"backbone": {"rules": {"ddp": {"strip": "module."}, "bias": {"drop": "*.bias"}}}}
    found, (part,) = offered(Pair(), state, parts=parts)
    assert list(found.entries) == ["backbone.first.weight", "backbone.second.weight"]
    assert found.entries["backbone.first.weight"].source == "module.first.weight"
    assert found.dropped == ["backbone.first.bias", "backbone.second.bias"]
    assert [(hit.name, hit.hits) for hit in part.hits] == [("ddp", 4), ("bias", 2)]


def test_metadata_moves_with_its_keys() -> None:
    state: Any = torch.nn.Sequential(torch.nn.ModuleDict({"module": Normed()})).state_dict()
    rules = {"outer": {"strip": "0."}, "ddp": {"strip": "module."}}
    found, _ = offered(torch.nn.ModuleDict({"net": Normed()}), state, parts={"net": {"rules": rules}})
    assert found.metadata["net.norm"] == {"version": 2}
    assert state._metadata["0.module.norm"] == {"version": 2}


def test_what_is_no_tensor_is_named_unless_the_model_has_that_key() -> None:
    state = {**Extra().state_dict(), "epoch": 3, "_extra_state": {"version": 1}}
    found, (part,) = offered(Extra(), state)
    assert part.other == {"epoch": "int"}
    assert "_extra_state" in found.entries


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
    assert refusal.value.hint == "give the file of the model's weights, which is often beside it: checkpoint.path=FILE"


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


@pytest.mark.parametrize(
    ("path", "parts", "told"),
    [
        ("root.pt", {"backbone": {"path": "part.pt"}}, True),
        ("root.pt", {"backbone": {}}, False),
        ("root.pt", {"backbone": {"path": "part.pt"}, "head": {"key": "head"}}, False),
        ("pkg://loader.examples/weights/simple_net.safetensors", {"backbone": {"path": "part.pt"}}, False),
    ],
)
def test_a_file_that_no_part_reads_is_told(
    path: str, parts: dict[str, Any], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("root.pt", "part.pt"):
        save(filled(Two()).state_dict(), tmp_path / name)
    settings = job("Pair", path, parts=parts)
    expected = "checkpoint.path=root.pt is not read: each part has a path of its own, and the root is no part"
    with ExitStack() as stack:
        opened = open_parts(parse_job(settings), stack)
    assert [part.remark for part in opened] == [expected * told, *[""] * (len(parts) - 1)]


def test_a_file_that_no_part_reads_is_told_with_a_refusal_and_in_the_report(tmp_path: Path) -> None:
    root, part = (save(filled(Two()).state_dict(), tmp_path / name) for name in ("root.pt", "part.pt"))
    parts = {"backbone": {"path": str(part)}}
    told = f"checkpoint.path={root} is not read: each part has a path of its own, and the root is no part"
    with pytest.raises(FitError) as refusal:
        carry_out("Pair", root, parts=parts)
    assert told in refusal.value.message
    loaded = carry_out("Pair", root, parts=parts, allow={"missing": ["head.*"]})
    assert loaded.report.parts["backbone"].note == told
