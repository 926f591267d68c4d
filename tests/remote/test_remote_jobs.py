"""Whole jobs whose checkpoint is not on this machine."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from loader.errors import CheckpointError, ConfigError
from tests.command import REPOSITORY, run_loader
from tests.jobs import carry_out, checks, detail
from tests.remote.server import Server

WEIGHTS = REPOSITORY / "loader" / "examples" / "weights" / "simple_net.safetensors"
GOLDEN = WEIGHTS.with_name(f"{WEIGHTS.name}.golden.safetensors")
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


def linear(path: Path) -> Path:
    torch.manual_seed(0)
    save_file(torch.nn.Linear(3, 2).state_dict(), path)
    return path


def test_a_url_is_loaded_as_typed_on_the_command_line(server: Server, tmp_path: Path) -> None:
    url = server.add("/runs/a=b.pt?x=1", WEIGHTS.read_bytes())
    done = run_loader(f"checkpoint.path={url}", "device=cpu", "verify.golden=null", cwd=tmp_path)
    assert done.code == 0, done.err
    part = done.report["parts"][""]
    assert (part["path"], part["format"], part["bytes"]) == (url, "safetensors", WEIGHTS.stat().st_size)
    assert f"checkpoint {url}: 4 tensors" in done.out
    assert done.err == ""
    assert done.report["config"]["checkpoint"]["path"] == url


def test_a_plan_reads_the_header_alone(server: Server, tmp_path: Path, cache: Path) -> None:
    url = server.add("/a.safetensors", linear(tmp_path / "a.safetensors").read_bytes())
    report = carry_out(LINEAR, url, mode="plan").report
    assert report.keys.loaded == 2
    assert report.parts[""].path == url
    assert not cache.exists()
    assert server.methods() == ["GET"]


def test_what_is_in_a_remote_file_is_reported_by_its_header(server: Server, tmp_path: Path, cache: Path) -> None:
    url = server.add("/a.safetensors", linear(tmp_path / "a.safetensors").read_bytes())
    report = carry_out(None, url, mode="inspect").report
    assert report.parts[""].path == url
    assert report.inspection is not None
    assert report.inspection["files"][0]["path"] == url
    assert not cache.exists()


def test_the_fingerprint_of_a_remote_files_weights_needs_its_data(server: Server, tmp_path: Path) -> None:
    path = linear(tmp_path / "a.safetensors")
    url = server.add("/a.safetensors", path.read_bytes())
    report = carry_out(None, url, mode="inspect", inspect={"fingerprint": True}).report
    assert report.inspection is not None
    found = report.inspection["files"][0]["fingerprint"]
    assert found == carry_out(LINEAR, path).report.verification.fingerprint
    assert found == carry_out(LINEAR, url).report.verification.fingerprint


def test_a_scaffold_of_a_url_is_called_by_the_file_and_holds_no_credentials(server: Server, tmp_path: Path) -> None:
    url = server.add("/my%20net.safetensors?sig=verysecret", WEIGHTS.read_bytes())
    done = run_loader("mode=scaffold", f"checkpoint.path={url}", cwd=tmp_path)
    assert done.code == 0, done.err
    written = tmp_path / "conf" / "experiment" / "my_net.yaml"
    assert f'path: "{url.replace("verysecret", "***")}"' in written.read_text()
    assert "secret" not in written.read_text() + done.out


def test_what_is_converted_is_written_on_this_machine(server: Server, tmp_path: Path) -> None:
    url = server.add("/a.safetensors", linear(tmp_path / "a.safetensors").read_bytes())
    written = tmp_path / "converted.safetensors"
    carry_out(LINEAR, url, mode="convert", convert={"path": str(written)})
    assert torch.equal(load_file(written)["weight"], load_file(tmp_path / "a.safetensors")["weight"])
    with pytest.raises(ConfigError, match="expected a file on this machine"):
        carry_out(LINEAR, url, mode="convert", convert={"path": f"{server.url}/b.safetensors"})


def test_two_parts_come_from_two_urls(server: Server, tmp_path: Path) -> None:
    content = linear(tmp_path / "a.safetensors").read_bytes()
    parts = {name: {"path": server.add(f"/{name}.safetensors", content)} for name in ("a", "b")}
    pair = {"_target_": "torch.nn.ModuleDict", "modules": {"a": LINEAR, "b": LINEAR}}
    report = carry_out(pair, "", parts=parts).report
    assert report.keys.loaded == 4
    assert {name: part.path for name, part in report.parts.items()} == {
        name: part["path"] for name, part in parts.items()
    }


def test_a_misfit_names_the_url(server: Server) -> None:
    url = server.add("/a.safetensors", save({"other": torch.ones(1)}))
    with pytest.raises(Exception, match="does not fit the model") as caught:
        carry_out(LINEAR, url)
    assert url in str(caught.value)


def test_a_golden_record_is_looked_for_where_it_is_named_alone(server: Server) -> None:
    url = server.add("/w.safetensors", WEIGHTS.read_bytes())
    golden = server.add("/w.safetensors.golden.safetensors", GOLDEN.read_bytes())
    model = {"_target_": "loader.examples.SimpleNet"}
    inputs = {"input": {"shape": [1, 784]}}
    report = carry_out(model, url, verify=inputs).report
    assert "golden record" not in checks(report)
    assert {one.path for one in server.asked} == {"/w.safetensors"}
    report = carry_out(model, url, verify={"golden": golden}).report
    assert checks(report)["golden record"]
    assert "as recorded" in detail(report, "golden record")


def test_a_record_is_not_written_beside_what_is_elsewhere(server: Server) -> None:
    url = server.add("/w.safetensors", WEIGHTS.read_bytes())
    with pytest.raises(ConfigError) as caught:
        carry_out({"_target_": "loader.examples.SimpleNet"}, url, verify={"record": True})
    assert caught.value.message == (
        f"verify.record=true writes next to the checkpoint, and {url} is not on this machine"
    )
    assert caught.value.hint == "checkpoint.path=FILE verify.record=true   # once it is downloaded"


def test_a_trusted_remote_file_is_unpickled_from_the_cache(server: Server, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "m.pt")
    url = server.add("/m.pt", (tmp_path / "m.pt").read_bytes())
    loaded = carry_out(None, url, checkpoint={"trust": True})
    assert type(loaded.model) is torch.nn.Linear
    assert loaded.report.parts[""].path == url


def test_credentials_are_in_none_of_the_files_that_a_run_writes(server: Server, tmp_path: Path) -> None:
    plain = server.add("/w.safetensors?X-Amz-Signature=verysecret", WEIGHTS.read_bytes())
    url = plain.replace("://", "://me:password@")
    done = run_loader(f"checkpoint.path={url}", "device=cpu", "verify.golden=null", cwd=tmp_path)
    assert done.code == 0, done.err
    shown = url.replace("me:password", "***").replace("verysecret", "***")
    assert done.report["parts"][""]["path"] == shown
    assert done.report["overrides"][0] == f"checkpoint.path={shown}"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"report.json", "loader.log", "config.yaml", "overrides.yaml", "hydra.yaml"} <= {
        path.name for path in written
    }
    for path in written:
        text = path.read_bytes()
        assert b"verysecret" not in text, path
        assert b"password" not in text, path
    assert "secret" not in done.out + done.err


def test_the_python_interface_takes_urls(server: Server, tmp_path: Path) -> None:
    import loader

    path = linear(tmp_path / "a.safetensors")
    url = server.add("/a.safetensors", path.read_bytes())
    module = torch.nn.Linear(3, 2)
    report = loader.load_into(module, url)
    assert torch.equal(module.weight, load_file(path)["weight"])
    assert report.parts[""].path == url
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    server.stop()
    model = loader.load_model(LINEAR, {"path": url, "sha256": digest})
    assert torch.equal(model.state_dict()["weight"], module.weight)


def test_a_sweep_over_a_url_downloads_it_once_and_tells_no_credentials(server: Server, tmp_path: Path) -> None:
    plain = server.add("/w.safetensors?token=verysecret", WEIGHTS.read_bytes())
    url = plain.replace("://", "://me:password@")
    done = run_loader(
        "-m", f"checkpoint.path={url}", "seed=0,1", "device=cpu", "verify.golden=null",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert (summary["total"], summary["ok"]) == (2, 2)
    assert all("://***@" in job["command"] for job in summary["jobs"])
    note = "type the credentials of the URL in checkpoint.path in place of ***"
    assert [job["command_note"] for job in summary["jobs"]] == [note, note]
    rows = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").read_text().splitlines()))
    assert [row["hint"] for row in rows] == [note, note]
    assert server.methods() == ["HEAD", "GET", "HEAD"]
    assert "multirun.yaml" in {path.name for path in tmp_path.rglob("*")}
    texts = [
        done.out,
        done.err,
        *(path.read_text(errors="replace") for path in tmp_path.rglob("*.*") if path.is_file()),
    ]
    assert not [text for text in texts if "secret" in text or "password" in text]


def test_a_cache_that_is_deleted_is_made_again(server: Server, cache: Path, tmp_path: Path) -> None:
    url = server.add("/a.safetensors", linear(tmp_path / "a.safetensors").read_bytes())
    carry_out(LINEAR, url)
    shutil.rmtree(cache)
    carry_out(LINEAR, url)
    with pytest.raises(CheckpointError):
        carry_out(LINEAR, f"{url}x")


def test_what_is_elsewhere_is_converted_here_and_noted_by_its_name_alone(server: Server, tmp_path: Path) -> None:
    url = server.add("/runs/net.safetensors?sig=secret", linear(tmp_path / "a.safetensors").read_bytes())
    out = tmp_path / "out.safetensors"
    carry_out(LINEAR, url, mode="convert", convert={"path": str(out)})
    with safe_open(out, "pt") as file:
        note = file.metadata()["hydra_loader"]
    assert json.loads(note)["sources"][""]["file"] == "net.safetensors"
    assert "secret" not in note
    again = server.add("/out.safetensors", out.read_bytes())
    assert isinstance(carry_out({"_target_": "embedded"}, again).model, torch.nn.Linear)
    assert carry_out({"_target_": "embedded"}, again, mode="plan").report.keys.loaded == 2
