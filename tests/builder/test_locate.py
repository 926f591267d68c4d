from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from loader.builder.locate import check_name, locate
from loader.errors import ConfigError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into a folder that Python searches, and forgets them afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def to(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield to
    for name in set(sys.modules) - before:
        if name.startswith("zz_"):
            del sys.modules[name]


def refusal(name: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        locate(check_name(name, "model._target_"), "model._target_")
    return caught.value


def test_classes_functions_methods_and_nested_classes_are_found(write: Write) -> None:
    write("zz_a/__init__.py", "from zz_a.net import Net as Short")
    write("zz_a/net.py", "class Net:\n  class Inner: pass\n  @classmethod\n  def make(cls): pass\ndef build(): pass")
    module = "zz_a.net"
    assert locate("torch.nn.Linear", "") is nn.Linear
    assert locate("zz_a.Short", "") is locate(f"{module}.Net", "")
    assert locate(f"{module}.Net.Inner", "").__qualname__ == "Net.Inner"  # type: ignore[attr-defined]
    assert callable(locate(f"{module}.Net.make", ""))
    assert callable(locate(f"{module}.build", ""))


def test_a_module_that_a_function_of_its_name_hides_is_found(write: Write) -> None:
    write("zz_b/__init__.py", "from zz_b.net import net")
    write("zz_b/net.py", "def net(): pass\nclass Net: pass")
    assert locate("zz_b.net.Net", "").__name__ == "Net"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Linear", "torch.nn.Linear"),
        ("Net", "your_module.Net"),
        ("models/net.py", "models.net"),
        ("my_pkg.net:Net", "my_pkg.net.Net"),
        ("my_pkg.", "your_module.my_pkg"),
        (".Net", "your_module.Net"),
        ("my-pkg.Net", "my.pkg.Net"),
        ("", "your_module.YourModel"),
        (3, "your_module.YourModel"),
        (["a.b"], "your_module.YourModel"),
        ("a.b\n", "a.b"),
    ],
)
def test_what_is_no_dotted_name_is_refused_with_what_may_be_meant(name: object, hint: str) -> None:
    error = refusal(name)
    assert "is not the dotted name of a class or function" in error.message
    assert error.message.startswith("model._target_: ")
    assert error.hint == f"model._target_={hint}"


@pytest.mark.parametrize("name", ["a.__globals__.b", "torch.nn.Linear.__init__", "a.b.__class__", "__import__.x"])
def test_names_that_python_keeps_for_itself_are_refused(name: str) -> None:
    assert refusal(name).message == f"model._target_: {name} contains a name reserved by Python"


def test_the_main_module_may_be_named() -> None:
    assert check_name("__main__.Net", "") == "__main__.Net"


def test_a_missing_module_is_told_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal("zz_nowhere.net.Net")
    assert error.message == (
        "model._target_: zz_nowhere.net.Net cannot be found: there is no module 'zz_nowhere' on Python's path, which "
        "does not include the current folder"
    )
    assert error.hint == "export PYTHONPATH=/the/folder/of/it   # adds its folder"
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("zz_nowhere.net.Net").message.endswith("which includes the current folder")


@pytest.mark.parametrize("folder", ["", "src"])
def test_a_module_that_lies_nearby_is_pointed_at(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder / "zz_near").mkdir(parents=True)
    assert refusal("zz_near.Net").hint == f"export PYTHONPATH={tmp_path / folder}   # adds its folder"


def test_a_mistyped_module_is_recognised() -> None:
    error = refusal("torhc.nn.Linear")
    assert "there is no module 'torhc'" in error.message
    assert error.message.endswith("(did you mean 'torch'?)")
    assert error.hint == "model._target_=torch.nn.Linear"


def test_a_mistyped_name_is_recognised() -> None:
    error = refusal("torch.nn.Linaer")
    assert error.message.startswith(
        "model._target_: torch.nn.Linaer cannot be found: module 'torch.nn' has no 'Linaer' (did you mean 'Linear'?). "
        "It was read from "
    )
    assert error.hint == "model._target_=torch.nn.Linear"


def test_a_mistyped_submodule_or_method_is_recognised(write: Write) -> None:
    write("zz_c/__init__.py", "")
    write("zz_c/net.py", "class Net:\n  def make(self): pass")
    assert "module 'zz_c' has no 'ent'" in refusal("zz_c.ent.Net").message
    error = refusal("zz_c.net.Net.maek")
    assert "class 'zz_c.net.Net' has no 'maek' (did you mean 'make'?)" in error.message
    assert error.hint == "model._target_=zz_c.net.Net.make"
    assert "object 'zz_c.net.Net.make' has no 'deeper'" in refusal("zz_c.net.Net.make.deeper").message


def test_a_module_that_breaks_while_imported_is_blamed_by_file_and_line(write: Write) -> None:
    write("zz_d/__init__.py", "")
    path = write("zz_d/net.py", "import math\n\nmath.sqrt(-1)\n\nclass Net: pass\n")
    error = refusal("zz_d.net.Net")
    assert error.message == (
        "model._target_: the module 'zz_d.net' exists, but importing it fails: "
        f"ValueError: math domain error ({path}:3)"
    )
    assert error.hint == "python -c 'import zz_d.net'"


def test_a_dependency_that_is_not_installed_is_not_taken_for_the_module_itself(write: Write) -> None:
    path = write("zz_e.py", "import zz_not_installed\n\nclass Net: pass\n")
    assert refusal("zz_e.Net").message == (
        "model._target_: the module 'zz_e' exists, but importing it fails: "
        f"ModuleNotFoundError: No module named 'zz_not_installed' ({path}:1)"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("raise SystemExit(3)\n", "it called sys.exit(3)"),
        ("import sys\nsys.exit()\n", "it called sys.exit()"),
        ("from zz_f import missing\n", "ImportError: cannot import name 'missing'"),
        ("def __getattr__(name):\n  raise RuntimeError('lazily: ' + name)\n", "RuntimeError: lazily: Net"),
    ],
)
def test_every_way_in_which_an_import_breaks_is_told(text: str, told: str, write: Write) -> None:
    path = write("zz_f.py", text)
    message = refusal("zz_f.Net").message
    assert message.startswith(f"model._target_: the module 'zz_f' exists, but importing it fails: {told}")
    assert f"{path}:" in message


def test_an_interruption_while_importing_passes(write: Write) -> None:
    write("zz_g.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        locate("zz_g.Net", "model._target_")


def test_what_a_module_says_cannot_act_on_the_terminal(write: Write) -> None:
    write("zz_h.py", "raise ValueError('\\x1b[2J' + 'x' * 1000)\n")
    message = refusal("zz_h.Net").message
    assert "\\x1b[2J" in message
    assert len(message) < 1000
