"""What counts as a URL, and what it names.

Guarantees: of a URL only `Url.text` holds credentials, and only a transport reads it; everything that is shown, logged
or kept comes from `Url.shown`. A shard's URL differs from its index's in the file's name alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import CheckpointError
from ..text.lines import Fix, line
from ..text.redaction import redacted, remember
from ..text.wording import did_you_mean, listing, safe_text

SCHEMES = ("https", "http", "s3", "gs", "hf")
"""What checkpoints are read from."""

WEB = ("https", "http")

_HUB = "huggingface.co"
_SIGN_IN: Mapping[str, Sequence[Fix]] = {
    "hf": [
        Fix("hf auth login", "or HF_TOKEN in the environment"),
        Fix(note="a gated model asks for consent on its page first"),
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
_LONGEST_NAME = 200
_LONGEST_URL = 400


@dataclass(frozen=True)
class Url:
    """One remote file or folder."""

    scheme: str
    text: str
    """As it is requested, credentials included."""

    @cached_property
    def shown(self) -> str:
        """As it may be shown: without credentials."""
        return safe_text(redacted(self.text), _LONGEST_URL)

    @cached_property
    def key(self) -> str:
        """Identifies it in the cache; user and password do not count, another query is another file."""
        return _digest(self._anonymous)

    @cached_property
    def folder_key(self) -> str:
        """Identifies its folder in the cache."""
        return _digest(_joined(self._anonymous, "", self.scheme))

    @property
    def host(self) -> str:
        """The host of a web address; of anything else what stands in its place."""
        return urlsplit(self.text).hostname or ""

    @property
    def name(self) -> str:
        """The file's name, harmless as the name of a local file; ``file`` where its own is not."""
        return self.own_name or "file"

    @cached_property
    def own_name(self) -> str:
        """The file's name, if it is harmless as the name of a local file; else empty."""
        path = urlsplit(self.text).path if self.scheme in WEB else self.text.partition("://")[2]
        name = path.rstrip("/").rpartition("/")[2]
        name = unquote(name) if self.scheme in WEB else name
        plain = safe_text(name, _LONGEST_NAME) == name and not set(name) & {"/", "\\", ":"}
        return name if plain and name not in {"", ".", ".."} and len(name.encode()) <= _LONGEST_NAME else ""

    def beside(self, name: str) -> Url:
        """Another file of the same folder; the name is one that `formats.index` let pass."""
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
    """Takes a URL apart.

    Raises:
        CheckpointError: It is of a scheme that is not read, or names no host or file.
    """
    remember(text)
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    if found is None or scheme not in SCHEMES:
        raise _unknown_scheme(scheme, text)
    rest = text[found.end() :]
    if safe_text(rest, len(rest)) != rest or any(character.isspace() for character in rest):
        raise _malformed(text, "holds spaces or characters that cannot be shown", scheme)
    if scheme not in WEB:
        if not rest.strip("/"):
            raise _malformed(text, "names no file", scheme)
        return Url(scheme, f"{scheme}://{rest}")
    try:
        pieces = urlsplit(f"{scheme}://{rest}")
        host = pieces.hostname if pieces.port != 0 else ""
    except ValueError:  # its text may hold what must not be shown
        raise _malformed(f"{scheme}://…", "has a host or a port that is none", scheme) from None
    if not host:
        raise _malformed(text, "names no host", scheme)
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
            f"checkpoint.path is {shown}; a file on this machine is given by its path",
            line("checkpoint.path", text[len("file://") :]),
        )
    told = ", ".join(f"{known}://" for known in SCHEMES)
    return CheckpointError(
        f"checkpoint.path is {shown}, and '{safe_text(scheme)}://' is not read{did_you_mean(scheme, SCHEMES)}; "
        f"{told} or the path of a file was expected",
        Fix("checkpoint.path=https://HOST/FILE"),
    )


def _malformed(text: str, fault: str, scheme: str) -> CheckpointError:
    example = "HOST/FILE" if scheme in WEB else "ORGANISATION/MODEL/FILE" if scheme == "hf" else "BUCKET/FILE"
    return CheckpointError(
        f"checkpoint.path is {safe_text(redacted(text), _LONGEST_URL)}, a URL that {fault}",
        Fix(f"checkpoint.path={scheme}://{example}"),
    )


def not_allowed(url: Url, said: str) -> CheckpointError:
    """The file may not be read without, or with these, credentials."""
    if url.scheme in WEB:
        host = url.host
        hub = host == _HUB or host.endswith(f".{_HUB}")
        fixes: Sequence[Fix] = (
            [Fix("checkpoint.path=hf://ORGANISATION/MODEL/FILE", "takes HF_TOKEN along")]
            if hub
            else [Fix(note="credentials belong in ~/.netrc"), Fix(note="a signed URL may have expired")]
        )
    else:
        fixes = _SIGN_IN[url.scheme]
    return CheckpointError(f"{url.shown} may not be read: {said}", *fixes)


def gone(url: Url, said: str) -> CheckpointError:
    """There is no such file."""
    return CheckpointError(
        f"{url.shown} is not there: {said}", Fix(f"checkpoint.path={url.scheme}://…", "check the URL")
    )


def no_checkpoint_in(url: Url, names: list[str]) -> CheckpointError:
    """A remote folder holds none, or several."""
    if names:
        lines = [line("checkpoint.path", url.below(name).shown) for name in names[:20]]
        return CheckpointError(
            f"{url.shown} is a folder with {len(names):,} checkpoints; one was expected: {listing(names)}",
            *lines,
        )
    return CheckpointError(
        f"{url.shown} is a folder without a checkpoint; model.safetensors, pytorch_model.bin, the index of either "
        "(*.index.json), or one checkpoint file was expected",
        line("checkpoint.path", f"{url.shown.rstrip('/')}/FILE"),
    )


def changed_meanwhile(url: Url) -> CheckpointError:
    """What was read is of two versions of the file."""
    return CheckpointError(
        f"{url.shown} changed while it was being read", Fix(note="run it again once it is fully uploaded")
    )
