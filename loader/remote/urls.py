"""URLs of checkpoints, and the refusals that all protocols share.

Guarantees: only `Url.text` contains credentials, and only a transport reads it; messages, logs and the cache use
`Url.shown`. The URL of a shard differs from that of its index in the file's name only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import CheckpointError, ConfigError
from ..text.lines import Fix, line
from ..text.redaction import redacted, remember
from ..text.wording import did_you_mean, listing, safe_text

SCHEMES = ("https", "http", "s3", "gs", "hf")
"""The supported schemes."""

WEB = ("https", "http")

_HUB = "huggingface.co"
_SIGN_IN: Mapping[str, Sequence[Fix]] = {
    "hf": [
        Fix("hf auth login", "or HF_TOKEN in the environment"),
        Fix(note="a gated model requires consent on its page first"),
    ],
    "s3": [
        Fix(note="AWS credentials in the environment"),
        Fix("export FSSPEC_S3_ANON=true", "for a public bucket"),
    ],
    "gs": [
        Fix("gcloud auth application-default login"),
        Fix("export FSSPEC_GS_TOKEN=anon", "for a public bucket"),
    ],
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HUB_KINDS = "(?:datasets|spaces|models|buckets)/"
_HUB_ID = re.compile(rf"(?:{_HUB_KINDS}|(?!{_HUB_KINDS}))[\w.-]+/[\w.-]+(?=[@/]|$)", re.ASCII)
"""A repository of the hub, or of a kind of its repositories."""
_LONGEST_NAME = 200
_UNSAFE_NAME = re.compile(r'[<>:"|?*/\\]|[. ]$|^(con|prn|aux|nul|(com|lpt)\d)(\.|$)', re.IGNORECASE)
"""Names of folders and links, of devices on Windows, and those that Windows does not accept."""
_LONGEST_URL = 400


@dataclass(frozen=True)
class Url:
    """One remote file or folder."""

    scheme: str
    text: str
    """The URL to request, with credentials."""

    @cached_property
    def shown(self) -> str:
        """The URL without credentials, for messages."""
        return safe_text(redacted(self.text), _LONGEST_URL)

    @cached_property
    def key(self) -> str:
        """Identifies the file in the cache; regardless of user and password, but not of the query."""
        return _digest(self._anonymous)

    @cached_property
    def folder_key(self) -> str:
        """Identifies the file's folder in the cache."""
        return _digest(_joined(self._anonymous, "", self.scheme))

    @property
    def host(self) -> str:
        """The host of a web address, or the first name of any other."""
        return urlsplit(self.text).hostname or ""

    @property
    def name(self) -> str:
        """A safe name for the local file: its own, or ``file``."""
        return self.own_name or "file"

    @cached_property
    def own_name(self) -> str:
        """The file's own name, if that is safe for a local file on any system; else empty."""
        path = urlsplit(self.text).path if self.scheme in WEB else self.text.partition("://")[2]
        name = path.rstrip("/").rpartition("/")[2]
        name = unquote(name) if self.scheme in WEB else name
        plain = safe_text(name, _LONGEST_NAME) == name and len(name.encode()) <= _LONGEST_NAME
        return name if name and plain and not _UNSAFE_NAME.search(name) else ""

    def sibling(self, name: str) -> Url:
        """Another file of the same folder; the name was checked by `formats.index`."""
        return replace(self, text=_joined(self.text, name, self.scheme))

    def below(self, name: str) -> Url:
        """A file in this folder."""
        return replace(self, text=f"{self.text.rstrip('/')}/{name}")

    @cached_property
    def _anonymous(self) -> str:
        if self.scheme not in WEB:
            return self.text
        pieces = urlsplit(self.text)
        return urlunsplit((self.scheme, pieces.netloc.rpartition("@")[2], pieces.path, pieces.query, ""))


def parse_url(text: str) -> Url:
    """Parses a URL.

    Raises:
        CheckpointError: Its scheme is not supported, or it has no host or file name.
        ConfigError: It names no repository of the hub.
    """
    remember(text)
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    if found is None or scheme not in SCHEMES:
        raise _unknown_scheme(scheme, text)
    rest = text[found.end() :]
    if safe_text(rest, len(rest)) != rest or any(character.isspace() for character in rest):
        raise _malformed(text, "contains spaces or unprintable characters", scheme)
    if scheme not in WEB:
        if not rest.strip("/"):
            raise _malformed(text, "has no file name", scheme)
        if scheme == "hf" and not _HUB_ID.match(rest):
            refusal = _malformed(text, "names no repository", scheme)
            raise ConfigError(refusal.message, *refusal.fixes)
        return Url(scheme, f"{scheme}://{rest}")
    try:
        pieces = urlsplit(f"{scheme}://{rest}")
        host = pieces.hostname if pieces.port != 0 else ""
    except ValueError:  # its text may contain a password
        raise _malformed(f"{scheme}://…", "has an invalid host or port", scheme) from None
    if not host:
        raise _malformed(text, "has no host", scheme)
    return Url(scheme, urlunsplit((scheme, pieces.netloc, pieces.path, pieces.query, "")))


def _joined(text: str, name: str, scheme: str) -> str:
    if scheme not in WEB:
        return f"{text.rpartition('/')[0]}/{name}"
    pieces = urlsplit(text)
    return urlunsplit((scheme, pieces.netloc, f"{pieces.path.rpartition('/')[0]}/{quote(name)}", pieces.query, ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _unknown_scheme(scheme: str, text: str) -> CheckpointError:
    shown = safe_text(redacted(text), _LONGEST_URL)
    if scheme == "file":
        return CheckpointError(
            f"checkpoint.path is {shown}; local files are given by path",
            line("checkpoint.path", text[len("file://") :]),
        )
    expected = ", ".join(f"{known}://" for known in SCHEMES)
    return CheckpointError(
        f"checkpoint.path is {shown}, but '{safe_text(scheme)}://' is not supported{did_you_mean(scheme, SCHEMES)}; "
        f"expected {expected} or a path",
        Fix("checkpoint.path=https://HOST/FILE"),
    )


def _malformed(text: str, fault: str, scheme: str) -> CheckpointError:
    example = "HOST/FILE" if scheme in WEB else "ORGANIZATION/MODEL/FILE" if scheme == "hf" else "BUCKET/FILE"
    return CheckpointError(
        f"checkpoint.path is {safe_text(redacted(text), _LONGEST_URL)}, a URL that {fault}",
        Fix(f"checkpoint.path={scheme}://{example}"),
    )


def not_allowed(url: Url, said: str) -> CheckpointError:
    """Access was denied with these credentials, or without any."""
    if url.scheme in WEB:
        host = url.host
        hub = host == _HUB or host.endswith(f".{_HUB}")
        fixes: Sequence[Fix] = (
            [Fix("checkpoint.path=hf://ORGANIZATION/MODEL/FILE", "uses HF_TOKEN")]
            if hub
            else [Fix(note="credentials belong in ~/.netrc"), Fix(note="a signed URL may have expired")]
        )
    else:
        fixes = _SIGN_IN[url.scheme]
    return CheckpointError(f"access to {url.shown} was denied: {said}", *fixes)


def not_found(url: Url, said: str) -> CheckpointError:
    """The file does not exist."""
    return CheckpointError(
        f"{url.shown} does not exist: {said}", Fix(f"checkpoint.path={url.scheme}://…", "check the URL")
    )


def no_checkpoint_in(url: Url, names: list[str]) -> CheckpointError:
    """A remote folder has no checkpoint, or several."""
    if names:
        lines = [line("checkpoint.path", url.below(name).shown) for name in names[:20]]
        return CheckpointError(
            f"{url.shown} is a folder with {len(names):,} checkpoints (expected one): {listing(names)}",
            *lines,
        )
    return CheckpointError(
        f"{url.shown} is a folder without a checkpoint (expected model.safetensors, pytorch_model.bin, the index of "
        "either (*.index.json), or one checkpoint file)",
        line("checkpoint.path", f"{url.shown.rstrip('/')}/FILE"),
    )


def changed_meanwhile(url: Url) -> CheckpointError:
    """The bytes read belong to two versions of the file."""
    return CheckpointError(
        f"{url.shown} changed while it was being read", Fix(note="run it again once it is fully uploaded")
    )
