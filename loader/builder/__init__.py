"""From a node with `_target_` to a model, without computing weights that are about to be overwritten."""

from .model import Built, Recipe, build_model

__all__ = ["Built", "Recipe", "build_model"]
