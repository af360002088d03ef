"""`kikimimi serve` with several replicas: the same API as a Ray Serve application, on this machine or on a cluster.

Each replica is a process that holds all models of the configuration, on a GPU of its own where there is one. Ray Serve
shares the requests out, starts replicas anew that die or hang, adds some while many ask, and replaces them one by one
when the configuration changes. Requests of one replica are batched by its resident model, as in one process.

On a cluster that runs already: `serve run assistant.clustering:application config=/etc/kikimimi/config.yaml`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant import __version__
from assistant.config import Config, load
from assistant.errors import AssistantError, ConfigurationError, ModelError
from assistant.serving import NOTHING, House, at, loaded, opened

if TYPE_CHECKING:
    from assistant.serve.guard import Guard

log = logging.getLogger(__name__)

NAME = "kikimimi"
HEALTH_EVERY, HEALTH_WITHIN = 1.0, 10.0  # seconds between two looks at a replica, and for its answer
CORES = 1  # of a replica, whose GPU if there is one does the rest
DRAIN = 20.0  # seconds for the answers of a replica that is replaced


class Replica:
    """One process with all models. Ray makes it, on the loop that its requests are served on."""

    async def __init__(self, config: Config) -> None:  # type: ignore[misc]  # Ray awaits it
        logging.basicConfig(level=logging.WARNING)  # Ray passes it on; its own lines have their own way
        logging.getLogger("assistant").setLevel(logging.INFO)
        self._config = config
        self._stack = AsyncExitStack()
        self._house: House = await self._stack.enter_async_context(loaded(config, CORES))

    def __serve_build_asgi_app__(self) -> Guard:
        """The API over these models."""
        from assistant.serve.application import build  # noqa: PLC0415

        return build(self._house, self._config.serve, __version__)

    async def check_health(self) -> None:
        """Ray asks; what raises is replaced. A model that is only out of memory comes back by itself."""
        if (hangs := self._house.hanging()) is not None:
            raise RuntimeError(hangs)

    async def __del__(self) -> None:
        await self._stack.aclose()


def application(args: dict[str, str]) -> Any:  # noqa: ANN401 (Ray has no types)
    """The application for `serve run` and `serve deploy`: `config` names a configuration file, `profile` overrides."""
    config = load(Path(args["config"]) if "config" in args else None)
    return bound(config.model_copy(update={"profile": args["profile"]}) if "profile" in args else config)


def bound(config: Config) -> Any:  # noqa: ANN401
    """The application of a configuration."""
    from ray import serve  # noqa: PLC0415 (the extra cluster)

    settings = config.serve
    most = settings.most_replicas or settings.replicas
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if most > settings.replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": settings.replicas,
                "max_replicas": most,
                "target_ongoing_requests": 4,
            }
        }
    deployment = serve.deployment(
        name="models",
        **scaling,
        max_ongoing_requests=settings.requests,
        max_queued_requests=settings.requests * most,
        ray_actor_options=_resources(config),
        health_check_period_s=HEALTH_EVERY,
        health_check_timeout_s=HEALTH_WITHIN,
        graceful_shutdown_timeout_s=DRAIN,
    )(serve.ingress()(Replica))
    return deployment.bind(config)


def _resources(config: Config) -> dict[str, float]:
    """A GPU for each replica that computes on one, else a core."""
    import ray  # noqa: PLC0415

    gpus = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else 0
    wanted = config.profile != "embedded" and config.models.audio_llm.device != "cpu" and gpus
    return {"num_cpus": CORES, "num_gpus": 1.0} if wanted else {"num_cpus": CORES}


async def serve_replicas(
    config: Config,
    stopping: asyncio.Event,
    reloading: asyncio.Event,
    again: Callable[[], Config],
    take_signals: Callable[[], None],
) -> None:
    """Serve until `stopping`; whenever `reloading`, replace the replicas by those of the configuration `again()`.

    `take_signals` is called once Ray, which takes them for itself, has started.
    Raises `ConfigurationError` without the extra, `AssistantError` for a port that is taken, `ModelError` when the
    replicas do not come up.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "several replicas need Ray Serve; remedy: pip install 'kikimimi[cluster]', or one process: --replicas 1"
        )
    if config.profile == "remote":
        raise ConfigurationError(NOTHING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: nothing is told to its makers
    # Ray lets its workers compute behind every other program (15): a replica that came back waited for all of them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    config.serve.secret()
    if "RAY_ADDRESS" not in os.environ:
        if config.serve.port == 0:
            raise ConfigurationError("serve.port: 0 is for one process; remedy: name a port, or --replicas 1")
        opened(config.serve.host, config.serve.port).close()  # Ray would tell in a log of its own that it cannot
    await asyncio.to_thread(_start, config)
    take_signals()
    try:
        await asyncio.to_thread(_deploy, config)
        log.info("http://%s/v1 is served by replicas", at(config.serve.host, config.serve.port))
        while not stopping.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (stopping, reloading)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if reloading.is_set() and not stopping.is_set():
                reloading.clear()
                await _replace(config, again)
    finally:
        await asyncio.to_thread(_leave)


async def _replace(config: Config, again: Callable[[], Config]) -> None:
    """Read the configuration again; replicas are replaced one by one while others answer."""
    try:
        fresh = await asyncio.to_thread(again)
        if (fresh.serve.host, fresh.serve.port) != (config.serve.host, config.serve.port):
            log.warning("serve.host, serve.port: changed, which takes effect after a restart")
        await asyncio.to_thread(_deploy, fresh)
        log.info("the replicas were replaced")
    except AssistantError as error:
        for line in str(error).splitlines():
            log.error("the replicas stay as they were: %s", line)  # noqa: TRY400 (a person reads this)


def _start(config: Config) -> None:
    """A Ray of our own on this machine, or that of `RAY_ADDRESS`."""
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    if "RAY_ADDRESS" in os.environ:
        ray.init(address="auto")
    else:
        # Replicas ask for a core each; what a machine has fewer they share, as processes do.
        cores = max(len(os.sched_getaffinity(0)), config.serve.most_replicas or config.serve.replicas)
        ray.init(include_dashboard=False, num_cpus=cores + 1)
    http = {"host": config.serve.host, "port": config.serve.port, "request_timeout_s": config.serve.timeout + 5.0}
    serve.start(proxy_location="HeadOnly", http_options=http)


def _deploy(config: Config) -> None:
    """Run the application, or replace what runs. Raises `ModelError`."""
    from ray import serve  # noqa: PLC0415

    try:
        serve.run(bound(config), name=NAME)
    except RuntimeError as error:  # Ray's, when the replicas fail to start
        raise ModelError(f"the replicas do not come up: {error}; remedy: kikimimi serve without replicas") from error


def _leave() -> None:
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    if "RAY_ADDRESS" in os.environ:
        serve.delete(NAME)
    else:
        serve.shutdown()
    ray.shutdown()
