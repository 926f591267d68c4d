"""Arithmetic on the tensors of files: records of formulas, which need no torch, and the functions that compute them."""
