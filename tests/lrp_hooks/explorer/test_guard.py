"""Who may talk to the explorer. Every request goes over a socket to a real server."""

from __future__ import annotations

from typing import Any

import pytest
from explorer_client import Client

from lrp_hooks.errors import InputError
from lrp_hooks.explorer.guard import cookie_name
from lrp_hooks.explorer.server import listen

STATE = ("GET", "/api/state")


def status(client: Client, *words: Any, **options: Any) -> int:
    return client.ask(*words, **options)[0]


def test_without_the_secret_nothing_is_told(client: Client) -> None:
    for method, path in (STATE, ("GET", "/"), ("POST", "/api/load"), ("GET", "/results/1"), ("GET", "/nowhere")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{cookie_name(client.secret)}=wrong"}):
            assert status(client, method, path, known=False, **headers) == 403, (path, headers)
    found, headers, body = client.ask("GET", "/?token=wrong", known=False)
    assert found == 403
    assert "set-cookie" not in headers
    assert b"lrp-hooks serve" in body
    assert client.secret.encode() not in body


def test_the_printed_address_gives_a_cookie_that_scripts_cannot_read(client: Client) -> None:
    found, headers, body = client.ask("GET", f"/?token={client.secret}", known=False)
    assert (found, headers["location"], body) == (303, "/", b"")
    pair, *flags = [part.strip() for part in headers["set-cookie"].split(";")]
    assert pair == f"{cookie_name(client.secret)}={client.secret}"
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} == set(flags)
    for cookie in (pair, f'other="a b; {pair}; last=1', f"a=1;{pair}"):  # whatever other servers' cookies hold
        assert status(client, *STATE, known=False, Cookie=cookie) == 200


def test_only_names_of_this_machine_are_answered(client: Client) -> None:
    port = client.host.rpartition(":")[2]
    for host in (f"localhost:{port}", "127.0.0.1:9000", "[::1]:80", "LOCALHOST"):  # a forwarded port has its own number
        assert status(client, *STATE, Host=host) == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil", "", "[", "a@b:1"):
        assert status(client, *STATE, Host=host) in (400, 403), host


def test_other_pages_change_nothing(client: Client) -> None:
    form = {"name": "tiny-0"}
    own = f"http://{client.host}"
    for origin in (
        "http://evil.example",
        "null",
        "http://localhost:1",
        own + "0",
        f"{own}.evil.example",
        "",
        "http://[",
    ):
        assert status(client, "POST", "/api/load", form, Origin=origin) == 403, origin
        assert status(client, "DELETE", "/api/results/1", Origin=origin) == 403
    assert client.json(*STATE)["jobs"] == []
    assert status(client, "POST", "/api/load", form, Origin=own) == 202
    assert status(client, "POST", "/api/load", form) == 202  # a program without a browser


def test_answers_carry_their_policies(tiny_client: Client) -> None:
    tiny_client.result("/api/explain", {"prompt": {"text": "say no more"}})
    for path in ("/", "/api/state", "/results/1"):
        headers = tiny_client.ask("GET", path)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
    assert "frame-ancestors 'none'" in tiny_client.ask("GET", "/")[1]["content-security-policy"]
    for path in ("/results/1", "/results/1/download?format=.html"):
        policy = tiny_client.ask("GET", path)[1]["content-security-policy"]
        assert "sandbox allow-scripts allow-downloads" in policy  # never allow-same-origin
        assert "frame-ancestors 'self'" in policy


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


def test_two_explorers_do_not_share_a_cookie() -> None:
    assert cookie_name("a") != cookie_name("b")
