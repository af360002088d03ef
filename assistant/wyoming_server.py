"""A Wyoming server: speech-to-text, conversation agent and text-to-speech for Home Assistant.

Protocol: https://github.com/OHF-Voice/wyoming
"""

from __future__ import annotations

from pydantic import Field

from assistant.settings import Settings


class WyomingSettings(Settings):
    """The server for Home Assistant's voice pipeline."""

    enabled: bool = Field(default=True, description="false: the port stays closed")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: the whole network")
    port: int = Field(default=10310, ge=0, le=65535, description="TCP port; 0: any that is free")
    zeroconf: bool = Field(default=False, description="announce the server on the network")
