"""Where the page is served, and who may see it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from assistant import secret_files
from assistant.errors import AssistantError
from assistant.outputs.broker import is_loopback
from assistant.settings import Settings

SHORTEST = 8  # characters of a password


class WebSettings(Settings):
    """The page and its API."""

    enabled: bool = Field(default=True, description="false: the port stays closed")
    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: the whole network, by password"
    )
    port: int = Field(default=8765, ge=0, le=65535, description="TCP port; 0: any that is free")
    public_url: str | None = Field(
        default=None, description="where people reach the page, for links in events: https://kikimimi.example/"
    )
    password: SecretStr | None = Field(default=None, description="asked for by the page; programs send it as Bearer")
    password_file: Path | None = Field(default=None, description="file that holds the password alone")

    @field_validator("public_url")
    @classmethod
    def _is_a_page(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.hostname and not parts.username and parts.port != 0
        except ValueError:
            good = False
        if not good or re.search(r"[\s?#]", url):
            raise ValueError("must read http://host/ or https://host/path/, without a name, password, ? or #")
        return url if url.endswith("/") else f"{url}/"

    @field_validator("password")
    @classmethod
    def _is_long(cls, password: SecretStr | None) -> SecretStr | None:
        if password is not None and len(password.get_secret_value()) < SHORTEST:
            raise ValueError(f"shorter than {SHORTEST} characters; remedy: a longer one")
        return password

    @model_validator(mode="after")
    def _asks_for_a_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both given: remove one")
        if self.password is None and self.password_file is None and not is_loopback(self.host):
            raise ValueError(
                f"on {self.host} others can see the page, so it asks for a password; remedy: password_file, or "
                "host: 127.0.0.1"
            )
        return self

    def secret(self) -> str | None:
        """The password that is asked for; None: none. Raises `AssistantError` for a file that holds none."""
        if self.password is not None:
            return self.password.get_secret_value()
        if self.password_file is None:
            return None
        try:
            secret = secret_files.read(self.password_file)
        except (OSError, ValueError) as error:
            raise AssistantError(f"web.password_file: {error}; remedy: a file that holds the password") from error
        if len(secret) < SHORTEST:
            raise AssistantError(
                f"web.password_file: {self.password_file}: shorter than {SHORTEST} characters; remedy: a longer one"
            )
        return secret
