from __future__ import annotations

from pathlib import Path

import pytest

from loader.cli.completion import candidates, for_hydra
from loader.cli.main import run_command


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["mode=p"], ["mode=plan"]),
        (["device=c"], ["device=cpu", "device=cuda", "device=cuda:0"]),
        (["dtype=b"], ["dtype=bfloat16"]),
        (["checkpoint.check="], ["checkpoint.check=crc", "checkpoint.check=structure", "checkpoint.check=full"]),
        (["parts.a.check=f"], ["parts.a.check=full"]),
        (["checkpoint.format=safetensors-"], ["checkpoint.format=safetensors-sharded"]),
        (["checkpoint.format=d"], ["checkpoint.format=dcp", "checkpoint.format=deepspeed"]),
        (["checkpoint.mmap="], ["checkpoint.mmap=true", "checkpoint.mmap=false"]),
        (["verify.expect.finite=f"], ["verify.expect.finite=false"]),
        (["+convert.embed=t"], ["+convert.embed=true"]),
        (["rules=[ddp,com"], ["rules=[ddp,compile]", "rules=[ddp,compile,"]),
        (["rules=[d", ""], []),
        (["--vers"], ["--version"]),
        (["--info", "def"], ["defaults", "defaults-tree"]),
        (["--cfg", ""], ["job", "hydra", "all"]),
        (["model="], []),
        (["chec"], []),
    ],
)
def test_values_that_hydra_does_not_know(typed: list[str], expected: list[str]) -> None:
    assert candidates(typed) == expected


def test_a_path_is_completed_folder_by_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("runs/epoch=3.ckpt", "runs/.hidden", "my file.pt", "$(x).pt", "`x`.pt", "m.pt"):
        (tmp_path / name).touch()

    assert candidates(["checkpoint.path="]) == ["checkpoint.path=m.pt", "checkpoint.path=runs/"]
    assert candidates(["parts.a.path=runs/"]) == ["parts.a.path=runs/epoch=3.ckpt"]
    assert candidates(["scaffold.path=runs/.h"]) == ["scaffold.path=runs/.hidden"]
    assert candidates(["convert.path=nowhere/x"]) == []


def test_rules_of_a_folder_of_ones_own_are_offered(tmp_path: Path) -> None:
    (tmp_path / "mine/rules").mkdir(parents=True)
    (tmp_path / "mine/rules/ours.yaml").touch()

    assert candidates(["--config-dir", "mine", "rules=[o"]) == ["rules=[ours]", "rules=[ours,"]


def test_hydra_is_handed_what_it_can_read() -> None:
    words = ["model=linear", "verify.input={shape:", "--config-dir", "mine", "--json", "checkpoint.path=a=b.pt", "mod"]

    assert for_hydra(words) == "--config-dir mine model=linear mod"
    assert for_hydra(["model=linear", ""]) == "model=linear "


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run.py mode=pl", "mode=plan"),
        ("run.py model=null dev", "device="),
        ("run.py checkpoint.path=a=b.pt experiment=dd", "experiment=ddp"),
        ("run.py 'verify.input={shape: [1, 2]}' experiment=dd", "experiment=ddp"),
        ("run.py chekpoint.path=x chec", "checkpoint="),
        ("run.py 'rules=[ddp", ""),
        ("run.py model=linear model.", "model._target_= model.in_features= model.out_features="),
    ],
)
def test_a_shell_is_answered(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert run_command(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.strip() == expected
    assert run_command(["-sc", "query=fish"]) == 0
    assert capsys.readouterr().out.split() == expected.split()
