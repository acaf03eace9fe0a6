"""A proxy is never asked for this machine; a user without a name or a home gets both."""

from __future__ import annotations

import getpass
import os
import pwd
import urllib.request
from pathlib import Path

import pytest
import requests

from components.engines import environment
from components.engines.environment import bypass_proxies, prepare
from components.engines.ray import session
from vim_core.errors import VimError

GIVEN = [{}, {"no_proxy": "corp.example"}, {"NO_PROXY": "corp.example, ::1"}, {"no_proxy": "*"}]


@pytest.mark.parametrize("given", GIVEN)
def test_no_client_asks_a_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    bypass_proxies()
    assert "no_proxy" not in os.environ, "nothing to do without a proxy"
    for name, value in {"HTTP_PROXY": "http://127.0.0.1:9", **given}.items():
        monkeypatch.setenv(name, value)
    # So that the variables which it sets are taken back.
    monkeypatch.setenv("no_proxy", given.get("no_proxy", ""))
    bypass_proxies()
    bypass_proxies()
    for host in ("localhost", "127.0.0.1"):
        assert urllib.request.proxy_bypass(host)
        assert not requests.utils.get_environ_proxies(f"http://{host}:5000")
    if given.get("no_proxy") != "*":
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
        assert os.environ["no_proxy"].count("::1") == 1
        assert not urllib.request.proxy_bypass("elsewhere.example")
        assert bool(urllib.request.proxy_bypass("corp.example")) is bool(given)


@pytest.mark.parametrize("linked", [False, True])
def test_a_user_without_name_and_home_gets_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, linked: bool) -> None:
    usual = tmp_path / f"vim-{os.getuid()}"
    if linked:  # as another user of the machine could lay it there
        (tmp_path / "elsewhere").mkdir()
        usual.symlink_to(tmp_path / "elsewhere")

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    prepare()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert (Path.home() == usual) is not linked
    assert Path.home().parent == tmp_path
    assert Path.home().is_dir()


def test_a_long_temporary_folder_is_replaced_by_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert environment.short_temp() == "/var/tmp"
    assert session._short_temp() == {}
    monkeypatch.setenv("TMPDIR", "/" + "long/" * 20)
    assert environment.short_temp() == "/tmp"
    assert session._short_temp() == {"_temp_dir": "/tmp/ray"}
    monkeypatch.setattr(environment, "SHORT_FOLDERS", ("/nowhere",))
    with pytest.raises(VimError, match=r"^TMPDIR='/long/.*: is too long .*; set RAY_TMPDIR to a folder of at most 35"):
        environment.short_temp()
