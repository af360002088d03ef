"""Webhooks: HTTP requests that rules ask for, to the hosts that the configuration lists and to no others.

What arrives there arrives at least once: a request that broke off, or that the host could not serve just then, is sent
again a few times. Nothing of an answer but its status is read, no redirect is followed, and neither a proxy nor a login
is taken from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from assistant import __version__, secret_files
from assistant.channel import Channel
from assistant.events import Webhook
from assistant.outputs.traffic import Traffic
from assistant.settings import Settings

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

INBOX = 100  # requests that wait; the oldest is shed
AT_ONCE = 4  # hosts that hang must not hold up the others
TIMEOUT = 10.0  # seconds for one request, name look-up and TLS included
WAITS = (1.0, 5.0, 25.0)  # seconds before a request is sent again
AGAIN = frozenset({408, 425, 429})  # refusals that time may heal, as all from 500 on
OLDEST = 300.0  # seconds: what waited longer is news no more
PORTS = {"http": 80, "https": 443}


def _host(text: str) -> str:
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or parts.netloc != text or "@" in text or "*" in text or port == 0:
        raise ValueError(f'"{text}" is no host: write for example hooks.example.org or 192.168.1.5:8123')
    return text.lower()


class WebhookSettings(Settings):
    """Where rules may send requests to."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        default=(), description="host or host:port, exactly as in the addresses of the rules; no other is called"
    )
    ca: Path | None = Field(default=None, description="PEM file of an authority of your own, instead of the system's")


def is_listed(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether the host and port of `url` are among `hosts`; one without a port means its scheme's usual one."""
    parts = urlsplit(url)
    usual = PORTS[parts.scheme]
    port = parts.port or usual
    named = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{named}:{port}" in hosts or (port == usual and named in hosts)


class Webhooks:
    """Sends what is offered; `run` it as a lasting part of the daemon."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Nothing is opened before `run`."""
        # httpx tells every address, secrets and all, at INFO, and every header at DEBUG.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._settings = settings
        self._inbox: Channel[tuple[Webhook, float]] = Channel("webhooks", INBOX)
        self._counts: Counter[str] = Counter()
        self.traffic: dict[str, Traffic] = {}  # by host, of `webhooks.hosts`
        self._told: set[str] = set()  # failures that were logged
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def offer(self, webhook: Webhook) -> None:
        """Take a request. Never blocks; the oldest that waits is shed when there are too many."""
        if not is_listed(webhook.url, self._settings.hosts):
            self._fail(webhook, "is not listed in webhooks.hosts")
            return
        self._idle.clear()
        self._inbox.offer((webhook, asyncio.get_running_loop().time()))

    def health(self) -> Mapping[str, int]:
        """Figures for the health topic."""
        return {
            "sent": self._counts["sent"],
            "failed": self._counts["failed"],
            "retries": self._counts["retries"],
            "drops": self._inbox.drops,
            "queue": len(self._inbox) + self._working,
        }

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(self._work(), name=f"webhook {number}")

    async def stop(self, seconds: float) -> None:
        """Send what is left for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("webhooks: %d were not sent", len(self._inbox) + self._working)

    async def _work(self) -> None:
        while True:
            webhook, offered = await self._inbox.get()
            self._working += 1
            try:
                await self._deliver(webhook, offered)
            except Exception:
                log.exception("webhook of rule %r broke", webhook.rule)
                self._counts["failed"] += 1
            finally:
                self._working -= 1
                if not self._working and not len(self._inbox):
                    self._idle.set()

    async def _deliver(self, webhook: Webhook, offered: float) -> None:
        """Send it, again where that may help."""
        loop = asyncio.get_running_loop()
        for wait in (*WAITS, None):
            if loop.time() - offered > OLDEST:
                self._fail(webhook, f"waited for more than {OLDEST:.0f} s")
                return
            problem, again = await self._send(webhook)
            if problem is None:
                self._counts["sent"] += 1
                self._told = {told for told in self._told if not told.startswith(f"{webhook.rule}\n")}
                return
            if wait is None or not again:
                self._fail(webhook, problem)
                return
            log.debug("webhook of rule %r: %s; it is sent again", webhook.rule, problem)
            self._counts["retries"] += 1
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 (jitter, not a secret)

    async def _send(self, webhook: Webhook) -> tuple[str | None, bool]:
        """What went wrong (None: nothing), and whether it may go well another time. Never with a secret in it."""
        import httpx2  # noqa: PLC0415 (0.1 s: only where a webhook is called)

        try:
            headers = _headers(webhook)
            secure = webhook.url.startswith("https:")
            context = await asyncio.to_thread(ssl.create_default_context, cafile=self._settings.ca) if secure else False
            host = next(host for host in self._settings.hosts if is_listed(webhook.url, (host,)))
            traffic = self.traffic.setdefault(host, Traffic())
            traffic.sent(len(webhook.url) + sum(map(len, chain(*headers.items()))) + len(webhook.body or b""))
            began = time.monotonic()
        except (OSError, ValueError) as error:
            return f"{error}; remedy: check webhooks.ca and the files of its headers", False
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                httpx2.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=TIMEOUT) as client,
                client.stream(webhook.method, webhook.url, headers=headers, content=webhook.body) as answer,
            ):
                traffic.answers.append(time.monotonic() - began)
                return _problem(answer)
        except (TimeoutError, httpx2.TimeoutException):
            return f"no answer within {TIMEOUT:.0f} s", True
        except (httpx2.InvalidURL, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, UnicodeError) as error:
            return f"cannot be sent ({type(error).__name__}); remedy: check its url and headers", False
        except httpx2.HTTPError as error:
            return _explained(error)

    def _fail(self, webhook: Webhook, problem: str) -> None:
        self._counts["failed"] += 1
        parts = urlsplit(webhook.url)
        key = f"{webhook.rule}\n{problem}"
        level = logging.DEBUG if key in self._told else logging.WARNING
        if len(self._told) < INBOX:
            self._told.add(key)
        host = parts.netloc.rpartition("@")[2]
        log.log(level, "webhook of rule %r: %s://%s %s (told once)", webhook.rule, parts.scheme, host, problem)


def _headers(webhook: Webhook) -> dict[str, str]:
    """Raises `OSError` and `ValueError` for a file that does not hold a secret."""
    written = {name: secret_files.read(value) if isinstance(value, Path) else value for name, value in webhook.headers}
    kind = {} if webhook.content_type is None else {"Content-Type": webhook.content_type}
    return {"User-Agent": f"kikimimi/{__version__}", **kind, **written}


def _problem(answer: httpx2.Response) -> tuple[str | None, bool]:
    status = answer.status_code
    if 200 <= status < 300:
        return None, False
    if 300 <= status < 400:
        host = answer.headers.get("Location", "").partition("://")[2].partition("/")[0].rpartition("@")[2]
        where = f" to {host[:100]!a}" if host else ""
        return (
            f"redirects{where} (HTTP {status}), which is not followed; remedy: write that address",
            False,
        )
    return f"answers HTTP {status}", status >= 500 or status in AGAIN


def _explained(error: Exception) -> tuple[str, bool]:
    """The cause below what the library raised; its own text may quote the address."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"has a certificate that is not trusted ({cause.verify_message}); remedy: webhooks.ca", False
            case ssl.SSLError():
                return f"speaks no TLS there ({cause.reason}); remedy: check port and scheme", True
            case OSError(strerror=str()):
                return f"cannot be reached ({cause.strerror})", True
        cause = cause.__cause__ or cause.__context__
    return f"broke off ({type(error).__name__})", True
