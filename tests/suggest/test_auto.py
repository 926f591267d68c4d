from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.api import Loaded
from loader.report.terminal import lines
from loader.schema import Rule
from loader.suggest import search
from loader.suggest.attempts import Attempt, ModelKeys, Source
from loader.suggest.search import attempts
from tests.jobs import carry_out, save
from tests.models import Pair

NODE = "model={_target_: tests.models.Pair}"


def typed(path: Path, *overrides: str) -> Loaded:
    return loader.load([NODE, f"checkpoint.path={path}", "device=cpu", "verify.forward=false", *overrides])


def nested(folder: Path) -> Path:
    state = {"module.net." + key: value for key, value in Pair().state_dict().items()}
    return save({"epoch": 3, "trainer": {"weights": state}}, folder / "nested.pt")


def test_auto_on_the_command_line_is_recorded_as_the_overrides_that_it_stood_for(tmp_path: Path) -> None:
    loaded = typed(nested(tmp_path), "rules=auto", "checkpoint.key=auto")
    part = loaded.report.parts[""]

    assert part.applied == ["checkpoint.key=trainer.weights", """'rules={fit: {strip: "module.net."}}'"""]
    assert part.key == "trainer.weights"
    assert part.rules == [{"name": "fit", "hits": 6}]
    message = "auto found: checkpoint.key=trainer.weights 'rules={fit: {strip: \"module.net.\"}}'"
    assert message in [text for _, text, _ in lines(loaded.report)]


def test_a_run_can_be_frozen(tmp_path: Path) -> None:
    path = nested(tmp_path)
    found = typed(path, "rules=auto", "checkpoint.key=auto").report.parts[""]

    again = typed(path, *(word for line in found.applied for word in shlex.split(line))).report.parts[""]

    assert (again.key, again.rules, again.applied) == (found.key, found.rules, [])


def test_auto_finds_the_key_alone_where_the_rules_are_given(tmp_path: Path) -> None:
    rules = {"own": {"strip": "module.net."}}
    report = carry_out("Pair", nested(tmp_path), checkpoint={"key": "auto"}, rules=rules).report

    assert report.parts[""].applied == ["checkpoint.key=trainer.weights"]


def test_auto_finds_the_rules_alone_where_the_key_is_given(tmp_path: Path) -> None:
    report = carry_out("Pair", nested(tmp_path), checkpoint={"key": "trainer.weights"}, rules="auto").report

    assert report.parts[""].applied == ["""'rules={fit: {strip: "module.net."}}'"""]


def test_auto_leaves_a_file_that_fits_as_it_is(tmp_path: Path) -> None:
    path = save(Pair().state_dict(), tmp_path / "plain.pt")
    report = carry_out("Pair", path, checkpoint={"key": "auto"}, rules="auto").report

    assert report.parts[""].applied == ["checkpoint.key=null", "'rules=[]'"]
    assert report.parts[""].key is None


def test_parts_are_found_each_for_itself(tmp_path: Path) -> None:
    pair = Pair()
    body = {"module." + key: value for key, value in pair.backbone.state_dict().items()}
    path = save({"body": body, "top": pair.head.state_dict()}, tmp_path / "two.pt")

    parts: dict[str, dict[str, str]] = {"backbone": {}, "head": {}}
    report = carry_out("Pair", path, parts=parts, checkpoint={"key": "auto"}, rules="auto").report

    assert report.parts["backbone"].key == "body"
    assert report.parts["head"].applied == ["parts.head.key=top", "'parts.head.rules={}'"]


def searched(monkeypatch: pytest.MonkeyPatch, path: Path, **settings: Any) -> int:
    """How many nested keys were searched for a job."""
    calls: list[str | None] = []

    def counted(source: Source, model: ModelKeys, given: Mapping[str, Rule], **how: Any) -> list[Attempt]:
        calls.append(source.key)
        return attempts(source, model, given, **how)

    with monkeypatch.context() as patched:
        patched.setattr(search, "attempts", counted)
        with contextlib.suppress(loader.FitError):
            carry_out("Pair", path, **settings)
    return len(calls)


@pytest.mark.parametrize("extra", [{}, {"extra.weight": torch.zeros(3)}], ids=["found", "refused"])
@pytest.mark.parametrize("place", ["trainer.weights", ""])
def test_auto_searches_no_more_than_the_refusal_that_finds_the_same_line(
    place: str, extra: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"module.net." + key: value for key, value in Pair().state_dict().items()} | extra
    file = {"trainer": {"weights": weights}, "old": {"head.weight": torch.zeros(2, 4)}} if place else weights
    path = save(file, tmp_path / "file.pt")
    key = {"checkpoint": {"key": "auto"}} if place else {}

    plain = searched(monkeypatch, path)

    assert 0 < searched(monkeypatch, path, rules="auto", **key) <= plain


def test_mode_plan_settles_auto_as_well(tmp_path: Path) -> None:
    report = carry_out("Pair", nested(tmp_path), checkpoint={"key": "auto"}, rules="auto", mode="plan").report

    assert report.keys.loaded == 6
    assert report.parts[""].applied


def test_a_live_module_is_loaded_by_auto(tmp_path: Path) -> None:
    state = {"module." + key: value for key, value in Pair().state_dict().items()}

    report = loader.load_into(Pair(), state, rules="auto")

    assert report.parts[""].applied == ["'rules=[ddp]'"]
