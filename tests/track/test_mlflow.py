"""Runs and sweeps in a real MLflow store; needs an environment of its own: ``nox -s mlflow``."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.track.names import accepted
from tests.command import Finished, run_loader
from tests.sweep.launching import lines_of_the_page, runs_as_typed
from tests.sweep.sweeping import make_folder, sweep

pytestmark = [pytest.mark.mlflow, pytest.mark.filterwarnings("ignore")]  # the client's own warnings

STORE = "sqlite:///store.db"
TRACK = ("+track=mlflow", f"track.uri={STORE}")
WEIGHTS = "checkpoint.path=epoch=2.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def logged(folder: Path, experiment: str = "hydra-loader") -> list[Any]:
    """The runs of an experiment in a folder's store, by name."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'store.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return sorted(client.search_runs([found.experiment_id]), key=lambda run: str(run.info.run_name))


def notes(err: str) -> list[str]:
    """The lines on stderr but those of progress, which a slow machine shows."""
    return [line for line in err.splitlines() if not line.startswith(("logging to MLflow", "sweep "))]


def files_of(folder: Path, run: Any) -> set[str]:
    return {file.name for file in (folder / "mlruns").glob(f"*/{run.info.run_id}/artifacts/*")}


@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["basic", "joblib"]
)
def test_a_sweep_is_the_parent_of_its_jobs(folder: Path, launcher: tuple[str, ...]) -> None:
    done = sweep("model.behave=well,misfits,killed", WEIGHTS, *TRACK, "track.run=mine", *launcher, cwd=folder)
    assert done.statuses == ["ok", "failed", "crashed"]
    assert done.code == 1
    assert not [line for line in notes(done.err) if "MLflow" in line]
    *jobs, parent = logged(folder)
    assert [run.info.run_name for run in jobs] == [
        "0 model.behave=well",
        "1 model.behave=misfits",
        "2 model.behave=killed",
    ]
    assert [run.info.status for run in [*jobs, parent]] == ["FINISHED", "FAILED", "KILLED", "FAILED"]
    assert [run.data.params for run in jobs] == [{"model.behave": name} for name in ("well", "misfits", "killed")]
    assert [run.data.tags["exit_code"] for run in jobs] == ["0", "4", "137"]
    assert "does not fit" in jobs[1].data.tags["error"]
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in jobs)
    assert all(files_of(folder, run) == {"report.json"} for run in jobs)
    assert parent.info.run_name == "mine"
    assert parent.data.metrics == {"total": 3, "ok": 1, "failed": 2, "skipped": 0, "not_run": 0}
    assert files_of(folder, parent) == {"summary.json", "summary.csv", "summary.html"}
    assert 0 < jobs[0].data.metrics["seconds"] < 60


def measured(folder: Path, *overrides: str) -> Finished:
    return run_loader("evaluate=digits", *overrides, cwd=folder)


def test_a_run_has_its_metrics_at_the_step_of_its_file(folder: Path) -> None:
    from mlflow import MlflowClient

    done = measured(folder, *TRACK, "track.experiment=own", "seed=3", "report.page=true")
    assert (done.code, notes(done.err)) == (0, [])
    (run,) = logged(folder, "own")
    assert run.info.run_name == f"{folder.name}/run"
    assert run.data.params == {"evaluate": "digits", "seed": "3", "report.page": "true"}
    accuracy = done.report["evaluation"]["metrics"]["accuracy"]
    assert run.data.metrics["accuracy"] == accuracy["value"]
    assert run.data.metrics["accuracy_stderr"] == accuracy["stderr"]
    assert run.data.tags["fingerprint"] == done.report["verification"]["fingerprint"]
    assert files_of(folder, run) == {"report.json", "report.html"}
    client = MlflowClient(f"sqlite:///{folder / 'store.db'}")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "accuracy")] == [0]


def test_a_sweep_over_files_has_the_step_of_each(folder: Path) -> None:
    import torch

    for step in (10, 300):
        torch.save({"global_step": step, "state_dict": torch.nn.Linear(2, 2).state_dict()}, folder / f"step{step}.ckpt")
    files = ("checkpoint.path=glob(step*.ckpt)", "checkpoint.key=state_dict")
    assert sweep(*files, *TRACK, cwd=folder).code == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'store.db'}")
    jobs = logged(folder)[:2]
    assert [client.get_metric_history(run.info.run_id, "seconds")[0].step for run in jobs] == [10, 300]


class _Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.refuse()

    def do_POST(self) -> None:
        self.refuse()

    def refuse(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"<html>out of order</html>")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def failing() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def absent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@pytest.mark.parametrize("server", [failing, silent, absent])
def test_a_tracker_that_does_not_answer_changes_no_result(folder: Path, server: Any) -> None:
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with server() as port:
        uri = f"track.uri=http://me:word@127.0.0.1:{port}"
        done = sweep("model.behave=well,misfits", WEIGHTS, "+track=mlflow", uri, cwd=folder, **limits)
    assert done.statuses == ["ok", "failed"]
    assert done.code == 4
    (note,) = [line for line in done.err.splitlines() if line.startswith("note")]
    assert note.startswith(f"note   nothing was logged to MLflow at http://***@127.0.0.1:{port}: ")
    assert "word" not in done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_an_experiment_that_cannot_be_made_is_a_note(folder: Path) -> None:
    done = measured(folder, "+track=mlflow", "track.uri=nostore://here")
    assert done.code == 0
    assert done.err.startswith(
        "note   nothing was logged to MLflow at nostore://here: UnsupportedModelRegistryStore"
    ) or ("nothing was logged to MLflow at nostore://here" in done.err)
    assert done.report["status"] == "ok"


@given(st.lists(st.text(max_size=300), max_size=10))
@settings(max_examples=200)
def test_mlflow_takes_every_name(names: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    for name in accepted(names).values():
        _validate_param_name(name)
        _validate_metric_name(name)
        _validate_tag_name(name)


def test_the_pages_commands_run(tmp_path: Path) -> None:
    for line in lines_of_the_page("=mlflow"):
        runs_as_typed(line, tmp_path)
