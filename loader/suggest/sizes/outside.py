"""Arguments whose name says that they reach outside: they fetch, read, write or send something.

Guarantees: pure; such an argument is never varied, whatever its kind, and keeps the user's value or its default.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_REACHING = frozenset(
    (
        "pretrained", "pretrain", "download", "downloads", "downloaded", "fetch", "pull", "push", "upload", "publish",
        "weights", "checkpoint", "checkpoints", "ckpt", "snapshot", "resume", "restore", "load", "save", "dump",
        "export", "overwrite", "delete", "install", "path", "paths", "file", "files", "filename", "dir", "dirs",
        "directory", "folder", "root", "cache", "cached", "url", "urls", "uri", "endpoint", "http", "https", "proxy",
        "proxies", "host", "port", "mirror", "hub", "repo", "repository", "revision", "remote", "online", "offline",
        "auth", "credentials", "password", "secret", "api", "force", "wandb", "mlflow", "tensorboard", "logging",
        "telemetry", "distributed", "world", "sync", "implementation",
    )
)  # fmt: skip
_STRUCTURAL = frozenset(("tie", "tied", "untie", "share", "shared", "drop", "dropout", "skip"))
"""With one of these a name means a part of the network: tied weights, paths that are dropped."""
_TOKEN = frozenset(("use", "auth", "hf", "hub", "access", "api", "bearer"))
"""What stands in front of a token that is a secret; networks have tokens of another kind."""


def reaches_outside(name: str) -> bool:
    """Whether an argument, by its dotted name, is one that reaches outside."""
    return any(_reaches([word.lower() for word in _WORD.findall(part)]) for part in name.split("."))


def _reaches(words: list[str]) -> bool:
    if not _STRUCTURAL.isdisjoint(words):
        return False
    if words[-1:] == ["token"]:
        return _TOKEN.issuperset(words[:-1])
    return not _REACHING.isdisjoint(words)
