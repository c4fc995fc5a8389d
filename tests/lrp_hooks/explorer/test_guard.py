"""Who may talk to the explorer. Every request goes over a socket to a real server."""

from __future__ import annotations

from typing import Any

import pytest
from explorer_client import Client

from lrp_hooks.errors import InputError
from lrp_hooks.explorer.server import listen

STATE = ("GET", "/api/state")


def status(client: Client, *words: Any, **options: Any) -> int:
    return client.ask(*words, **options)[0]


def test_without_the_secret_only_the_page_is_given_and_it_holds_nothing(client: Client) -> None:
    wrong = ("Bearer wrong", client.secret, f"bearer {client.secret}", f"Bearer {client.secret}x", "Bearer \xff", "")
    shown = [{}, *({"Authorization": words} for words in wrong)]
    shown += [{"Cookie": f"token={client.secret}"}, {"Cookie": f"Bearer {client.secret}"}]
    for method, path in (STATE, ("POST", "/api/load"), ("GET", "/results/1"), ("GET", "/nowhere"), ("POST", "/")):
        for headers in shown:
            assert status(client, method, path, known=False, **headers) == 403, (path, headers)
        assert status(client, method, f"{path}?token={client.secret}", known=False) == 403
    found, headers, body = client.ask("GET", "/", known=False)
    assert found == 200
    assert client.secret.encode() not in body
    assert "set-cookie" not in headers
    assert b"lrp-hooks serve" in client.ask(*STATE, known=False)[2]


def test_no_answer_sets_a_cookie_or_lets_other_pages_read(tiny_client: Client) -> None:
    tiny_client.result("/api/explain", {"prompt": {"text": "say no more"}})
    for path in ("/", "/api/state", "/results/1", "/results/1/download?format=.json"):
        headers = tiny_client.ask("GET", path, Origin="http://evil.example")[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not {"server", "access-control-allow-origin", "set-cookie"} & set(headers)
    assert status(tiny_client, "OPTIONS", "/api/load", known=False, Origin="http://evil.example") == 403
    assert "frame-ancestors 'none'" in tiny_client.ask("GET", "/")[1]["content-security-policy"]
    for path in ("/results/1", "/results/1/download?format=.html"):
        policy = tiny_client.ask("GET", path)[1]["content-security-policy"]
        assert "sandbox allow-scripts allow-downloads" in policy  # never allow-same-origin
        assert "frame-ancestors 'none'" in policy


def test_only_names_of_this_machine_are_answered(client: Client) -> None:
    port = client.host.rpartition(":")[2]
    for host in (f"localhost:{port}", "127.0.0.1:9000", "[::1]:80", "LOCALHOST"):  # a forwarded port has its own number
        assert status(client, *STATE, Host=host) == 200, host
        assert status(client, "GET", "/", Host=host) == 200, host
    for host in (
        "evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil", "", "[",
        f"evil@127.0.0.1:{port}",
    ):  # fmt: skip
        assert status(client, *STATE, Host=host) in (400, 403), host
        assert status(client, "GET", "/", Host=host) in (400, 403), host


def test_the_socket_is_on_loopback_alone_and_taken_ports_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_hooks.explorer import server

    with listen(0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(InputError, match=f"port {port} is taken. do: another --port"):
            listen(port)
        monkeypatch.setattr(server, "PORT", port)
        monkeypatch.setattr(server, "TRIED", 1)
        with pytest.raises(InputError, match=f"ports {port} to {port} are taken"):
            listen(None)
        monkeypatch.setattr(server, "TRIED", 30)
        with listen(None) as second:
            assert port < second.getsockname()[1] < port + 30
    with pytest.raises(InputError, match="cannot listen on port 70000"):
        listen(70000)


def test_a_port_is_free_again_at_once() -> None:
    import socket

    with listen(0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            answered, _ = first.accept()
            answered.close()  # the server hangs up first: its end waits for stragglers
            caller.recv(1)
    with listen(port):
        pass
