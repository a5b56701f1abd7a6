"""Addresses of the place where a sweep runs and of its records.

A password never leaves the process that was given it: whatever is written down or shown is the address without it. A driver
that finds an address on record takes the password from where PostgreSQL, MLflow and the stores of files look for it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_serializer, field_validator, model_validator

from gbc.errors import BadInput
from gbc.settings import Config
from records.addresses import parsed_address, public, redacted, remember_secrets

_PATIENCE: Final = 3.0  # seconds
_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "http": 80, "https": 443}
_POSTGRES: Final = ("postgres", "postgresql", "postgresql+psycopg")


class Places(Config):
    """The place where trials run, and the places of their files and records. None: on this machine, in this folder.

    Dumped without passwords; `repr` hides addresses altogether.
    """

    address: str | None = Field(None, repr=False, description="of a Ray cluster: auto, or HOST:PORT")
    storage: str | None = Field(None, repr=False, description="folder or URL for what trials leave, seen by every node")
    study_url: str | None = Field(None, repr=False, description="of a PostgreSQL database that holds the study")
    tracking_uri: str | None = Field(None, repr=False, description="of an MLflow server or its database")

    @field_validator("storage")
    @classmethod
    def _absolute(cls, storage: str | None) -> str | None:
        """A folder by its absolute path: nodes have another working folder than the driver."""
        if storage is None:
            return None
        if storage.startswith("file://"):
            return unquote(urlsplit(storage).path).rstrip("/") or "/"
        try:
            return storage if "://" in storage else str(Path(storage).expanduser().resolve())
        except RuntimeError:
            raise ValueError("its ~ leads to no home folder; write the path in full") from None

    @field_validator("study_url")
    @classmethod
    def _one_driver(cls, url: str | None) -> str | None:
        parsed = parsed_address(url) if url else None
        if parsed is None or parsed.drivername not in _POSTGRES:
            return url
        return parsed.set(drivername=_POSTGRES[-1]).render_as_string(hide_password=False)

    @model_validator(mode="after")
    def _remember_secrets(self) -> Places:
        for url in (self.address, self.storage, self.study_url, self.tracking_uri):
            remember_secrets(url)
        return self

    @field_serializer("address", "storage", "study_url", "tracking_uri")
    def _without_password(self, url: str | None) -> str | None:
        return url and public(url)

    def check(self) -> None:
        """Refuse addresses that can be seen to be wrong before anything is opened.

        Not a validator: what pydantic says of a value that is refused holds the value, and the value may hold a password.

        Raises:
            BadInput: an address of a kind that is not supported.
        """
        for flag, url in (("study-url", self.study_url), ("tracking-uri", self.tracking_uri), ("storage", self.storage)):
            if url is not None and "://" in url and parsed_address(url) is None:
                raise BadInput(f"--{flag} {public(url)}: cannot be read; in a password write @ as %40, / as %2F and : as %3A")
        if self.study_url is not None and not self.study_url.startswith("postgresql+psycopg://"):
            raise BadInput(f"--study-url {public(self.study_url)}: must be postgresql://USER@HOST:5432/DATABASE")
        if self.tracking_uri is not None and "://" not in self.tracking_uri:
            raise BadInput(f"--tracking-uri {redacted(self.tracking_uri)}: must be a URL such as http://HOST:5000")
        if self.address is None:
            return
        if self.address.startswith("ray://"):
            raise BadInput(
                f"--address {redacted(self.address)}: through a Ray client Tune would run far from the records; start the "
                "driver on a node of the cluster (`ray start --address HOST:PORT --num-cpus 0` makes this machine one)"
            )
        if self.address != "auto" and not re.fullmatch(r"[^\s:/@]+:\d+|\[[0-9a-fA-F:]+\]:\d+", self.address):
            raise BadInput(f"--address {redacted(self.address)}: must be auto or HOST:PORT")

    def check_together(self) -> None:
        """Refuse addresses that do not fit together, once it is known what an earlier run of the sweep has on record.

        Raises:
            BadInput: a cluster without storage that its nodes share.
        """
        if self.address is not None and self.storage is None:
            raise BadInput(
                f"--address {self.address}: name a folder or URL that every node sees with --storage; "
                "trials must go on elsewhere when a node dies"
            )

    def unreachable_servers(self) -> Iterator[str]:
        """Yield a line for each server that does not answer from this machine. Nothing is asked of those that do."""
        for name in ("address", "study_url", "tracking_uri"):
            url = getattr(self, name)
            parsed = parsed_address(url if "://" in url else f"ray://{url}") if url else None
            if parsed is None or not parsed.host:
                continue
            port = parsed.port or _PORTS.get(parsed.get_backend_name())
            try:
                if port:
                    socket.create_connection((parsed.host, port), timeout=_PATIENCE).close()
            except (OSError, OverflowError) as fault:
                reason = getattr(fault, "strerror", None) or fault
                yield f"--{name.replace('_', '-')} {public(url)}: nobody answers from here: {reason}"

    def over(self, record: Places) -> Places:
        """These, and what they leave open as `record` has it; the cluster may be another one at each start."""
        kept = {name: getattr(self, name) or getattr(record, name) for name in ("storage", "study_url", "tracking_uri")}
        return self.model_copy(update=kept)
