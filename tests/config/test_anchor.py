from __future__ import annotations

from loader.config.anchor import anchored


def test_paths_of_a_config_lead_from_the_folder_they_were_typed_in() -> None:
    config = {
        "model": {"_target_": "my.Net", "path": "own.txt"},
        "checkpoint": {"path": "runs/a.pth", "key": "path"},
        "parts": {"a.b": {"path": "../b.pth", "key": None}, "c": {"path": None}},
        "verify": {"golden": "g.safetensors", "input": [{"path": "x.pt"}, {"shape": [1], "value": "path"}]},
        "convert": {"path": "new.safetensors"},
        "scaffold": {"path": "conf/experiment/"},
        "seed": 0,
    }
    assert anchored(config, "/typed") == {
        "model": {"_target_": "my.Net", "path": "own.txt"},
        "checkpoint": {"path": "/typed/runs/a.pth", "key": "path"},
        "parts": {"a.b": {"path": "/typed/../b.pth", "key": None}, "c": {"path": None}},
        "verify": {
            "golden": "/typed/g.safetensors",
            "input": [{"path": "/typed/x.pt"}, {"shape": [1], "value": "path"}],
        },
        "convert": {"path": "/typed/new.safetensors"},
        "scaffold": {"path": "/typed/conf/experiment/"},
        "seed": 0,
    }
    assert anchored({"verify": {"input": {"image": {"path": "x.pt"}}}}, "/typed") == {
        "verify": {"input": {"image": {"path": "/typed/x.pt"}}}
    }


def test_what_is_no_relative_path_stays() -> None:
    for path in ("/a.pth", "~/a.pth", "https://h/a.pth", "https:/h/a.pth", "pkg://p/a.pth", "", "???"):
        assert anchored({"checkpoint": {"path": path}}, "/typed") == {"checkpoint": {"path": path}}
    assert anchored({"verify": {"golden": "auto"}}, "/typed") == {"verify": {"golden": "auto"}}
