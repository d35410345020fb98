"""Settings that are read from environment variables alone."""

from __future__ import annotations

from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from vireo.server.errors import VireoError


class EnvironmentSettings(BaseSettings):
    """Read from `VIREO_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix="VIREO_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    @classmethod
    def load(cls) -> Self:
        """Return the settings from the environment.

        Raises:
            VireoError: some are missing or invalid; the message names their variables, without
                values: those may be secret.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = (
                f"{cls.model_config.get('env_prefix')}{each['loc'][0]}".upper() + f": {each['msg']}"
                for each in error.errors()
                if each["type"] != "default_factory_not_called"  # it depends on another
            )
            raise VireoError("; ".join(problems)) from None
