"""What a source's address means: `-`, a URL, a satellite, a file or a microphone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["microphone", "file", "pcm", "stream", "satellite"]

STREAMS = frozenset({"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp", "mms", "mmsh"})

# What libsndfile and FFmpeg read, by the suffixes such files usually have.
LIBSNDFILE = "aif aifc aiff au avr caf flac htk iff mp3 oga ogg opus paf pvf rf64 sds sf snd svx voc w64 wav wve xi"
FFMPEG = "3gp aac ac3 amr ape avi dts eac3 flv gsm m4a m4b m4v mka mkv mov mp2 mp4 mpeg mpg mts ts tta webm wma wmv wv"
SUFFIXES = frozenset(f".{suffix}" for suffix in f"{LIBSNDFILE} {FFMPEG}".split())


def kind_of(address: str) -> Kind:
    """The kind of source that `address` names.

    `-` is raw PCM on stdin; `rtsp://…`, `http://…` a stream; `wyoming://…` a satellite; `default`, a number, `usb:…` or
    the part of a name a microphone; anything with a slash, a known suffix or that exists is a file.
    """
    if address == "-":
        return "pcm"
    scheme, separator, _ = address.partition("://")
    if separator and scheme.lower() in STREAMS:
        return "stream"
    if separator and scheme.lower() == "wyoming":
        return "satellite"
    if address == "default" or address.isdecimal() or re.match(r"usb:|hw:", address):
        return "microphone"
    path = Path(address)
    if "/" in address or path.suffix.lower() in SUFFIXES or path.exists():
        return "file"
    return "microphone"


def without_secrets(url: str) -> str:
    """The URL without login and query, where cameras carry their passwords; for names, logs and errors."""
    scheme, _, rest = url.partition("://")
    # A password may hold a / or ? by mistake; it ends at the last @.
    return urlsplit(f"{scheme}://{rest.rpartition('@')[2]}")._replace(query="", fragment="").geturl()
