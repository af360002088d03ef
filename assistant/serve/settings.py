"""Where `kikimimi serve` listens, who may use it, and how much at once."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from assistant import secret_files
from assistant.errors import AssistantError
from assistant.outputs.broker import is_loopback
from assistant.settings import Settings

SHORTEST = 16  # characters of a token


class ServeSettings(Settings):
    """The server of models."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: the whole network, by token"
    )
    port: int = Field(default=8766, ge=0, le=65535, description="TCP port; 0: any that is free")
    token: SecretStr | None = Field(default=None, description="asked for as Bearer; write ${NAME}")
    token_file: Path | None = Field(default=None, description="file that holds the token alone")
    longest: float = Field(default=600.0, ge=1.0, le=7200.0, description="seconds of audio in one request")
    timeout: float = Field(default=120.0, ge=1.0, le=3600.0, description="seconds for an answer, the wait included")
    requests: int = Field(default=32, ge=1, le=1000, description="at once, of each replica; more are answered 503")
    tokens: int = Field(default=1024, ge=1, le=8192, description="of an answer at most")
    replicas: int = Field(default=1, ge=1, le=1000, description="copies of the models, by Ray Serve if more than one")
    most_replicas: int | None = Field(
        default=None, ge=1, le=1000, description="as many while many ask (Ray Serve's autoscaling); default: replicas"
    )

    @field_validator("token")
    @classmethod
    def _is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < SHORTEST:
            raise ValueError(f"shorter than {SHORTEST} characters; remedy: openssl rand -hex 16")
        return token

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both given: remove one")
        if self.token is None and self.token_file is None and not is_loopback(self.host):
            raise ValueError(
                f"on {self.host} others can reach the models, so a token is asked for; remedy: serve.token_file, or "
                "host: 127.0.0.1"
            )
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError("most_replicas is less than replicas")
        return self

    def secret(self) -> str | None:
        """The token that is asked for; None: none. Raises `AssistantError` for a file that holds none."""
        if self.token is not None:
            return self.token.get_secret_value()
        if self.token_file is None:
            return None
        try:
            secret = secret_files.read(self.token_file)
        except (OSError, ValueError) as error:
            raise AssistantError(f"serve.token_file: {error}; remedy: a file that holds the token alone") from error
        if len(secret) < SHORTEST:
            raise AssistantError(
                f"serve.token_file: {self.token_file}: shorter than {SHORTEST} characters; remedy: openssl rand -hex 16"
            )
        return secret
