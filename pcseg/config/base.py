"""What every class of a config is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Refuses what it does not know and numbers that are not finite, and does not change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
