"""Reports that somebody else wrote: what they cannot do, and how damaged ones are refused."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.jobs import save
from tests.models import Two, filled
from tests.modes.replay.runs import TWO, Done, made, replayed

pytestmark = pytest.mark.damaged_reports


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


@pytest.fixture
def recorded(path: Path, tmp_path: Path) -> Done:
    return made(tmp_path / "first", *TWO, f"checkpoint.path={path}")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_trust_never_comes_from_a_report(recorded: Done, path: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    path.write_bytes(pickle.dumps({"state_dict": filled(Two()).state_dict(), "other": Payload(proof)}))
    recorded.edit(
        lambda report: report["config"]["checkpoint"].update(
            trust=True, key="state_dict", allow_globals=["pathlib.Path.touch", "pathlib.PosixPath"]
        )
    )

    done = replayed(recorded.folder)

    assert not proof.exists()
    assert done.report["config"]["checkpoint"]["trust"] is False
    assert done.report["config"]["checkpoint"]["allow_globals"] == []
    assert done.report["replay"]["left_out"]["checkpoint.trust"] is True


def test_trust_of_a_part_never_comes_from_a_report(recorded: Done, path: Path) -> None:
    recorded.edit(lambda report: report["config"].update(parts={"": {"path": str(path), "trust": True}}))

    done = replayed(recorded.folder)

    assert done.report["config"]["parts"] == {"": {"path": str(path)}}
    assert done.report["replay"]["left_out"] == {"parts..trust": True}


def test_permissions_can_be_typed(path: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": filled(Two()).state_dict(), "size": np.float64(3)}, path)
    state = ("checkpoint.key=state_dict", "checkpoint.trust=true")
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", *state)
    assert recorded.code == 0

    done = replayed(recorded.folder, "checkpoint.trust=true", "trusted_targets=[tests.models.*]")

    assert done.code == 0
    assert done.report["config"]["checkpoint"]["trust"] is True
    assert done.report["config"]["trusted_targets"] == ["tests.models.*"]
    assert done.report["replay"]["left_out"] == {}


def test_trusted_targets_are_those_of_the_command_line(recorded: Done) -> None:
    recorded.edit(lambda report: report["config"].update(trusted_targets=["*"]))

    done = replayed(recorded.folder, "trusted_targets=[torch.nn.*]")

    assert done.code == 2
    assert "tests.models.Two" in done.error
    assert done.report["config"]["trusted_targets"] == ["torch.nn.*"]
    assert done.report["replay"]["left_out"] == {"trusted_targets": ["*"]}


def test_a_dangerous_target_of_a_report_is_refused(recorded: Done, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    recorded.edit(lambda report: report["config"].update(model={"_target_": "os.system", "command": f"touch {proof}"}))

    done = replayed(recorded.folder)

    assert done.code == 2
    assert "os.system" in done.error
    assert not proof.exists()


def test_interpolations_of_a_report_stay_text(recorded: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "sesame")
    node = {"_target_": "tests.models.Two", "activation": "${oc.env:A_SECRET}"}
    recorded.edit(lambda report: report["config"].update(model=node))

    done = replayed(recorded.folder)

    assert done.code == 5
    assert "${oc.env:A_SECRET}" in done.error
    assert "sesame" not in json.dumps(done.report)


def test_a_replay_writes_only_into_its_own_folder(recorded: Done, path: Path, tmp_path: Path) -> None:
    def hostile(report: dict[str, Any]) -> None:
        config = report["config"]
        config["mode"] = "convert"
        config["convert"] = {"path": str(tmp_path / "converted.safetensors"), "embed": True, "shard_size": "1GB"}
        config["scaffold"] = {"path": str(tmp_path / "scaffold.yaml")}
        config["verify"]["record"] = True
        config["report"] = {"page": True}
        config["sweep"] = {"resume": str(tmp_path / "sweep")}
        config["track"] = {"uri": f"sqlite:///{tmp_path}/track.db"}
        report["verification"]["kept"] = {"path": "/etc/passwd", "bytes": 3}

    recorded.edit(hostile)
    before = {*tmp_path.rglob("*")}

    done = replayed(recorded.folder)

    assert done.code == 0
    new = {str(one.relative_to(tmp_path)).partition("/")[0] for one in {*tmp_path.rglob("*")} - before}
    assert new == {"again"}
    assert done.report["config"]["verify"]["record"] is False
    assert done.report["config"]["convert"]["path"] is None
    assert done.report["config"]["track"] is None

    asked = replayed(recorded.folder, "verify.record=true", to="asked")
    assert (asked.code, asked.error) == (
        2,
        "verify.record=true with mode=replay: a replay writes nothing outside its own folder",
    )
    assert not path.with_name("two.pt.golden.safetensors").exists()


def test_the_module_path_is_as_without_the_report(recorded: Done, tmp_path: Path) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "hostile_net.py").write_text("import torch\n\nclass Net(torch.nn.Linear): ...\n")
    node = {"_target_": "hostile_net.Net", "in_features": 1, "out_features": 1}
    recorded.edit(lambda report: report["config"].update(model=node))
    recorded.edit(lambda report: report["environment"].update(cwd=str(package)))
    before = list(sys.path)

    done = replayed(recorded.folder)

    assert sys.path == before
    assert done.code == 2
    assert "hostile_net" in done.error


def test_credentials_never_come_from_a_report(recorded: Done) -> None:
    recorded.edit(lambda report: report["config"]["checkpoint"].update(path="https://user:***@example.invalid/a.pt"))

    done = replayed(recorded.folder)

    assert done.code == 2
    assert (
        "does not hold the credentials of its URLs: 'checkpoint.path' is https://***@example.invalid/a.pt" in done.error
    )
    assert done.report["error"]["fixes"][0] == {"line": "checkpoint.path=URL", "note": "with its credentials"}


def test_a_key_that_this_version_does_not_know_is_named(recorded: Done) -> None:
    recorded.edit(lambda report: report["config"].update(hydra={"run": {"dir": "/tmp"}}, newer=1))

    done = replayed(recorded.folder)

    assert done.code == 2
    assert done.error.endswith("has keys that this version does not know: hydra, newer")
    assert done.report["error"]["fixes"] == [{"line": "replay.path=FOLDER", "note": "of a run of this version"}]


def test_a_config_that_makes_no_sense_is_refused_with_its_report(recorded: Done) -> None:
    recorded.edit(lambda report: report["config"].update(checkpoint=["a"], seed="many"))

    done = replayed(recorded.folder)

    assert done.code == 2
    assert f"the config in {recorded.folder}/report.json cannot be repeated: 'checkpoint' is" in done.error
    assert "'seed' is 'many', expected a whole number" in done.error


def test_what_a_report_says_is_shown_as_text(recorded: Done, capsys: pytest.CaptureFixture[str]) -> None:
    def hostile(report: dict[str, Any]) -> None:
        report["environment"]["\x1b[2Jtorch"] = "\x1b[31mred\nerror  none"
        report["keys"]["missing"] = ["\x1b]0;title\x07"]

    recorded.edit(hostile)

    done = replayed(recorded.folder)

    assert done.code == 5
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\nerror  none" not in printed.out + printed.err


def test_kept_outputs_that_are_damaged_are_refused(recorded: Done) -> None:
    recorded.edit(lambda report: report["verification"].update(kept={"path": "outputs.safetensors", "bytes": 9}))
    (recorded.folder / "outputs.safetensors").write_bytes(b"\xff" * 64)

    done = replayed(recorded.folder)

    assert done.code == 3
    assert "outputs.safetensors" in done.error


def test_a_damaged_report_is_refused(recorded: Done) -> None:
    report = recorded.folder / "report.json"
    report.write_text(report.read_text()[:500])

    done = replayed(recorded.folder)

    assert done.code == 2
    assert done.error.startswith(f"{report} is not JSON (")
    assert done.report["error"]["fixes"] == [{"line": "replay.path=FOLDER", "note": "of a run that ended well"}]


def test_kept_outputs_are_read_from_the_runs_own_folder(recorded: Done, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file({"output.0": torch.ones(3, 4)}, elsewhere)
    recorded.edit(lambda report: report["verification"].update(kept={"path": str(elsewhere), "bytes": 9}))
    (recorded.folder / "outputs.safetensors").unlink(missing_ok=True)

    done = replayed(recorded.folder)

    assert done.code == 0
    assert "statistics alone" in done.detail("outputs")
