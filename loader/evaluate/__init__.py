"""Measures a verified model on data; `fingerprint` is the identity of loaded weights."""
