"""Proof that a model was loaded: see `loader.verify.verify`."""
