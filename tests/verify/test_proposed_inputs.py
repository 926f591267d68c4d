"""An input that nobody gave: which sizes it has, and that a load never fails of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import VerificationError, load_into
from loader.verify.proposal import other_sizes, propose
from tests.command import REPOSITORY, run_loader
from tests.jobs import carry_out, checks, detail, save, target
from tests.libraries import library
from tests.models import Behaving, filled


class Sized(nn.Module):
    """Takes pictures of one size, and says so in one of several ways."""

    side: torch.Tensor

    def __init__(self, says: str = "", img_size: int = 48, told: Any = None) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16))
        self.says, self.told = says, told
        self.register_buffer("side", torch.tensor(img_size), persistent=False)
        if says == "attribute":
            vars(self.embed)["image_size"] = (img_size, img_size)
        if says == "default_cfg":
            self.default_cfg = {"input_size": (3, img_size, img_size)}
        if says == "config":
            self.config = type("Config", (), {"image_size": img_size})()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != int(self.side):
            raise AssertionError(self.told or "another size of picture was expected")
        result: torch.Tensor = self.embed(x)
        return result


def sized(tmp_path: Path, **arguments: Any) -> Any:
    path = save(Sized().state_dict(), tmp_path / "sized.pt")
    return carry_out({"_target_": f"{__name__}.Sized", **arguments}, path, verify={}).report


SAYING = [
    ({"says": "attribute"}, 48, "embed.image_size"),
    ({"says": "default_cfg"}, 48, "default_cfg.input_size"),
    ({"says": "config"}, 48, "config.image_size"),
    ({}, 48, "the default of img_size"),
    ({"img_size": 80}, 80, "the argument img_size"),
]


@pytest.mark.parametrize(("arguments", "side", "source"), SAYING, ids=[case[2] for case in SAYING])
def test_a_proposal_that_fails_is_tried_at_the_size_that_the_model_says(
    arguments: dict[str, Any], side: int, source: str, tmp_path: Path
) -> None:
    report = sized(tmp_path, **arguments)
    assert report.verification.inputs[0]["shape"] == [1, 3, side, side]
    assert report.verification.inputs[0]["origin"] == (
        f"proposed from embed.0 (Conv2d) with {source}; verify.input sets another"
    )
    assert checks(report)["forward pass"]


class Hidden(Sized):
    """Says nothing but in its error."""

    def __init__(self, side: int, told: str) -> None:
        super().__init__(img_size=side, told=told)


ERRORS = [
    ("Input height (64) doesn't match model (56).", 56, "a size that its error names"),
    ("Wrong image height! Expected 112 but got 64!", 112, "a size that its error names"),
    (
        "The size of tensor a (17) must match the size of tensor b (26) at non-singleton dimension 1",
        80,
        "the number of patches that its error names",
    ),
]


@pytest.mark.parametrize(("told", "side", "source"), ERRORS, ids=[case[2] + str(case[1]) for case in ERRORS])
def test_a_proposal_that_fails_is_tried_at_the_size_that_the_error_says(
    told: str, side: int, source: str, tmp_path: Path
) -> None:
    path = save(Sized().state_dict(), tmp_path / "sized.pt")
    node = {"_target_": f"{__name__}.Hidden", "side": side, "told": told}
    report = carry_out(node, path, verify={}).report
    assert report.verification.inputs[0]["shape"] == [1, 3, side, side]
    assert f" with {source}; " in report.verification.inputs[0]["origin"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(1 << 20, 1 << 20, 1, groups=1 << 20, device="meta"), [1, 1 << 20, 2, 2, 2]),
        (nn.Conv2d(1 << 25, 1 << 25, 1, groups=1 << 25, device="meta"), [1, 1 << 25, 1, 1]),
        (nn.Conv3d(3, 4, 1, device="meta"), [1, 3, 64, 64, 64]),
    ],
)
def test_no_picture_is_proposed_that_is_much_larger_than_the_weights(layer: nn.Module, shape: list[int]) -> None:
    found = propose(layer)
    assert found is not None
    assert found[0]["shape"] == shape


def test_sizes_that_no_picture_has_are_not_tried() -> None:
    model = Sized("attribute", 7)
    model.config = {"image_size": 10**6, "input_size": "large", "resolution": [32, 40]}
    found = list(other_sizes(model, {"backbone": [{"img_size": True}]}, "64, 0, 999999 and 64"))
    assert [proposal.spec["shape"] for proposal in found] == [
        [1, 3, 32, 40],
        [1, 3, 48, 48],
    ]
    assert all(proposal.spec["kind"] == "uniform" for proposal in found)
    assert not list(other_sizes(nn.Linear(2, 2), {"img_size": 224}, "expected 224"))


NOT_DONE = (
    "not done: the forward pass raised ValueError: cannot broadcast. Its input was [1, 2] float32 (proposed from the "
    "model (Behaving); verify.input sets another)"
)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raise", NOT_DONE),
        ("exit", NOT_DONE.replace("ValueError: cannot broadcast", "SystemExit: 3")),
        ("nothing", NOT_DONE.replace("raised ValueError: cannot broadcast", "returns no tensor")),
    ],
)
def test_a_proposal_that_fails_at_every_size_fails_no_load(how: str, told: str, tmp_path: Path) -> None:
    path = save(filled(Behaving()).state_dict(), tmp_path / "linear.pt")
    report = carry_out(target("Behaving", how=how), path, verify={}).report
    assert report.status == "ok"
    assert checks(report)["forward pass"] is None
    assert detail(report, "forward pass") == told
    assert checks(report)["read back"]
    assert report.verification.outputs == []
    assert report.to_dict()["verification"]["checks"][3]["ok"] is None
    load_into(Behaving(how), path, verify={})


@pytest.mark.parametrize(
    ("verify", "setting"), [({"record": True}, "verify.record"), ({"expect": {"shape": [1, 2]}}, "verify.expect.shape")]
)
def test_what_was_asked_of_a_forward_pass_that_is_not_done_fails(
    verify: dict[str, Any], setting: str, tmp_path: Path
) -> None:
    path = save(filled(Behaving()).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(VerificationError) as refusal:
        carry_out(target("Behaving", how="raise"), path, verify=verify)
    assert refusal.value.message == f"forward pass: {NOT_DONE.replace('not done', f'not done, and {setting} needs it')}"
    assert refusal.value.hint.startswith("'verify.input={shape: [1, 3, 224, 224]}'")


def test_the_terminal_says_that_a_forward_pass_was_not_done(tmp_path: Path) -> None:
    save(filled(Behaving()).state_dict(), tmp_path / "linear.pt")
    model = "{_target_: tests.models.Behaving, how: raise}"
    done = run_loader(f"model={model}", "checkpoint.path=linear.pt", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.code == 0, done.err
    assert "-    forward pass: not done: the forward pass raised ValueError: cannot broadcast." in done.out
    assert (done.report["status"], done.report["exit_code"]) == ("ok", 0)


def test_a_real_vision_transformer_runs_at_its_own_size(tmp_path: Path) -> None:
    timm = library("timm")
    node = {"_target_": "timm.create_model", "model_name": "vit_tiny_patch16_224"}
    path = save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pt")
    report = carry_out(node, path, verify={}).report
    assert report.verification.inputs[0]["shape"] == [1, 3, 224, 224]


class Rooted(nn.Module):
    """Takes the root of a picture, as a model that undoes gamma does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(x.sqrt())
        return result


def test_pictures_that_are_proposed_are_numbers_from_0_to_1(tmp_path: Path) -> None:
    path = save(filled(Rooted()).state_dict(), tmp_path / "rooted.pt")
    node = {"_target_": f"{__name__}.Rooted"}
    assert checks(carry_out(node, path, verify={}).report)["finite outputs"]
    with pytest.raises(VerificationError) as refusal:
        carry_out(node, path, verify={"input": {"shape": [1, 3, 8, 8]}})
    assert refusal.value.message == "finite outputs: inf or nan in output 0"
    assert refusal.value.hint == (
        "'verify.input={shape: [1, 3, 8, 8], kind: uniform}'   # values from 0 to 1, as in images\n"
        "verify.expect.finite=false   # accepts inf and nan"
    )
    carry_out(node, path, verify={"input": {"shape": [1, 3, 8, 8], "kind": "uniform"}})
    for raw in ({"shape": [1, 3, 8, 8], "kind": "zeros", "value": float("nan")}, {"value": [[[[-1.0]] * 3]]}):
        with pytest.raises(VerificationError) as refusal:
            carry_out(node, path, verify={"input": raw})
        assert "uniform" not in refusal.value.hint


class Logarithmic(nn.Linear):
    """Takes numbers above 0 alone, which nothing in it says."""

    def __init__(self) -> None:
        super().__init__(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.log())


def test_a_proposed_input_that_gives_no_number_fails_no_load(tmp_path: Path) -> None:
    path = save(filled(Logarithmic()).state_dict(), tmp_path / "logarithmic.pt")
    node = {"_target_": f"{__name__}.Logarithmic"}
    report = carry_out(node, path, verify={}).report
    assert checks(report)["finite outputs"] is None
    assert detail(report, "finite outputs") == "inf or nan in output 0, on an input that was proposed"
    with pytest.raises(VerificationError, match=r"^finite outputs: inf or nan in output 0\n"):
        carry_out(node, path, verify={"input": {"shape": [1, 4]}})
