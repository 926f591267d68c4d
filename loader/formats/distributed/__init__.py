"""Checkpoints that many processes wrote together."""
