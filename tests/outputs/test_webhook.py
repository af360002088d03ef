"""Webhooks against real HTTP(S) servers that answer, hang, fail, redirect or are not what they seem."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from brokers import free_port, until
from certificates import Authority
from pydantic import ValidationError

from assistant.events import Webhook
from assistant.outputs import webhook as module
from assistant.outputs.webhook import Webhooks, WebhookSettings, is_listed

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
SECRET = "geheim-4711"


class Server:
    """An HTTP server on loopback. `answers` are given in turn, the last one for ever."""

    def __init__(self, *answers: bytes | Answer) -> None:
        self.answers = list(answers) or [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.times.append(time.monotonic())
            self.requests.append((first, headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as started:
        server.port = started.sockets[0].getsockname()[1]
        yield server


@asynccontextmanager
async def running(*hosts: str, ca: Path | None = None) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(WebhookSettings(hosts=hosts, ca=ca))
    task = asyncio.create_task(webhooks.run())
    try:
        yield webhooks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (0.05, 0.1, 0.2))
    monkeypatch.setattr(module, "TIMEOUT", 1.0)


def status(code: int, *headers: str, body: bytes = b"") -> bytes:
    lines = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}"))
    return f"HTTP/1.1 {code} X\r\n{lines}\r\n".encode() + body


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def ended(webhooks: Webhooks, sent: int, failed: int) -> Callable[[], bool]:
    return lambda: (webhooks.health()["sent"], webhooks.health()["failed"]) == (sent, failed)


async def test_a_request_arrives_once_with_its_headers_and_body(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text(f"Bearer {SECRET}\n")
    async with serving(Server()) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        url = f"http://127.0.0.1:{server.port}/hook/{SECRET}?room=k%26x"
        webhooks.offer(
            Webhook(url, "PUT", (("Authorization", tmp_path / "token"), ("X-A", "b")), b'{"a":1}', "application/json")
        )
        await until(ended(webhooks, 1, 0))
        ((first, headers, body),) = server.requests

    ((host, traffic),) = webhooks.traffic.items()
    assert (host, traffic.messages, len(traffic.answers)) == (f"127.0.0.1:{server.port}", 1, 1)
    assert len(url) + len(body) < traffic.bytes < len(url) + 200
    assert first == f"PUT /hook/{SECRET}?room=k%26x HTTP/1.1"
    assert (headers["authorization"], headers["x-a"]) == (f"Bearer {SECRET}", "b")
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("kikimimi/")
    assert body == b'{"a":1}'
    assert SECRET not in caplog.text


@pytest.mark.parametrize("code", [500, 503, 429])
async def test_what_the_host_cannot_serve_now_is_sent_again(code: int):
    async with (
        serving(Server(status(code), status(code), status(204))) as server,
        running(f"127.0.0.1:{server.port}") as webhooks,
    ):
        webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/"))
        await until(ended(webhooks, 1, 0))
        assert webhooks.health()["retries"] == 2
    assert server.times[2] - server.times[1] > server.times[1] - server.times[0] > 0.03


async def test_it_is_given_up_after_four_attempts(caplog: pytest.LogCaptureFixture):
    async with serving(Server(status(500))) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        for _ in range(2):
            webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/{SECRET}", rule="r"))
        await until(ended(webhooks, 0, 2))
    assert len(server.requests) == 8
    assert told(caplog) == [f"webhook of rule 'r': http://127.0.0.1:{server.port} answers HTTP 500 (told once)"]


async def test_a_refusal_is_not_repeated(caplog: pytest.LogCaptureFixture):
    async with serving(Server(status(403))) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/", rule="r"))
        await until(ended(webhooks, 0, 1))
    assert len(server.requests) == 1
    assert "answers HTTP 403" in caplog.text


async def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture):
    async with serving(Server()) as other, serving(Server()) as server:
        server.answers = [status(307, f"Location: http://u:{SECRET}@127.0.0.1:{other.port}/x")]
        async with running(f"127.0.0.1:{server.port}") as webhooks:
            webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/", rule="r"))
            await until(ended(webhooks, 0, 1))
    assert other.requests == []
    assert f"redirects to '127.0.0.1:{other.port}'" in caplog.text
    assert SECRET not in caplog.text


async def test_a_host_that_is_not_listed_is_not_called(caplog: pytest.LogCaptureFixture):
    async with serving(Server()) as server, running("127.0.0.1") as webhooks:
        webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/", rule="r"))
        assert webhooks.health()["failed"] == 1
        await asyncio.sleep(0.1)
    assert server.requests == []
    assert "not listed in webhooks.hosts" in caplog.text


async def test_a_huge_answer_is_not_read():
    written = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            written += 65_536

    async with serving(Server(flood)) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        began = time.monotonic()
        webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/"))
        await until(ended(webhooks, 1, 0))
        assert time.monotonic() - began < 1.0
    assert written < 20_000_000


async def test_endless_headers_are_an_error():
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Long: " + b"a" * 65_536)
            await writer.drain()

    async with serving(Server(endless)) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/"))
        await until(ended(webhooks, 0, 1))


async def test_hosts_that_hang_do_not_hold_up_the_others(caplog: pytest.LogCaptureFixture):
    async def hang(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with (
        serving(Server(hang)) as slow,
        serving(Server()) as quick,
        running(f"127.0.0.1:{slow.port}", f"127.0.0.1:{quick.port}") as webhooks,
    ):
        for _ in range(3):
            webhooks.offer(Webhook(f"http://127.0.0.1:{slow.port}/", rule="r"))
        began = time.monotonic()
        webhooks.offer(Webhook(f"http://127.0.0.1:{quick.port}/"))
        assert time.monotonic() - began < 0.05  # offering never blocks
        await until(ended(webhooks, 1, 0))
        assert time.monotonic() - began < 1.0
        await until(ended(webhooks, 1, 3))
    assert "no answer within 1 s" in caplog.text


async def test_nobody_listens(caplog: pytest.LogCaptureFixture):
    port = free_port()
    async with running(f"127.0.0.1:{port}", "host.invalid") as webhooks:
        webhooks.offer(Webhook(f"http://127.0.0.1:{port}/{SECRET}", rule="r"))
        webhooks.offer(Webhook(f"https://host.invalid/{SECRET}", rule="r"))
        await until(ended(webhooks, 0, 2))
        assert webhooks.health()["retries"] == 6
    assert "cannot be reached" in caplog.text
    assert SECRET not in caplog.text


async def test_the_queue_is_bounded_and_what_is_shed_is_counted():
    webhooks = Webhooks(WebhookSettings(hosts=("a",)))
    for _ in range(module.INBOX + 5):
        webhooks.offer(Webhook("https://a/"))
    assert (webhooks.health()["queue"], webhooks.health()["drops"]) == (module.INBOX, 5)


async def test_stopping_sends_what_is_left():
    async with serving(Server()) as server, running(f"127.0.0.1:{server.port}") as webhooks:
        for _ in range(9):
            webhooks.offer(Webhook(f"http://127.0.0.1:{server.port}/"))
        await webhooks.stop(5.0)
        assert webhooks.health()["sent"] == 9


# TLS


def context(authority: Authority, host: str, *, expired: bool = False) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*authority.issue(host, expired=expired))
    return made


async def test_https_with_an_authority_of_ones_own(tmp_path: Path):
    authority = Authority.make(tmp_path)
    async with (
        serving(Server(), context(authority, "127.0.0.1")) as server,
        running(f"127.0.0.1:{server.port}", ca=authority.ca) as webhooks,
    ):
        webhooks.offer(Webhook(f"https://127.0.0.1:{server.port}/"))
        await until(ended(webhooks, 1, 0))


@pytest.mark.parametrize("wrong", ["unknown authority", "expired", "other name"])
async def test_a_certificate_that_is_not_right(wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    authority, other = Authority.make(tmp_path), Authority.make(tmp_path, "other")
    signer = other if wrong == "unknown authority" else authority
    host = "elsewhere.example" if wrong == "other name" else "127.0.0.1"
    async with (
        serving(Server(), context(signer, host, expired=wrong == "expired")) as server,
        running(f"127.0.0.1:{server.port}", ca=authority.ca) as webhooks,
    ):
        webhooks.offer(Webhook(f"https://127.0.0.1:{server.port}/", rule="r"))
        await until(ended(webhooks, 0, 1))
        assert webhooks.health()["retries"] == 0
    assert server.requests == []
    assert "certificate that is not trusted" in caplog.text


async def test_https_to_a_port_that_speaks_none(caplog: pytest.LogCaptureFixture):
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(status(400))
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with running(f"127.0.0.1:{port}") as webhooks:
            webhooks.offer(Webhook(f"https://127.0.0.1:{port}/", rule="r"))
            await until(ended(webhooks, 0, 1))
    assert "TLS" in caplog.text


async def test_a_missing_authority_and_a_missing_header_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with running("a", ca=tmp_path / "none.pem") as webhooks:
        webhooks.offer(Webhook("https://a/", rule="r"))
        await until(ended(webhooks, 0, 1))
    async with running("a") as webhooks:
        webhooks.offer(Webhook("https://a/", headers=(("X", tmp_path / "none"),), rule="r"))
        await until(ended(webhooks, 0, 1))
    assert len(told(caplog)) == 2


# what is listed


@pytest.mark.parametrize(
    ("url", "hosts", "listed"),
    [
        ("https://a.example/x", ("a.example",), True),
        ("http://a.example/x", ("a.example",), True),
        ("https://a.example:443/x", ("a.example",), True),
        ("https://A.example/x", ("a.example",), True),
        ("https://a.example:8443/x", ("a.example",), False),
        ("https://a.example:8443/x", ("a.example:8443",), True),
        ("https://a.example/x", ("a.example:8443",), False),
        ("https://b.a.example/x", ("a.example",), False),
        ("https://a.example.evil/x", ("a.example",), False),
        ("https://a.example@evil/x", ("a.example",), False),
        ("https://169.254.169.254/x", ("a.example",), False),
        ("http://[::1]:8080/", ("[::1]:8080",), True),
        ("http://[::1]/", ("[::1]",), True),
    ],
)
def test_a_host_is_listed_exactly(url: str, hosts: tuple[str, ...], listed: bool):
    assert is_listed(url, hosts) is listed


@pytest.mark.parametrize("host", ["", "*", "*.example", "https://a", "a/b", "a:0", "a:x", "a:70000", "u@a", "a b/"])
def test_hosts_that_are_none(host: str):
    with pytest.raises(ValidationError, match="no host"):
        WebhookSettings(hosts=(host,))
