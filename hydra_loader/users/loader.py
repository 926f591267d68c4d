"""Stands first on Python's path where `loader` is the user's own, and gives way to it, in spawned processes too."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_spec = PathFinder.find_spec("loader", [os.environ["HYDRA_LOADER_USERS_FOLDER"]])
if _spec is None:
    raise ModuleNotFoundError("No module named 'loader'", name="loader")
sys.modules["loader"] = module_from_spec(_spec)
if _spec.loader is not None:  # a folder without an `__init__.py` has nothing to run
    _spec.loader.exec_module(sys.modules["loader"])
