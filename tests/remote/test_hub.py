"""What the Hub's own library keeps on this machine, with a Hub of the tests' own."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import save

from tests.command import REPOSITORY, run
from tests.remote.hub import Hub, hub

FIRST, SECOND = save({"a": torch.arange(4.0)}), save({"a": torch.ones(4)})
SHARDS = {
    "w-1.safetensors": FIRST,
    "w-2.safetensors": save({"b": torch.ones(2)}),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}
    ).encode(),
}
URL = "hf://org/model/model.safetensors"

OPEN = """
import json, logging, sys
from loader import LoaderError
from loader.parts.open import open_checkpoint

class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

said, answers = [], []
logging.getLogger("loader").addHandler(Said())
logging.getLogger("loader").setLevel(logging.INFO)
for url, settings in json.loads(sys.argv[1]):
    try:
        with open_checkpoint(url, **settings) as opened:
            entries = opened.root.tensors()
            data = settings.get("data", True)
            answers.append({key: opened.read(entries[key]).tolist() if data else "" for key in entries})
    except LoaderError as error:
        answers.append(error.message)
print(json.dumps([answers, said]))
"""


@pytest.fixture
def ask(tmp_path: Path, cache: Path) -> Any:
    """Opens URLs of the Hub in a process of its own, since its library looks at the environment once."""

    def ask(endpoint: str, *asked: tuple[str, dict[str, Any]], **environment: str) -> tuple[list[Any], list[str]]:
        done = run(
            sys.executable, "-c", OPEN, json.dumps(asked), cwd=tmp_path, PYTHONPATH=str(REPOSITORY),
            HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), LOADER_CACHE=str(cache), **environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers, said = json.loads(done.stdout)
        return answers, said

    return ask


def keep(serving: Hub, folder: Path) -> None:
    """Downloads all files as the Hub's library does."""
    for name in serving.files:
        hf_hub_download("org/model", name, cache_dir=folder / "hf" / "hub", endpoint=serving.url)
    serving.asked.clear()


def test_what_the_hubs_library_downloaded_is_not_downloaded_again_until_it_changes(
    ask: Any, tmp_path: Path, cache: Path
) -> None:
    with hub({"model.safetensors": FIRST, "config.json": b"{}"}) as serving:
        keep(serving, tmp_path)
        at_commit = f"hf://org/model@{serving.commit}/model.safetensors"
        asked = [(URL, {}), ("hf://org/model", {}), (at_commit, {}), (URL, {"data": False})]
        answers, said = ask(serving.url, *asked)
        assert answers == [{"a": [0, 1, 2, 3]}] * 3 + [{"a": ""}]
        assert serving.downloads() == []
        assert not cache.exists()
        blob = tmp_path / "hf" / "hub" / "models--org--model" / "blobs" / hashlib.sha256(FIRST).hexdigest()
        assert said[0] == f"{URL}: taken from {blob}"
        serving.files["model.safetensors"] = SECOND
        answers, _ = ask(serving.url, (URL, {"data": False}), (URL, {}), (URL, {}))
        assert answers == [{"a": ""}, {"a": [1, 1, 1, 1]}, {"a": [1, 1, 1, 1]}]
        assert serving.downloads() == ["model.safetensors"] * 2


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_the_network_the_latest_copy_is_used_and_the_log_says_so(
    environment: dict[str, str], ask: Any, tmp_path: Path
) -> None:
    with hub(SHARDS) as serving:
        keep(serving, tmp_path)
    index = "hf://org/model/model.safetensors.index.json"
    digest = hashlib.sha256(FIRST).hexdigest()
    asked = [
        (index, {}),
        ("hf://org/model", {"data": False}),
        ("hf://org/model/w-1.safetensors", {"sha256": digest}),
        ("hf://org/model/w-1.safetensors", {"sha256": "0" * 64}),
        ("hf://org/model/other.safetensors", {}),
    ]
    answers, said = ask(serving.url, *asked, **environment)
    assert answers[:3] == [{"a": [0, 1, 2, 3], "b": [1, 1]}, {"a": "", "b": ""}, {"a": [0, 1, 2, 3]}]
    assert "hf://org/model/w-1.safetensors was interrupted" in answers[3]
    assert "hf://org/model/other.safetensors was interrupted" in answers[4]
    assert any(line.startswith(f"{index} was interrupted") for line in said)
    assert all("its latest copy on this machine is used" in line for line in said if "was interrupted" in line)
    assert "hf://org/model/w-1.safetensors: taken from the cache by its sha256, without network access" in said
