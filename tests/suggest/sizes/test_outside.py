"""Which arguments are told to reach outside by their names."""

from __future__ import annotations

import inspect

import pytest

from loader.suggest.sizes.knobs import knobs_of, taking
from loader.suggest.sizes.outside import reaches_outside

REACHING = [
    "pretrained", "pretrained_backbone", "download", "weights", "weights_backbone", "checkpoint", "checkpoint_path",
    "use_checkpoint", "path", "model_path", "url", "base_url", "token", "use_auth_token", "hf_token", "force_download",
    "force_reload", "push_to_hub", "local_files_only", "cache_dir", "downloadWeights", "loadPretrained", "resume",
    "trust_remote_code", "save_to", "output_dir", "proxies", "config.force_download", "hub.retries",
    "attn_implementation",
]  # fmt: skip
NETWORK = [
    "width", "bias", "num_classes", "class_token", "num_tokens", "token_dim", "user_token_dim", "tie_weights",
    "share_weights", "drop_path", "drop_path_rate", "weight_norm", "log_scale", "num_write_heads", "config.hidden_size",
    "wide", "reg_tokens", "use_norm", "checkpointing", "predict_forces",
]  # fmt: skip


@pytest.mark.parametrize("name", REACHING)
def test_a_name_that_reaches_outside_is_known(name: str) -> None:
    assert reaches_outside(name)


@pytest.mark.parametrize("name", NETWORK)
def test_a_name_of_something_in_the_network_is_not_taken_for_one(name: str) -> None:
    assert not reaches_outside(name)


def test_an_argument_that_reaches_outside_has_no_values_to_try() -> None:
    def build(pretrained: bool = False, path=None, download: int = 0, *, token: bool, bias: bool = True) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        pass

    kinds = {knob.name: knob.kind for knob in knobs_of(inspect.signature(build))}
    assert kinds == {"pretrained": "", "path": "", "download": "", "token": "", "bias": "choice"}
    assert [taking(knob, True).kind for knob in knobs_of(inspect.signature(build))][:3] == ["", "", ""]
