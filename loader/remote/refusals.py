"""What is said where a remote file is not to be had, whatever the protocol.

Guarantees: every sentence names the URL without its credentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import CheckpointError
from ..text.lines import Fix, line
from ..text.wording import listing
from .urls import WEB, Url

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
