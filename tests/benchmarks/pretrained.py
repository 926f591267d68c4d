"""The transformer as `transformers` wants it: a class and a config of its own, and a folder with a config.json."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.networks import add_layers, run_layers

if TYPE_CHECKING:
    from tests.benchmarks.ways import Job


def model_class(library: Any) -> Any:
    """A `PreTrainedModel` with the transformer's layers."""
    config_class = _config_class(library)

    def construct(self: Any, config: Any) -> None:
        library.PreTrainedModel.__init__(self, config)
        add_layers(self, config.width, config.layers, config.vocabulary)
        self.post_init()

    members = {"__init__": construct, "forward": run_layers, "config_class": config_class, "__module__": __name__}
    return type("Pretrained", (library.PreTrainedModel,), members)


def folder_for(library: Any, job: Job) -> Path:
    """A folder with links to a job's files and a config."""
    folder = job.path.parent / f"pretrained-{job.case.container}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if job.path.is_dir():
        for file in job.path.iterdir():
            os.link(file, folder / file.name)
    else:
        os.link(job.path, folder / "model.safetensors")
    _config_class(library)(**job.arguments).save_pretrained(folder)
    return folder


def _config_class(library: Any) -> Any:
    def construct(self: Any, width: int = 8, layers: int = 1, vocabulary: int = 8, **rest: Any) -> None:
        library.PretrainedConfig.__init__(self, **rest)
        self.width, self.layers, self.vocabulary = width, layers, vocabulary

    members = {"__init__": construct, "model_type": "benchmark", "__module__": __name__}
    return type("PretrainedConfig", (library.PretrainedConfig,), members)
