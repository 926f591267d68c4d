"""What the parts offer to a model: entries after the rules, under full model keys."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch

from loader.config.parse import parse_job
from loader.formats.memory import MemoryCheckpoint
from loader.module.slots import slots, wanted
from loader.parts import Part, part_configs
from loader.parts.offer import Offers, offers
from tests.jobs import job
from tests.models import Extra, Normed, Pair, Two, filled


def offered(module: torch.nn.Module, state: Any, **settings: Any) -> tuple[Offers, list[Part]]:
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
    assert [gone.key for gone in found.dropped] == ["backbone.first.bias", "backbone.second.bias"]
    assert [gone.source for gone in found.dropped] == ["module.first.bias", "module.second.bias"]
    assert [(hit.name, hit.hits) for hit in found.hits[part.name]] == [("ddp", 4), ("bias", 2)]


def test_metadata_moves_with_its_keys() -> None:
    state: Any = torch.nn.Sequential(torch.nn.ModuleDict({"module": Normed()})).state_dict()
    rules = {"outer": {"strip": "0."}, "ddp": {"strip": "module."}}
    found, _ = offered(torch.nn.ModuleDict({"net": Normed()}), state, parts={"net": {"rules": rules}})
    assert found.metadata["net.norm"] == {"version": 2}
    assert state._metadata["0.module.norm"] == {"version": 2}


@pytest.mark.parametrize(
    ("keys", "rule", "prefixes"),
    [
        (["norms.weight"], {"split": r"^norms\.", "into": ["a.", "b."], "sizes": [1, 1]}, {"a", "b"}),
        (["a.weight", "b.weight"], {"merge": [r"^a\.", r"^b\."], "to": "norms."}, {"norms"}),
        (["norms.weight"], {"copy": r"^norms\.", "into": "norms.{}.", "times": 2}, {"norms.0", "norms.1"}),
        (["norms.weight"], {"rearrange": "*", "pattern": "(a b) -> b a", "axes": {"a": 2}}, {"norms"}),
    ],
)
def test_metadata_follows_rules_that_change_tensors(keys: list[str], rule: dict[str, Any], prefixes: set[str]) -> None:
    state = OrderedDict({key: torch.ones(4) for key in keys})
    versions = {key.partition(".")[0]: {"version": 2} for key in keys}
    state._metadata = {"": {"version": 1}, **versions}  # type: ignore[attr-defined]
    found, _ = offered(Two(), state, rules={"r": rule})
    assert {prefix for prefix, values in found.metadata.items() if values == {"version": 2}} == prefixes
    assert {key.rpartition(".")[0] for key in found.entries} == prefixes


def test_what_is_no_tensor_is_named_unless_the_model_has_that_key() -> None:
    state = {**Extra().state_dict(), "epoch": 3, "_extra_state": {"version": 1}}
    found, (part,) = offered(Extra(), state)
    assert found.other[part.name] == {"epoch": "int"}
    assert "_extra_state" in found.entries


def test_nothing_is_filled_in_later() -> None:
    found, (part,) = offered(Two(), filled(Two()).state_dict())
    for value, name in ((part, "config"), (found, "entries")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
