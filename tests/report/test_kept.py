from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from loader.errors import CheckpointError
from loader.formats.safetensors import pieces
from loader.report.kept import KEPT, difference, read_kept, read_tensors, same_inputs
from tests.command import REPOSITORY

EVERY = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.int64),
    *(torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def kept(folder: Path, name: str, **tensors: torch.Tensor) -> Path:
    path = folder / f"{name}.safetensors"
    values = {key.replace("_", "."): value.clone() for key, value in tensors.items()}
    path.write_bytes(b"".join(pieces(values, {})))  # old releases of safetensors write fewer dtypes
    return path


def apart(folder: Path, one: torch.Tensor, other: torch.Tensor) -> float | None:
    x = torch.ones(2)
    files = [kept(folder, str(i), input_0=x, output_0=each) for i, each in enumerate((one, other))]
    return difference(read_kept(files[0]), read_kept(files[1]))


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_values_are_those_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1, 2], [3, 5, 100]], dtype=torch.float32).to(dtype)
    (found,) = read_tensors(kept(tmp_path, "a", output_0=value)).values()
    assert found.dtype == str(dtype).removeprefix("torch.")
    assert found.array.shape == (2, 3)
    assert found.array.tolist() == value.tolist()


def test_inputs_and_outputs_are_known_by_their_names(tmp_path: Path) -> None:
    names = ["input.0", "input.mask", "output.0", "a.input.0", "a.b.output.logits", "inputs", "output.input.x"]
    save_file({name: torch.ones(1) for name in names}, tmp_path / KEPT)
    found = read_kept(tmp_path / KEPT)
    assert set(found.inputs) == {"input.0", "input.mask", "a.input.0"}
    assert set(found.outputs) == set(names) - set(found.inputs)


def test_the_largest_difference_is_found(tmp_path: Path) -> None:
    assert apart(tmp_path, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 2.75])) == 0.5
    assert apart(tmp_path, torch.tensor([1, 200], dtype=torch.uint8), torch.tensor([3, 100], dtype=torch.uint8)) == 100
    assert apart(tmp_path, torch.tensor([3 + 4j]), torch.tensor([0j])) == 5
    assert apart(tmp_path, torch.zeros(0), torch.zeros(0)) == 0
    assert apart(tmp_path, torch.zeros(2), torch.zeros(3)) is None


def test_nan_and_infinity_are_equal_to_themselves_alone(tmp_path: Path) -> None:
    odd = torch.tensor([math.nan, math.inf, 1.0])
    assert apart(tmp_path, odd, odd) == 0
    assert apart(tmp_path, odd, torch.tensor([0.0, math.inf, 1.0])) == math.inf
    assert apart(tmp_path, odd, torch.tensor([math.nan, -math.inf, 1.0])) == math.inf


@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), data=st.data())
def test_one_input_in_two_dtypes_is_the_same_input(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    drawn = torch.tensor(values, dtype=torch.float32)
    files = [kept(folder, str(i), input_0=drawn.to(data.draw(dtypes)), output_0=torch.ones(1)) for i in range(2)]
    assert same_inputs(read_kept(files[0]), read_kept(files[1]))


def test_other_inputs_leave_nothing_to_compare(tmp_path: Path) -> None:
    one = torch.ones(2)
    first = read_kept(kept(tmp_path, "a", input_0=one, output_0=one))
    for other in (
        {"input_0": one * 1.1, "output_0": one},
        {"input_0": one.half() * 1.1, "output_0": one},
        {"input_0": one.int(), "output_0": one},
        {"input_1": one, "output_0": one},
        {"input_0": one, "output_1": one},
        {"output_0": one},
        {"input_0": one},
    ):
        assert difference(first, read_kept(kept(tmp_path, "b", **other))) is None


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path, "a", output_0=torch.ones(4))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError):
        read_kept(path)
    with pytest.raises(CheckpointError):
        read_kept(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'output.0' of .* has a dtype that numpy lacks"):
        read_kept(kept(tmp_path, "b", output_0=torch.ones(2).to(torch.float8_e5m2)))


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = kept(tmp_path, "a", output_0=torch.ones(4))
    code = (
        "import sys; from pathlib import Path; from loader.report.kept import read_kept; read_kept(Path(sys.argv[1]))"
    )
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False).returncode == 0
