"""Ways by which a model's config has been made to run code that no name in it seems to allow, and their siblings.

Each makes a marker when it is built by `built_plainly`, which resolves names and calls what they lead to, as Hydra's
`instantiate` does without its lists; the tests build it that way first, so that no route is a dead one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pathlib
import sys
from typing import Any

Node = dict[str, Any]

EVIL = "zz_evil"
"""A module that makes the marker when it is imported, and whose `run` does, by the environment variable `ZZ_MARKER`."""
EVIL_SOURCE = """
import os, pathlib
def run(*args, **kwargs):
    pathlib.Path(os.environ["ZZ_MARKER"]).touch()
run()
"""


def call(name: str, *args: Any, **named: Any) -> Node:
    """A node that calls something."""
    return {"_target_": name, **({"_args_": list(args)} if args else {}), **named}


def lookup(path: str) -> Node:
    """A node that looks something up."""
    return call("hydra.utils.get_object", path=path)


def partial(name: str, *args: Any, **named: Any) -> Node:
    """A node that leaves the rest of a call for later."""
    return {**call(name, *args, **named), "_partial_": True}


def inside(node: Node) -> Node:
    """A module of torch that is given a value."""
    return call("torch.nn.Identity", node)


def hooked(function: Node) -> Node:
    """What passes for a module, and whose forward pass is a function."""
    hooks = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")
    return call("types.SimpleNamespace", forward=function, **{name: {} for name in hooks})


CALL = "torch.nn.Module._call_impl"
FORWARD = "torch.nn.Sequential.forward"
FA4 = "torch.nn.attention._fa4._fa4_import_module"
IMPORTS = call(FA4, EVIL)
IMPORT = partial(FA4)
LOADS = "torch.nn.modules.module.torch.serialization.pickle.loads"

ROUTES: dict[str, Node] = {
    "a module is imported": IMPORTS,
    "a module is imported by another name": call("torch.nn.attention._fa3._fa3_import_module", EVIL),
    "an attribute of any module": call(
        CALL,
        hooked(call("torch.nn.utils._deprecation_utils.lazy_deprecated_import", ["run"], "torch", EVIL)),
        "run",
    ),
    "a lookup is judged by one path and called with another": call(
        CALL,
        hooked(
            call(
                CALL,
                hooked(partial("hydra.utils.get_object", path="torch.float16")),
                path=f"{EVIL}.run",
            )
        ),
    ),
    "anything passes for a module": call(CALL, hooked(IMPORT), EVIL),
    "anything passes for a module's forward": call(FORWARD, [IMPORT], EVIL),
    "a lookup of a function": call(FORWARD, [lookup(FA4)], EVIL),
    "a lookup of a method": call(FORWARD, [call("hydra.utils.get_method", path=FA4)], EVIL),
    "a lookup by position": call(FORWARD, [call("hydra.utils.get_object", FA4)], EVIL),
    "a way through the modules of torch.nn": call(LOADS, call("builtins.bytes", f"c{EVIL}\nrun\n(tR.", "latin1")),
    "a decorator": call(FORWARD, [call("torch.nn.init._make_deprecate", lookup(FA4))], EVIL),
    "another decorator": call(FORWARD, [call("torch.nn.utils.clip_grad._no_grad", lookup(FA4))], EVIL),
    "a module inside a module": inside(call("torch.nn.Sequential", inside(IMPORTS))),
    "a module as an argument by name": call("torch.nn.ModuleDict", modules={"a": IMPORTS}),
    "an example's arguments": call("loader.examples.LinearModel", in_features=IMPORTS, out_features=2),
}


def built_plainly(node: Any) -> Any:
    """Builds a config by resolving its names, whatever they are."""
    if isinstance(node, list):
        return [built_plainly(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: built_plainly(value) for key, value in node.items()}
    named = {key: built_plainly(value) for key, value in node.items() if key not in {"_target_", "_args_", "_partial_"}}
    made = functools.partial(_found(node["_target_"]), *built_plainly(node.get("_args_", [])), **named)
    return made if node.get("_partial_") else made()


def live(marker: str) -> list[str]:
    """Builds every route plainly, and returns those that made the marker."""
    found = []
    for name, node in ROUTES.items():
        sys.modules.pop(EVIL, None)
        _found(FA4).cache_clear()
        with contextlib.suppress(Exception):
            built_plainly(node)
        if pathlib.Path(marker).exists():
            found.append(name)
            pathlib.Path(marker).unlink()
    return found


def _found(name: str) -> Any:
    if name.startswith("hydra.utils."):
        return _found_path
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[depth:], found)
    raise ModuleNotFoundError(name)


def _found_path(path: str) -> Any:
    return _found(path)
