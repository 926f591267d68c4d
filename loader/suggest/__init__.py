"""Explains why a file does not fit a model, and offers the lines to type that make it fit."""
