"""Readers of other distributions: asked last, never instead of a built-in one, and blamed by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loader
from loader.errors import CheckpointError, ConfigError
from loader.formats.sniff import FORMATS, GROUP, known_formats

READER = '''
"""A format of one tensor: a magic, the number of elements, the elements."""

from hydra_loader.formats.tree import Container, stored


def recognises(file, head):
    return head.startswith(b"TINY")


def read(file):
    count = file.pread(4, 1)[0]
    if 8 + 4 * count > file.size:
        raise file.ends_early(8 + 4 * count)
    return Container("dict", "tiny", {"weight": stored(file, "weight", "float32", (1, count), 8)})
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with one reader."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def made(source: str = READER, *, name: str = "tiny", distribution: str = "tiny-reader") -> None:
        module = distribution.replace("-", "_")
        info = tmp_path / "site" / f"{module}-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
        (tmp_path / "site" / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return made


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "model.tiny"
    path.write_bytes(b"TINY\x03\0\0\0" + torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    return path


def loaded(path: Path, **checkpoint: str) -> loader.Loaded:
    return loader.load(
        {
            "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 1, "bias": False},
            "checkpoint": {"path": str(path), **checkpoint},
            "device": "cpu",
        }
    )


@pytest.mark.parametrize("format", ["auto", "tiny"])
def test_a_format_of_another_distribution_loads(install: Install, tiny: Path, format: str) -> None:
    install()
    result = loaded(tiny, format=format)
    assert result.model.state_dict()["weight"].tolist() == [[1.0, 2.0, 3.0]]
    assert result.report.parts[""].format == "tiny"


def test_without_the_distribution_the_file_is_of_no_known_format(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="of no known format"):
        loaded(tiny)
    with pytest.raises(ConfigError, match=r"checkpoint\.format is 'tiny'"):
        loaded(tiny, format="tiny")


def test_no_built_in_reader_is_replaced(install: Install, tmp_path: Path) -> None:
    source = READER.replace('head.startswith(b"TINY")', "1 / 0")
    install(source)
    install(source, name="torch-zip", distribution="other-reader")
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(1, 3)}, path)
    assert loaded(path).report.parts[""].format == "torch-zip"
    assert known_formats("auto") == known_formats("torch-zip") == ("auto", *FORMATS)
    assert known_formats("x") == ("auto", *FORMATS, "tiny")
    with pytest.raises(CheckpointError, match=r"is a torch-zip file; checkpoint\.format says tiny"):
        loaded(path, format="tiny")


FAULTS = {
    "import": ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "nothing": ("", "AttributeError: "),
    "recognises": (READER.replace('head.startswith(b"TINY")', "1 / 0"), "ZeroDivisionError: division by zero"),
    "read": (READER.replace("count = ", "count = [][1] + "), "IndexError: list index out of range"),
    "result": (READER.replace("return Container", "return str"), "TypeError: "),
    "another result": (READER + "\n\ndef read(file):\n    return {}", "TypeError: expected a Container, got dict"),
    "dtype": (READER.replace('"float32"', '"float33"'), "KeyError: 'float33'"),
    "beyond the file": (
        READER.replace("(1, count), 8", "(9, count), 8"),
        "ValueError: invalid tensor 'weight': its storage is not in the file",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_reader_that_fails_is_named_with_its_distribution(install: Install, tiny: Path, case: str) -> None:
    source, fault = FAULTS[case]
    install(source)
    with pytest.raises(CheckpointError) as refusal:
        loaded(tiny)
    start = f"{tiny}: the reader 'tiny' of tiny-reader 1.2 (tiny_reader) failed with {fault}"
    assert refusal.value.message.startswith(start)
    assert refusal.value.hint == "pip install --upgrade tiny-reader   # or uninstall it"


def test_a_refusal_of_a_reader_is_its_own(install: Install, tiny: Path) -> None:
    install()
    tiny.write_bytes(tiny.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as refusal:
        loaded(tiny)
    assert refusal.value.message == f"{tiny} is cut off: 19 bytes are there, 20 or more are declared"


def test_of_two_readers_that_recognise_a_file_the_config_chooses(install: Install, tiny: Path) -> None:
    install()
    install(name="tinier", distribution="other-reader")
    with pytest.raises(CheckpointError, match="recognised by several readers: the reader 'tinier' of") as refusal:
        loaded(tiny)
    assert refusal.value.hint == "checkpoint.format=tinier\ncheckpoint.format=tiny"
    assert loaded(tiny, format="tiny").report.parts[""].format == "tiny"
