"""The command `kikimimi`: arguments in, exit codes out. Heavy imports happen in the command that needs them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from assistant import __version__, logs
from assistant.errors import AssistantError, ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from assistant.app import Daemon
    from assistant.config import Config
    from assistant.outputs.mqtt import MqttSettings

log = logging.getLogger("assistant")

# Small matrix products of the always-on path must not wake a thread per core: with OpenBLAS's default they cost ten
# times the processor time (measured: 32 to 49 instead of 2.1 to 2.7 s per hour of audio). Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

THREADS_WITHIN = 2.0  # seconds for threads to end when the command has
SECOND_SIGNAL = 1.0  # seconds after which another signal means it

BARE_PASSWORD = re.compile(r"://[^@]*:[^@]+@")
PROFILES = ("embedded", "qwen", "hybrid", "remote")  # as `config` has them, which is not imported for --help

EPILOG = "Exit codes: 0 well, 1 failure, 2 configuration, 3 source, 4 model. Documentation: README.md, docs/."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parse(argv)
    logs.set_up(arguments.log_format, verbose=arguments.verbose)
    code = run_command(arguments)
    leave_hanging_threads(code)
    return code


def program() -> int:
    """`kikimimi` as a process of its own.

    A daemon thread that still computes is ended in the middle of that as soon as it comes back to an interpreter that
    shuts down; where the model is C++ that aborts the process, with exit code 134 instead of ours. So with threads left
    it ends here.
    """
    code = main()
    if threading.active_count() > 1:
        end_at_once(code)
    return code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. Files may stand on both sides of an option, as in `listen a.wav --json b.wav`."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    listed: list[str] | None = getattr(arguments, "paths", getattr(arguments, "names", None))
    if rest and (listed is None or any(text.startswith("-") and text != "-" for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if listed is not None:
        listed += rest
    return arguments


def run_command(arguments: argparse.Namespace) -> int:
    """Run the command; what a person may see of its failures goes to stderr."""
    try:
        return int(arguments.command(arguments))
    except AssistantError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (what the command says)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `kikimimi listen … | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def leave_hanging_threads(code: int) -> None:
    """End the process here when a thread of ours does not: a native call, or a file that nobody writes to, may hang.

    The interpreter would wait for such a thread for ever.
    """
    until = time.monotonic() + THREADS_WITHIN
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.debug("%s still hangs: leaving it", thread.name)
                end_at_once(code)


def end_at_once(code: int) -> None:
    """End the process without waiting for anything but its output."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """SIGINT and SIGTERM call `stop`; another one later than a second after the first ends at once.

    Not sooner, because `timeout` and some supervisors send two together.
    """
    asked: float | None = None

    def on_signal(number: int) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            stop()
        elif time.monotonic() - asked > SECOND_SIGNAL:
            log.warning("asked twice: stopping at once")
            end_at_once(128 + number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)


def on_hangup(reload: Callable[[], None], stop: Callable[[], None]) -> None:
    """SIGHUP calls `reload`; but `stop` when it comes because the terminal that we were started from is gone.

    Not under `nohup`, which has us ignore that.
    """
    terminal = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def on_signal() -> None:
        stop() if terminal and not has_terminal() else reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_signal)


def has_terminal() -> bool:
    """Whether this process has a terminal that could hang up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="kikimimi", description="The house that listens: sounds and speech as MQTT events.", epilog=EPILOG
    )
    top.add_argument("--version", action="version", version=f"kikimimi {__version__}")
    top.add_argument("-v", "--verbose", action="store_true", help="log more (DEBUG)")
    top.add_argument(
        "--log-format",
        choices=logs.FORMS,
        help="text, journal (lines with priorities, the default under systemd) or json",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = add(commands, "run", run_daemon, "listen to the rooms and act, until stopped")
    run.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[ROOM=]DEVICE|FILE|URL|-",
        help="hear this instead of the configured rooms; may be given several times",
    )
    run.add_argument(
        "--speed",
        type=speed,
        default=1.0,
        metavar="N",
        help="speed of files: 1 real time (default), 0 as fast as possible",
    )
    run.add_argument("--mqtt", metavar="URL", help="broker, as mqtt://user@host:port; without one a broker is embedded")

    listen = add(commands, "listen", listen_to_files, "hear files as fast as possible and print what was heard")
    listen.add_argument(
        "paths", nargs="+", metavar="FILE|DIR|-", help="audio or video files, folders, or - for raw s16le 16 kHz"
    )
    listen.add_argument("--json", action="store_true", help="one JSON event per line")
    listen.add_argument("--words", action="store_true", help="with the time of each word")

    ask = add(commands, "ask", ask_about_clips, "ask about clips: a question of your own, or a task")
    ask.add_argument("paths", nargs="+", metavar="AUDIO", help="audio or video files, or - for raw s16le 16 kHz")
    ask.add_argument("--text", metavar="QUESTION", help="what to ask; for the task find the words to find")
    ask.add_argument("--task", metavar="NAME", help="a task instead of a question; without both they are listed")
    ask.add_argument("--to", metavar="LANG", help="language to translate into, as en or ja")
    ask.add_argument("--language", metavar="LANG", help="language that is spoken, if known")
    ask.add_argument("--style", metavar="STYLE", help="of the task caption: audiocaps, clotho or plain")
    ask.add_argument("--json", action="store_true", help="one line of JSON")

    intent = add(commands, "intent", show_intent, "show what a command would do, or why nothing would happen")
    intent.add_argument("text", nargs="+", metavar="TEXT", help="what somebody says, as 'turn on the kitchen light'")
    intent.add_argument("--language", metavar="LANG", help="as en, ja or zh-CN; default: the configuration's")
    intent.add_argument("--room", metavar="R", help="the room that hears it: 'turn on the light' is one there")
    intent.add_argument("--json", action="store_true", help="one line of JSON")

    models = add(commands, "models", manage_models, "list, fetch or verify the model files")
    models.add_argument("what", choices=("list", "pull", "verify"))
    models.add_argument("names", nargs="*", metavar="NAME", help="default: those that the configuration uses")

    mqtt = add(commands, "mqtt", purge_broker, "remove what this installation left on the broker")
    mqtt.add_argument("what", choices=("purge",), help="purge: every retained message of ours, nobody else's")
    mqtt.add_argument("--mqtt", metavar="URL", help="broker, as mqtt://user@host:port")
    mqtt.add_argument("--yes", action="store_true", help="do not ask")
    mqtt.add_argument("--json", action="store_true", help="one line of JSON; needs --yes")

    events = add(commands, "events", show_events, "what was heard, out of the history; transcripts if they are kept")
    events.add_argument(
        "--since", metavar="WHEN", help="today, yesterday, an age such as 2 h, or a date 2026-11-28T22:00 (local time)"
    )
    events.add_argument("--until", metavar="WHEN", help="the same")
    events.add_argument("--room", metavar="R", help="of this room")
    events.add_argument("--type", metavar="T", help="event type, such as smoke_alarm, or speech")
    events.add_argument("--text", metavar="T", help="found in what was said, in any case")
    events.add_argument("--limit", type=int, default=100, metavar="N", help="the latest so many (default 100)")
    events.add_argument("--json", action="store_true", help="a JSON line for each")

    add_teach_command(commands)
    add_machine_commands(commands)
    add_service_commands(commands)
    demo = add(commands, "demo", run_demo, "hear a recorded house with an embedded broker and print every MQTT message")
    demo.add_argument(
        "--speed", type=speed, default=1.0, metavar="N", help="1 real time (default), 0 as fast as possible"
    )
    return top


def add_teach_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What teaches sounds of one's own."""
    teach = add(commands, "teach", teach_sound, "teach a sound of your own from a few recordings; list or forget them")
    teach.add_argument(
        "paths", nargs="*", metavar="NAME FILES…", help="what it is called, in any script, and 3 to 5 files"
    )
    teach.add_argument("--name", metavar="SLUG", help="its event type, a-z, 0-9 and _; default: out of NAME")
    teach.add_argument("--list", action="store_true", help="list what was taught")
    teach.add_argument("--delete", action="store_true", help="forget NAME")
    teach.add_argument("--json", action="store_true", help="one line of JSON")


def add_machine_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What tells about this machine and its configuration."""
    add(commands, "devices", list_devices, "list the microphones and loudspeakers")
    add(commands, "check", check_configuration, "explain the configuration and its rules, and warn")
    doctor = add(commands, "doctor", examine_machine, "tell what this machine can run and what is missing")
    bench = add(commands, "bench", measure_machine, "measure how many rooms this machine carries, and its delays")
    for sub in (doctor, bench):
        sub.add_argument("--json", action="store_true", help="one line of JSON")


def add_serve_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What serves the models."""
    serve = add(commands, "serve", serve_models, "serve the models to other machines by an OpenAI-compatible API")
    serve.add_argument("--host", metavar="H", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, metavar="P", help="default 8766")
    serve.add_argument(
        "--replicas", type=int, metavar="N", help="so many copies of the models, by Ray Serve (extra cluster)"
    )


def add_service_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What installs and removes the systemd service, and what serves the models."""
    add_serve_command(commands)
    install = add(commands, "install-service", install_service, "install or update a systemd service")
    install.add_argument("--prefix", type=Path, metavar="DIR", help="its virtual environment (default /opt/kikimimi)")
    uninstall = add(commands, "uninstall-service", uninstall_service, "remove that service; its configuration stays")
    uninstall.add_argument("--prefix", type=Path, metavar="DIR", help="as it was installed")
    uninstall.add_argument("--purge", action="store_true", help="remove configuration, state and models too")
    add(commands, "alive", check_alive, "for the health check of a container: whether its daemon makes progress")
    for sub in (install, uninstall):
        sub.add_argument("--user", action="store_true", help="a service of your own, for a desktop's sound server")
        sub.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    """A subcommand with the options that all share."""
    sub = commands.add_parser(name, help=summary, description=summary.capitalize() + ".", epilog=EPILOG)
    sub.set_defaults(command=command)
    sub.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration file")
    sub.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    sub.add_argument("--log-format", choices=logs.FORMS, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if name in {"run", "listen", "ask", "serve"}:
        sub.add_argument("--profile", choices=PROFILES, metavar="P", help=f"{', '.join(PROFILES)} (default embedded)")
    return sub


def speed(text: str) -> float:
    """A speed of files: a number, not negative."""
    value = float(text)
    if not 0.0 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1000")
    return value


def load_configuration(arguments: argparse.Namespace) -> Config:
    """The configuration file with what the command line overrides."""
    from assistant.config import load  # noqa: PLC0415

    config = load(arguments.config)
    profile = getattr(arguments, "profile", None)
    return config if profile is None else config.model_copy(update={"profile": profile})


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows downloads as bars on a terminal and as single lines elsewhere."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, there: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
                if not console.is_terminal:
                    log.info("fetching %s (%.1f MB)", name, total / 1e6)
            bars.update(tasks[name], completed=there)

        yield show


def broker_of(url: str, settings: MqttSettings) -> MqttSettings:
    """`settings` with the broker that `--mqtt` names: its host, port and TLS, and its login if the URL has one.

    Raises `ConfigurationError`, without the password that the URL may hold.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from assistant.outputs.mqtt import MqttSettings  # noqa: PLC0415

    try:
        named = MqttSettings(url=url)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"--mqtt: {reason}") from None
    changed: dict[str, object] = {"url": named.url, "host": named.host, "port": named.port, "tls": named.tls}
    if named.tls is not None and settings.tls is not None:
        changed["tls"] = settings.tls  # its authorities
    if named.username is not None and named.username != settings.username:
        changed |= {"username": named.username, "password": named.password, "password_file": None}
    elif named.password is not None:
        changed |= {"password": named.password, "password_file": None}
    return settings.model_copy(update=changed)


def argument(option: str, text: str) -> str:
    """`text` of the command line, in a URL with `${NAME}` out of the environment.

    Raises `ConfigurationError` for a URL with a plain password: every user of the machine can read command lines.
    """
    from assistant.config import VARIABLE  # noqa: PLC0415

    if "://" not in text:
        return text
    if BARE_PASSWORD.search(VARIABLE.sub("", text)):
        raise ConfigurationError(
            f"{option}: every user of this machine can read a password on the command line; remedy: put it into the "
            "configuration, or name an environment variable, in single quotes: 'scheme://user:${NAME}@host'"
        )

    def variable(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if (value := os.environ.get(match[2].strip())) is None:
            raise ConfigurationError(f"{option}: the environment variable {match[2].strip()} is not set")
        return value

    return VARIABLE.sub(variable, text)


def run_daemon(arguments: argparse.Namespace) -> int:
    """`kikimimi run`."""
    from assistant import app, startup, supervision  # noqa: PLC0415
    from assistant.config import check_profile  # noqa: PLC0415

    config = load_configuration(arguments)
    check_profile(config)
    rooms = startup.rooms_of(config, [argument("--source", text) for text in arguments.source])
    mqtt = broker_of(argument("--mqtt", arguments.mqtt), config.mqtt) if arguments.mqtt is not None else None
    with progress_bars() as progress:
        files = startup.fetch_models(config, progress)

    anew = False

    async def run() -> int:
        async with (
            app.daemon(config, rooms, files, mqtt=mqtt, speed=arguments.speed) as daemon,
            supervision.supervised(daemon.ready, daemon.status, daemon.hanging),
        ):
            asked, one = asyncio.Event(), asyncio.Lock()

            def stop() -> None:
                nonlocal anew
                anew = False
                supervision.notify("STOPPING=1")
                daemon.stop()

            def restart() -> None:
                nonlocal anew
                anew = True
                supervision.reloading()  # for a supervisor this process does not end
                daemon.stop()

            async def reread() -> Sequence[str]:
                async with one:
                    return await reload(daemon, arguments)

            async def followed() -> Sequence[str]:
                try:
                    return await reread()
                finally:
                    supervision.notify("READY=1")

            daemon.reread, daemon.restart = followed, restart
            stop_on_signals(stop)
            on_hangup(asked.set, stop)
            reloading = asyncio.create_task(reload_when(asked, reread), name="reload")
            try:
                return await daemon.run()
            finally:
                reloading.cancel()

    code = asyncio.run(run())
    if anew and code == 0:
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (this very command)
    return code


async def reload_when(asked: asyncio.Event, reread: Callable[[], Awaitable[Sequence[str]]]) -> None:
    """Whenever `asked`, read the configuration again; one that is wrong is told, and the old one stays."""
    from assistant import supervision  # noqa: PLC0415

    while True:
        await asked.wait()
        asked.clear()
        try:
            await reread()
        except AssistantError as error:
            for line in str(error).splitlines():
                log.error("the configuration stays as it was: %s", line)  # noqa: TRY400 (a person reads this)
        except Exception:
            log.exception("the configuration could not be read again")
        supervision.notify("READY=1")


async def reload(daemon: Daemon, arguments: argparse.Namespace) -> Sequence[str]:
    """Have the daemon follow the configuration as it is now. What waits for a restart. Raises `AssistantError`."""
    from assistant import startup, supervision  # noqa: PLC0415
    from assistant.config import check_profile  # noqa: PLC0415

    supervision.reloading()
    config = await asyncio.to_thread(load_configuration, arguments)
    check_profile(config)
    return await daemon.reload(config, startup.rooms_of(config, arguments.source))


def listen_to_files(arguments: argparse.Namespace) -> int:
    """`kikimimi listen`."""
    from assistant import startup  # noqa: PLC0415
    from assistant.listening import addresses_of, listen  # noqa: PLC0415
    from assistant.outputs.jsonl import JsonLines, ReadableLines  # noqa: PLC0415

    config = load_configuration(arguments)
    if arguments.words:
        config = config.model_copy(update={"speech": config.speech.model_copy(update={"word_times": True})})
    addresses = addresses_of(arguments.paths)
    hearing = startup.hearing_settings(config)
    with progress_bars() as progress:
        files = startup.fetch_models(config, progress)
    printer = JsonLines() if arguments.json else ReadableLines()

    async def run() -> int:
        models = await startup.load_models(config, files)
        try:
            with file_bar(len(addresses)) as done:
                return await listen(addresses, models, hearing, printer, done)
        finally:
            models.shutdown()

    return asyncio.run(run())


def measure_machine(arguments: argparse.Namespace) -> int:
    """`kikimimi bench`."""
    from assistant import benching, startup  # noqa: PLC0415
    from assistant.config import check_profile  # noqa: PLC0415

    config = load_configuration(arguments)
    check_profile(config)
    hearing = startup.hearing_settings(config)
    with progress_bars() as progress:
        files = startup.fetch_models(config, progress)

    async def run() -> benching.Report:
        models = await startup.load_models(config, files)
        try:
            return await benching.bench(models, hearing, profile=config.profile, tell=log.info)
        finally:
            models.shutdown()

    report = asyncio.run(run())
    print(report.json() if arguments.json else benching.readable(report))  # noqa: T201 (what the command says)
    return 0


def ask_about_clips(arguments: argparse.Namespace) -> int:
    """`kikimimi ask`."""
    from assistant import asking, startup  # noqa: PLC0415
    from assistant.models.tasks import TaskOptions  # noqa: PLC0415

    config = load_configuration(arguments)
    options = TaskOptions(arguments.language, arguments.to, arguments.text, arguments.style)
    question = asking.question_of(arguments.task, options, arguments.paths, config.profile)

    def fetch() -> startup.ModelFiles:
        with progress_bars() as progress:
            return startup.fetch_models(config, progress)

    asking.answer(config, question, as_json=arguments.json, fetch=fetch, out=sys.stdout)
    return 0


def serve_models(arguments: argparse.Namespace) -> int:
    """`kikimimi serve`."""
    from assistant import serving  # noqa: PLC0415

    config = serving_configuration(arguments)
    cluster = config.serve.replicas > 1 or (config.serve.most_replicas or 1) > 1

    async def run() -> None:
        stopping, reloading = asyncio.Event(), asyncio.Event()
        stop_on_signals(stopping.set)
        if not cluster:
            await serving.serve(config, stopping)
            return
        from assistant import clustering  # noqa: PLC0415

        def take_signals() -> None:
            stop_on_signals(stopping.set)
            on_hangup(reloading.set, stopping.set)

        take_signals()
        again = partial(serving_configuration, arguments)
        await clustering.serve_replicas(config, stopping, reloading, again, take_signals)

    asyncio.run(run())
    return 0


def serving_configuration(arguments: argparse.Namespace) -> Config:
    """The configuration with what the command line of `serve` overrides. Raises `ConfigurationError`."""
    from pydantic import ValidationError  # noqa: PLC0415

    config = load_configuration(arguments)
    given = {
        key: getattr(arguments, key) for key in ("host", "port", "replicas") if getattr(arguments, key) is not None
    }
    if "replicas" in given:
        given["most_replicas"] = None
    try:
        settings = type(config.serve).model_validate({**dict(config.serve), **given})
    except ValidationError as error:
        reason = error.errors()[0]
        option = f"--{reason['loc'][0]}: " if reason["loc"] else ""
        raise ConfigurationError(f"{option}{reason['msg'].removeprefix('Value error, ')}") from None
    return config.model_copy(update={"serve": settings})


def list_devices(_arguments: argparse.Namespace) -> int:
    """`kikimimi devices`."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from assistant.audio.microphone import devices  # noqa: PLC0415
    from assistant.outputs.loudspeaker import outputs  # noqa: PLC0415

    console = Console(markup=False, soft_wrap=True)
    table = Table("", "source", "name", "channels", "rate", "identity that survives renumbering", box=None)
    for device in devices():
        mark = "default" if device.default else ""
        table.add_row(
            mark, str(device.index), device.name, str(device.channels), f"{device.rate:.0f} Hz", device.identity or "-"
        )
    console.print(table)
    try:
        speakers = outputs()
    except AssistantError as error:
        console.print(f"\n{error}")
        return 0
    table = Table("", "speaker", "name", "channels", "rate", box=None)
    for output in speakers:
        mark = "default" if output.default else ""
        table.add_row(mark, str(output.index), output.name, str(output.channels), f"{output.rate:.0f} Hz")
    console.print()
    console.print(table)
    return 0


def manage_models(arguments: argparse.Namespace) -> int:
    """`kikimimi models list|pull|verify`."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from assistant import startup  # noqa: PLC0415
    from assistant.models import hub, store  # noqa: PLC0415
    from assistant.models.catalogue import HUB  # noqa: PLC0415

    config = load_configuration(arguments)
    directory = config.models.dir
    console = Console(markup=False, highlight=False)
    listed = {model.name: model for model in (*store.listing(directory), *hub.listing(directory))}
    if arguments.what == "list":
        table = Table(box=None)
        table.add_column("name", no_wrap=True)
        for heading in ("there", "size", "licence", "what it is"):
            table.add_column(heading)
        for model in listed.values():
            there = "yes" if model.installed else "no"
            size = f"{model.size / 1e9:.1f} GB" if model.size > 1e9 else f"{model.size / 1e6:.1f} MB"
            table.add_row(model.name, there, size, model.licence, model.about)
        console.print(table)
        console.print(f"folder: {store.root(directory)}", soft_wrap=True)
    names = arguments.names or startup.model_names(config)
    for name in names if arguments.what != "list" else ():
        if arguments.what == "verify":
            folder = (hub if name in HUB else store).verify(name, directory)
            console.print(f"{name}: {folder} is as published", soft_wrap=True)
        elif name in HUB:
            pull_checkpoint(name, directory, console)
        else:
            with progress_bars() as progress:
                folder = store.pull(name, directory, progress)
            console.print(f"{name}: {folder} (licence: {listed[name].licence})", soft_wrap=True)
    return 0


def pull_checkpoint(name: str, directory: Path | None, console: Console) -> None:
    """Fetch an audio language model; its size and licence are told before the first byte."""
    from assistant.models import hub  # noqa: PLC0415

    plan = hub.plan(name, directory)
    console.print(
        f"{name}: {plan.model.repository} at {plan.revision}: {plan.size / 1e9:.1f} GB in {len(plan.files)} files\n"
        f"licence: {plan.model.licence}, {plan.model.licence_url}",
        soft_wrap=True,
    )
    with progress_bars() as progress:
        folder = hub.fetch(plan, progress)
    console.print(f"{name}: {folder}", soft_wrap=True)


def examine_machine(arguments: argparse.Namespace) -> int:
    """`kikimimi doctor`."""
    from assistant import doctor  # noqa: PLC0415

    report = doctor.examine(load_configuration(arguments))
    for line in (report.json(),) if arguments.json else doctor.lines(report):
        print(line)  # noqa: T201
    return report.exit_code


def show_intent(arguments: argparse.Namespace) -> int:
    """`kikimimi intent`."""
    from assistant import intending  # noqa: PLC0415

    config = load_configuration(arguments)
    outcome = intending.understand(config, " ".join(arguments.text), arguments.language, arguments.room)
    return intending.show(outcome, sys.stdout, as_json=arguments.json)


def show_events(arguments: argparse.Namespace) -> int:
    """`kikimimi events`."""
    from assistant import remembering  # noqa: PLC0415

    config = load_configuration(arguments)
    wanted = remembering.wanted(
        since=arguments.since,
        until=arguments.until,
        room=arguments.room,
        event_type=arguments.type,
        text=arguments.text,
        limit=arguments.limit,
    )
    remembering.show(config.history, wanted, sys.stdout, as_json=arguments.json)
    return 0


def teach_sound(arguments: argparse.Namespace) -> int:
    """`kikimimi teach`."""
    from assistant import instructing, startup  # noqa: PLC0415

    config = load_configuration(arguments)
    title, files = (arguments.paths or [""])[0], arguments.paths[1:]
    if arguments.list:
        if arguments.paths or arguments.delete:
            raise ConfigurationError("--list stands alone; remedy: leave the rest out")
        instructing.show_all(sys.stdout, as_json=arguments.json)
        return 0
    if not title.strip():
        raise ConfigurationError("what is the sound called? remedy: kikimimi teach NAME FILES…, or --list")
    if arguments.delete:
        if files:
            raise ConfigurationError("--delete takes a name alone; remedy: leave the files out")
        print(f"{instructing.forget(title)}: forgotten")  # noqa: T201
        return 0
    with progress_bars() as progress:
        tagger = startup.fetch_tagger(config, progress)
    sound = instructing.teach(config, tagger, title, files, arguments.name)
    instructing.show(sound, sys.stdout, as_json=arguments.json)
    return 0


def purge_broker(arguments: argparse.Namespace) -> int:
    """`kikimimi mqtt purge`."""
    from assistant import purging, startup  # noqa: PLC0415

    config = load_configuration(arguments)
    broker = config.mqtt if arguments.mqtt is None else broker_of(argument("--mqtt", arguments.mqtt), config.mqtt)
    if arguments.json and not arguments.yes:
        raise ConfigurationError("--json cannot ask; remedy: add --yes")
    plan = asyncio.run(purging.find(broker, config.homeassistant.prefix, startup.install_id(), config.rooms))
    if not arguments.json:
        for line in purging.lines(plan, broker.address):
            print(line)  # noqa: T201
    if plan.remove and not arguments.yes and not confirmed(f"Remove these {len(plan.remove)} messages? [y/N] "):
        raise AssistantError("nothing was removed; remedy: answer y, or add --yes")
    stayed = asyncio.run(purging.remove(broker, plan)) if plan.remove else ()
    if arguments.json:
        print(purging.as_json(plan, broker.address, stayed))  # noqa: T201
    if stayed:
        raise AssistantError(
            f"{len(stayed)} of them are there again or still, as {stayed[0]}; remedy: stop the daemon first, or let "
            "this login write there"
        )
    if not arguments.json and plan.remove:
        print(f"removed {len(plan.remove)} retained messages")  # noqa: T201
    return 0


def confirmed(question: str) -> bool:
    """Whether a person at the terminal says yes; without one nobody does."""
    return sys.stdin.isatty() and input(question).strip().lower() in {"y", "yes"}


def check_configuration(arguments: argparse.Namespace) -> int:
    """`kikimimi check`."""
    from assistant.explain import explain  # noqa: PLC0415

    report = explain(load_configuration(arguments))
    for text in report.lines:
        print(text)  # noqa: T201
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    return 0


def install_service(arguments: argparse.Namespace) -> int:
    """`kikimimi install-service`."""
    from assistant import installing  # noqa: PLC0415

    layout = installing.layout_of(user=arguments.user, prefix=arguments.prefix)
    if not arguments.dry_run:
        installing.check_caller(layout, "install-service")
    installing.perform(installing.install_steps(layout, arguments.config), print, dry_run=arguments.dry_run)
    for line in () if arguments.dry_run else installing.told(layout):
        print(line)  # noqa: T201
    return 0


def uninstall_service(arguments: argparse.Namespace) -> int:
    """`kikimimi uninstall-service`."""
    from assistant import installing  # noqa: PLC0415

    layout = installing.layout_of(user=arguments.user, prefix=arguments.prefix)
    if not arguments.dry_run:
        installing.check_caller(layout, "uninstall-service")
    steps = installing.uninstall_steps(layout, purge=arguments.purge)
    installing.perform(steps, print, dry_run=arguments.dry_run)
    for line in installing.stays(layout, purge=arguments.purge) if steps else ("there is nothing to remove",):
        print(line)  # noqa: T201
    return 0


def check_alive(_arguments: argparse.Namespace) -> int:
    """`kikimimi alive`."""
    from assistant import supervision  # noqa: PLC0415

    supervision.check_alive()
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """`kikimimi demo`."""
    from assistant import startup  # noqa: PLC0415
    from assistant.demo import demo  # noqa: PLC0415

    config = load_configuration(arguments)
    with progress_bars() as progress:
        files = startup.fetch_models(config, progress)
    return asyncio.run(demo(config, files, speed=arguments.speed))


@contextlib.contextmanager
def file_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A callback that moves a progress bar over the files, shown on a terminal only."""
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal or total < 2) as bar:
        task = bar.add_task("listening", total=total)

        def done(address: str) -> None:
            name = "".join(letter if letter.isprintable() else " " for letter in Path(address).name)
            bar.update(task, advance=1, description=escape(name))

        yield done


if __name__ == "__main__":
    raise SystemExit(program())
