"""Readers of other distributions: asked last, never instead of a built-in one, and blamed by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loader
from loader.errors import CheckpointError, ConfigError
from loader.formats.extensions import GROUP
from loader.formats.sniff import FORMATS, known_formats

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

    def made(
        source: str = READER,
        *,
        name: str = "tiny",
        distribution: str = "tiny-reader",
        value: str = "",
        named: bool = True,
    ) -> None:
        module = distribution.replace("-", "_")
        info = tmp_path / "site" / f"{module}-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        if named:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value or module}\n")
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
    "number as a key": (
        READER.replace('{"weight":', "{3:"),
        "TypeError: invalid key '3': expected text, got int",
    ),
    "another entry": (
        READER.replace('{"weight":', '{"extra": "text", "weight":'),
        "TypeError: invalid entry 'extra': expected a Container, TensorEntry or Leaf, got str",
    ),
    "bare refusal": (
        READER.replace("count = ", "import loader; raise loader.LoaderError('boo'); count = "),
        "LoaderError: boo",
    ),
    "closed": (
        READER.replace("    return Container", "    file.close()\n    return Container"),
        "ValueError: it left the file unreadable: ",
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
    upgrade = "pip install --upgrade tiny-reader   # or uninstall it"
    if case in {"import", "exit", "nothing", "recognises"}:  # whether it is of this format remained open
        assert f"; {tiny} is of no known format (it begins with the bytes 54 49 4e 59" in refusal.value.message
        assert refusal.value.hint == f"{upgrade}\ncheckpoint.path=FILE"
    else:
        assert refusal.value.hint == upgrade


def test_a_refusal_of_a_reader_is_its_own(install: Install, tiny: Path) -> None:
    install()
    tiny.write_bytes(tiny.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as refusal:
        loaded(tiny)
    assert refusal.value.message == f"{tiny} is cut off: 19 bytes are there, 20 or more are declared"


def test_of_two_readers_that_recognise_a_file_the_config_chooses(install: Install, tiny: Path) -> None:
    install()
    install(name="tinier", distribution="other-reader")
    with pytest.raises(CheckpointError, match="recognized by several readers: the reader 'tinier' of") as refusal:
        loaded(tiny)
    assert refusal.value.hint == "checkpoint.format=tinier\ncheckpoint.format=tiny"
    assert loaded(tiny, format="tiny").report.parts[""].format == "tiny"


def test_of_two_readers_with_one_name_the_other_one_is_to_be_removed(install: Install, tiny: Path) -> None:
    install()
    install(distribution="other-reader")
    for format in ("auto", "tiny"):
        with pytest.raises(CheckpointError, match="recognized by several readers: the reader 'tiny' of") as refusal:
            loaded(tiny, format=format)
        assert refusal.value.hint == "pip uninstall other-reader\npip uninstall tiny-reader"
    assert known_formats("x") == ("auto", *FORMATS, "tiny")


def test_a_broken_reader_keeps_no_other_one_from_being_asked(
    install: Install, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("import nothing_like_it", name="broken", distribution="broken-reader")
    install()
    assert loaded(tiny).report.parts[""].format == "tiny"
    blamed = "the reader 'broken' of broken-reader 1.2 (broken_reader) failed with ModuleNotFoundError"
    assert [message for message in caplog.messages if message.startswith(f"{tiny}: {blamed}")]


def test_a_broken_reader_hides_nothing_that_is_known_of_a_file(install: Install, tmp_path: Path) -> None:
    install("import nothing_like_it")
    path = tmp_path / "model.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError) as without:
        loaded(path)
    assert f"; {path} is " in without.value.message
    assert "HDF5" in without.value.message
    assert len(without.value.fixes) > 1


@pytest.mark.parametrize(("name", "why"), [("gguf", "a built-in format has that name"), ("", "it has no name")])
def test_a_reader_that_is_never_asked_is_logged(
    install: Install, tiny: Path, name: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(name=name)
    with pytest.raises(CheckpointError, match="of no known format"):
        loaded(tiny)
    assert f"the reader '{name}' of tiny-reader 1.2 (tiny_reader) is never asked: {why}" in caplog.messages
    assert known_formats("x") == ("auto", *FORMATS)


def test_a_reader_without_metadata_is_named_by_its_folder(install: Install, tiny: Path) -> None:
    install("import nothing_like_it", named=False)
    with pytest.raises(CheckpointError) as refusal:
        loaded(tiny)
    called = f"the reader 'tiny' of a package without metadata in {tiny.parent / 'site'} (tiny_reader)"
    assert refusal.value.message.startswith(f"{tiny}: {called} failed with ModuleNotFoundError")
    assert refusal.value.fixes[0].note == "reinstall or remove that package"


def test_an_invalid_entry_point_is_called_that(install: Install, tiny: Path) -> None:
    install(value="a b:c d")
    fault = "(a b:c d) failed with ValueError: invalid entry point, expected a module, or module:object"
    with pytest.raises(CheckpointError, match=re.escape(fault)):
        loaded(tiny)
