"""The base of every stage's settings: frozen, and an unknown key is an error rather than a silent default."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Options of one stage, validated by `config`; each stage owns its subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")
