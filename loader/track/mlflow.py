"""Hydra's callback that logs a run, or a sweep with a run for each job, to MLflow: ``+track=mlflow``.

Guarantees: what is logged was written before, so that nothing here changes the result of a job, nor an exit code. A
tracker that cannot be reached, or refuses, is a note on stderr; it is waited for at most a minute without progress. The
client opens no connection but to the tracker. A sweep is the parent of its jobs' runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..report.terminal import print_note
from ..schema import TrackConfig
from ..text.lines import typed
from ..text.progress import progress
from ..text.redaction import redacted, remember
from ..text.wording import counted, safe_text
from . import await_summary
from .names import LONGEST_PARAMETER, LONGEST_TAG, accepted, shortened
from .patience import patiently
from .runs import Run, of_run, of_sweep

_PATIENCE = 60
"""Seconds that one request may take, whatever the client does meanwhile."""

_CLIENT = {
    # MLflow's own defaults are seven retries of two minutes each.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Settings of the client, where the user has none."""

_METRICS, _PARAMS = 1000, 100
"""The most of them in one request."""

_LONGEST = 400
_Item = TypeVar("_Item")


class Tracker(Callback):
    """Called by Hydra in the process that was started.

    Raises:
        ConfigError: MLflow is not installed.
    """

    def __init__(self) -> None:
        if find_spec("mlflow") is None:
            raise ConfigError(
                "track=mlflow requires the package mlflow", typed("pip", "install", "hydra-loader[mlflow]")
            )

    def on_run_end(self, config: DictConfig, **_kwargs: Any) -> None:
        """Logs a single run."""
        settings = _settings(config)
        log_to_mlflow(partial(of_run, Path(str(config.hydra.runtime.output_dir)), settings.run), settings)

    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Waits for the summary of a sweep."""
        settings = _settings(config)
        await_summary(lambda folder: log_to_mlflow(partial(of_sweep, folder, settings.run), settings))


def _settings(config: DictConfig) -> TrackConfig:
    found: Any = OmegaConf.select(config, "track")
    settings = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else {}
    remember(settings)
    texts = {str(key): None if value is None else str(value) for key, value in dict(settings).items()}  # type: ignore[arg-type]
    return TrackConfig(texts.get("experiment") or TrackConfig().experiment, texts.get("uri"), texts.get("run"))


def log_to_mlflow(described: Callable[[], Run], settings: TrackConfig) -> None:
    """Logs a run with its jobs; prints a note if that fails."""
    logged: list[str] = []
    total = 0
    try:
        run = described()
        total = 1 + len(run.jobs)
        with _client_settings(), progress("logging to MLflow", total=total, unit="runs") as shown:

            def meanwhile() -> None:
                shown.reached(len(logged), total)

            patiently(lambda advance: _log(run, settings, logged, advance), _PATIENCE, meanwhile)
    except Exception as error:  # noqa: BLE001  # whatever the tracker and its client raise, the jobs are done
        where = f" at {safe_text(redacted(settings.uri), _LONGEST)}" if settings.uri else ""
        what = f"{len(logged)} of {counted(total, 'run')}" if logged else "nothing"
        reason = safe_text(redacted(" ".join(f"{type(error).__name__}: {error}".split())), _LONGEST)
        print_note(f"{what} was logged to MLflow{where}: {reason}")


@contextmanager
def _client_settings() -> Iterator[None]:
    own = {key: value for key, value in _CLIENT.items() if key not in os.environ}
    os.environ.update(own)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it describes each table that it makes
    try:
        yield
    finally:
        for key in own:
            os.environ.pop(key, None)


def _log(run: Run, settings: TrackConfig, logged: list[str], advance: Callable[[], None]) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds

    client: Any = MlflowClient(tracking_uri=settings.uri)
    advance()
    experiment = client.get_experiment_by_name(settings.experiment)
    number = client.create_experiment(settings.experiment) if experiment is None else experiment.experiment_id
    advance()
    log = _Log(client, number, [run, *run.jobs], advance)
    parent = log.begin(run, None)
    for job in run.jobs:
        log.end(job, log.begin(job, parent))
        logged.append(job.name)
    log.end(run, parent)
    logged.append(run.name)


class _Log:
    """Writes runs whose parameters and metrics have one acceptable name each, the same in all of them."""

    def __init__(self, client: Any, experiment: str, runs: Sequence[Run], advance: Callable[[], None]) -> None:
        self._client, self._experiment, self._advance = client, experiment, advance
        self._params = accepted(name for run in runs for name in run.params)
        self._metrics = accepted(name for run in runs for name in run.metrics)
        self._tags = accepted(name for run in runs for name in run.tags)

    def begin(self, run: Run, parent: str | None) -> str:
        tags = {self._tags[name]: shortened(value, LONGEST_TAG) for name, value in run.tags.items()}
        tags |= {} if parent is None else {"mlflow.parentRunId": parent}
        name, began = shortened(run.name, LONGEST_PARAMETER), int(1000 * run.began)
        made = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=name)
        self._advance()
        return str(made.info.run_id)

    def end(self, run: Run, identity: str) -> None:
        from mlflow.entities import Metric, Param  # noqa: PLC0415

        ended = int(1000 * run.ended)
        metrics = [Metric(self._metrics[name], value, ended, run.step) for name, value in run.metrics.items()]
        params = [Param(self._params[name], shortened(value, LONGEST_PARAMETER)) for name, value in run.params.items()]
        for some in _batches(params, _PARAMS):
            self._client.log_batch(identity, params=some)
            self._advance()
        for some in _batches(metrics, _METRICS):
            self._client.log_batch(identity, metrics=some)
            self._advance()
        for file in run.files:
            self._client.log_artifact(identity, str(file))
            self._advance()
        self._client.set_terminated(identity, status=run.status, end_time=ended)
        self._advance()


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
