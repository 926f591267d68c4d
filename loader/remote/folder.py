"""Which file of a remote folder is the checkpoint.

Guarantees: as in a local folder: the names that Hugging Face's libraries write come first, safetensors before pickles;
otherwise exactly one file that is called like a checkpoint, and nothing is guessed where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..formats.folder import PREFERRED, is_shard
from ..formats.index import is_index_name
from ..formats.signatures import ENDINGS
from .refusals import no_checkpoint_in
from .urls import Url


def choose(url: Url, names: Sequence[str]) -> str:
    """Finds the name of the one checkpoint among a folder's files.

    Raises:
        CheckpointError: There is none, or there are several.
    """
    found = next((known for pair in PREFERRED if (known := [name for name in pair if name in names])), None)
    if found is None:
        indexes = [name for name in names if is_index_name(name)]
        found = indexes or [name for name in names if name.endswith(ENDINGS) and not is_shard(name)]
    if len(found) != 1:
        raise no_checkpoint_in(url, found)
    return found[0]
