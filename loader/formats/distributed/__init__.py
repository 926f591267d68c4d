"""Readers of checkpoints that several processes wrote together."""
