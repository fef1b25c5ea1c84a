"""Downloads are whole or not at all, and an address that does not answer takes no longer than it may."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from pathlib import Path

import pytest
import rich
from rich.console import Console

from problems.data import download as module
from problems.data.data_set import WrongContent
from problems.data.download import download, resolve
from tests.problems.data.conftest import Web
from tests.problems.data.made import NOWHERE


def test_all_of_it_comes(web: Web) -> None:
    content = bytes(range(256)) * 4096
    url = web.serve("file", content)
    assert download(url) == content
    assert download(url, hashlib.sha256(content).hexdigest()) == content


def test_a_file_is_an_address_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert download((tmp_path / "file").as_uri()) == b"abc"


def test_another_hash_than_the_known_one(web: Web) -> None:
    with pytest.raises(WrongContent, match="its SHA-256 is ba7816bf8f01cfea…, not 0000000000000000…"):
        download(web.serve("file", b"abc"), "0" * 64)


def test_half_of_it_is_an_error(web: Web) -> None:
    web.cut.add("file")
    with pytest.raises(OSError, match="ended after 5,000 of 10,000 bytes"):
        download(web.serve("file", b"x" * 10_000))


def test_what_is_not_there_and_who_does_not_listen(web: Web) -> None:
    with pytest.raises(OSError, match=r"127.0.0.1:\d+ answers 404 Not Found"):
        download(f"{web.address}/nothing")
    with pytest.raises(OSError, match=r"127.0.0.1:9 cannot be reached: .*refused"):
        download(f"{NOWHERE}/file")


def test_proxies_are_those_of_the_moment(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    url = web.serve("file", b"abc")
    assert download(url) == b"abc"
    with monkeypatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        with pytest.raises(OSError, match="refused"):
            download(url)
    assert download(url) == b"abc"


def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.SECONDS_TO_ANSWER <= 10
    monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(OSError, match=r"is silent: no answer within 0.05 s"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/file")
    assert time.monotonic() - began < 5


def test_who_falls_silent_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_OF_SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def begin() -> None:
            connection, _ = server.accept()
            held.append(connection)
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

        thread = threading.Thread(target=begin)
        thread.start()
        with pytest.raises(OSError, match="is silent: timed out"):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/file")
        thread.join()
        held[0].close()


def test_the_bar_is_of_bytes_and_off_a_terminal_there_is_none(
    web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = web.serve("pictures.tgz", b"x" * 1_000_000)
    download(url)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(rich, "get_console", lambda: Console(force_terminal=True, width=100))
    download(url)
    shown = capsys.readouterr().out
    assert "pictures.tgz" in shown
    assert "1.0/1.0 MB" in shown


def test_the_npm_registry_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    assert resolve("npm:a/-/a-1.tgz") == "https://registry.npmjs.org/a/-/a-1.tgz"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://npm.example/repository/")
    assert resolve("npm:a/-/a-1.tgz") == "https://npm.example/repository/a/-/a-1.tgz"
    assert resolve("https://example.org/a.tgz") == "https://example.org/a.tgz"
