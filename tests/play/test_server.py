"""The server speaks to holders of the token alone, in a page of its own, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serving import Served, children, is_running, serve

from npgan.cli import main
from npgan.play.parts import PARTS


def _status(served: Served, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(served.host, timeout=10)
    sent = {"Host": served.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("GET", path, headers=sent)
    status = connection.getresponse().status
    connection.close()
    return status


def _until(holds: Callable[[], bool]) -> bool:
    return any(holds() or time.sleep(0.05) for _ in range(200))


async def _talk(served: Served, *messages: dict[str, Any], origin: str | None = None) -> list[dict[str, Any]]:
    """What the lab answers to each message first."""
    headers = {"Origin": origin or f"http://{served.host}"}
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{served.address}ws", headers=headers) as page:
            answers = [await page.receive_json(timeout=20)]
            for message in messages:
                await page.send_json({"part": "lab", **message})
                answers.append(await page.receive_json(timeout=20))
        return answers


def test_the_page_and_its_files_are_there_for_a_holder_of_the_token(served: Served) -> None:
    path = f"/{served.token}/"
    assert [_status(served, path + name) for name in ("", "page.js", "page.css")] == [200] * 3
    assert [_status(served, path + name) for name in ("nothing", "..%2Fserver.py", "a/b")] == [404] * 3
    for name in PARTS:
        assert _status(served, f"{path}{name}.js") == _status(served, f"{path}{name}.css") == 200


@pytest.mark.parametrize(
    "path", ["/", "/ws", "/page.js", "/{token}x/", "/{half}/", "/favicon.ico", "//{token}/", "/x/{token}/"]
)
def test_without_the_token_nothing_is(served: Served, path: str) -> None:
    assert _status(served, path.format(token=served.token, half=served.token[:-1])) == 403


def test_another_host_or_origin_is_refused(served: Served) -> None:
    path, port = f"/{served.token}/", served.host.split(":")[1]
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"localhost:{port}",
        "127.0.0.1",
        f"127.0.0.1.evil.example:{port}",
        "",
    ):
        assert _status(served, path, Host=host) == 403, host
    for origin in ("http://evil.example", "null", f"https://{served.host}", f"http://localhost:{port}", ""):
        assert _status(served, path, Origin=origin) == 403, origin
        assert _status(served, f"{path}ws", Origin=origin) == 403, origin
    assert _status(served, f"{path}ws") == 403  # browsers name the origin of a web socket, always
    assert _status(served, f"{path}page.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert (
        _status(served, path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200
    )  # a click in a web terminal


def test_a_socket_of_another_origin_is_refused(served: Served) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        asyncio.run(_talk(served, origin="http://evil.example"))
    assert refused.value.status == 403


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    port = int(served.host.split(":")[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
            pass


def test_every_answer_forbids_what_is_not_its_own(served: Served) -> None:
    connection = http.client.HTTPConnection(served.host, timeout=10)
    for path in (f"/{served.token}/", f"/{served.token}/nothing", "/"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy  # no text becomes HTML
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    connection.close()


def test_what_is_no_message_is_dropped(served: Served) -> None:
    async def talk() -> dict[str, Any]:
        headers = {"Origin": f"http://{served.host}"}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{served.address}ws", headers=headers) as page,
        ):
            await page.receive_json()
            for text in ("", "{", "[]", "1", "null", '{"part": []}', '{"part": "nothing"}', '{"part": "__class__"}'):
                await page.send_str(text)
            await page.send_bytes(b"\x00")
            await page.send_json({"part": "lab", "do": "nothing"})
            return await page.receive_json(timeout=20)

    assert asyncio.run(talk()) == {"part": "lab", "error": "nothing was started yet"}


def test_settings_that_cannot_be_meant_are_told(served: Served) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"settings": {"lr_g": "-1"}}, "Learning rate of G"),
        ({"settings": {"lr_g": "x"}}, "Learning rate of G"),
        ({"settings": {"batch_size": "99999"}}, "Batch size"),
        ({"settings": {"hidden_g": "64;64"}}, "Widths of G"),
        ({"settings": {"hidden_d": "0"}}, "Widths of D"),
        ({"settings": {"data": "<b>"}}, "Data"),
        ({"settings": {"loss": "bce", "r1": "1"}}, "--loss"),
        ({"settings": {"data": "drawn"}}, "draw"),
        ({"settings": []}, "JSON object"),
    ]
    for points in ([["x", 1]], [[1e9, 0]], [[None, 0]], 3, [[0.1]], []):
        cases.append(({"settings": {"data": "drawn"}, "drawn": points}, "draw"))
    messages = [{"do": "start", **message} for message, _ in cases]
    _, *answers = asyncio.run(_talk(served, *messages, {"do": "step"}))
    assert answers.pop() == {"part": "lab", "error": "nothing was started yet"}
    for (_, word), answer in zip(cases, answers, strict=True):
        assert word in answer["refused"], answer


def test_pages_have_learners_of_their_own_and_closed_ones_leave_nothing(served: Served) -> None:
    async def two() -> tuple[int, ...]:
        headers = {"Origin": f"http://{served.host}"}
        async with aiohttp.ClientSession() as session:
            pages = [await session.ws_connect(f"{served.address}ws", headers=headers) for _ in range(2)]
            steps = []
            for count, page in enumerate(pages, 1):
                await page.receive_json()
                await page.send_json({"part": "lab", "do": "start", "settings": {}})
                frame = await page.receive_json(timeout=20)
                for _ in range(count):
                    await page.send_json({"part": "lab", "do": "step"})
                    frame = await page.receive_json(timeout=20)
                steps.append(frame["frame"]["step"])
            steps.append(len(children(served.process.pid)))
            for page in pages:
                await page.close()
        return tuple(steps)

    assert asyncio.run(two()) == (1, 2, 2)
    assert _until(lambda: not children(served.process.pid))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_stopped_server_leaves_nothing(name: str, served: Served) -> None:
    server, number = serve("--no-browser"), getattr(signal, name)

    async def talk() -> tuple[set[int], tuple[int, str]]:
        headers = {"Origin": f"http://{server.host}"}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.address}ws", headers=headers) as page,
        ):
            await page.receive_json()
            await page.send_json({"part": "lab", "do": "start", "settings": {}})
            await page.receive_json(timeout=20)
            await page.send_json({"part": "lab", "do": "play"})
            started = children(server.process.pid)
            return started, await asyncio.to_thread(server.stop, number)

    started, ended = asyncio.run(talk())
    assert ended == ((-number, "") if name == "SIGKILL" else (128 + number, f"stopped by {name}\n"))
    assert started and _until(lambda: not any(map(is_running, started)))


def test_a_browser_is_given_an_address_that_works_once(served: Served, tmp_path: Path) -> None:
    """What stands on a command line every user of the machine can read."""
    given, program = tmp_path / "given", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {given}.part && mv {given}.part {given}\n')
    program.chmod(0o755)
    server = serve(BROWSER=f"{program} %s")
    assert _until(given.exists)
    path = given.read_text().strip().removeprefix(f"http://{server.host}")
    assert server.token not in path
    assert [_status(server, path, Host="evil.example"), _status(server, path), _status(server, path)] == [403, 302, 403]
    server.stop()


def test_a_port_that_is_taken_and_a_run_that_is_not_there(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--port", served.host.split(":")[1]], ["--port", "70000"], ["--port", "-1"], ["/nowhere/run"]):
        assert main(["play", "--no-browser", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
