"""`vimctl ui`: where Ray's dashboard is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import local
from pipelines.jobs import profile
from vim_core.errors import ConfigError


def test_ray_dashboards_are_linked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("kind: jobs\naddress: http://head:8265\n")
    assert local.ray_links(str(mine)) == ["http://head:8265 (mine)"]
    with pytest.raises(ConfigError, match="'nowhere' is unknown"):
        local.ray_links("nowhere")
    cluster = profile.Cluster(name="local", address="")
    monkeypatch.setattr(profile, "load", lambda name: cluster)
    assert local.ray_links("") == [], "no local cluster runs"
    cluster.address = "http://127.0.0.1:4321"
    assert local.ray_links("") == ["http://127.0.0.1:4321 (local)"]
