"""Builds a model from a config node, without computing weights that the checkpoint overwrites."""

from .model import Built, Recipe, build_model

__all__ = ["Built", "Recipe", "build_model"]
