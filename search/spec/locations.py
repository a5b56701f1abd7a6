"""Where a sweep runs and where its records are, as addresses; and what of an address is secret.

A password never leaves the process that was given it: whatever is written down or shown is the address without it. A driver
that finds an address on record takes the password from where PostgreSQL, MLflow and the stores of files look for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_serializer, field_validator, model_validator

from gbc.errors import BadInput
from gbc.settings import Config

_SECRET_KEYS: Final = re.compile(r"(?i)(^|&)(\w*(?:password|secret|token|sig|signature)\w*)=[^&]*")
_POSTGRES: Final = re.compile(r"(postgres|postgresql|postgresql\+psycopg)://")
_ADDRESS: Final = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_LOGIN: Final = re.compile(r"[^\s:/@'\"=(\[{,]*:([^\s/@][^\s@]*)@(?=[\w\[])")
_ASSIGNED: Final = re.compile(
    r"(?i)(\w*(?:password|passwd|secret|token|access_?key|account_?key|signature)(?:\s?=\s?|['\"]\s?:\s?)['\"]?)([^\s&,;'\"})]{4,})"
)
_SECRET_VARIABLE: Final = re.compile(r"(?i)(password|passwd|secret|token|key|key_id|sas|connection_string)$")
_SHORTEST: Final = 4
"""Letters of a secret that is looked for in texts: a shorter one is part of many words."""
_known: Final = set[str]()


class Places(Config):
    """Where trials run, and where what they leave is kept. None: on this machine, in this folder.

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
        return url and _POSTGRES.sub("postgresql+psycopg://", url)

    @model_validator(mode="after")
    def _remember(self) -> Places:
        for url in (self.address, self.storage, self.study_url, self.tracking_uri):
            remember(url)
        return self

    @field_serializer("address", "storage", "study_url", "tracking_uri")
    def _without_password(self, url: str | None) -> str | None:
        return url and public(url)

    def check(self) -> None:
        """What of these can be refused before anything is opened.

        Not a validator: what pydantic says of a value that is refused holds the value, and the value may hold a password.

        Raises:
            BadInput: an address of a kind that is not supported.
        """
        if self.study_url is not None and not _POSTGRES.match(self.study_url):
            raise BadInput(f"--study-url {public(self.study_url)}: must be postgresql://USER@HOST:PORT/DATABASE")
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
        """What can be refused once it is known what an earlier run of the sweep has on record.

        Raises:
            BadInput: a cluster without storage that its nodes share.
        """
        if self.address is not None and self.storage is None:
            raise BadInput(
                f"--address {self.address}: name a folder or URL that every node sees with --storage; "
                "trials must go on elsewhere when a node dies"
            )

    def over(self, record: Places) -> Places:
        """These, and what they leave open as `record` has it; the cluster may be another one at each start."""
        kept = {name: getattr(self, name) or getattr(record, name) for name in ("storage", "study_url", "tracking_uri")}
        return self.model_copy(update=kept)


def public(url: str) -> str:
    """The address without what is secret in it.

    Of a database or server the user's name stays, of a store of files neither half of the key does.
    """
    if "://" not in url:
        return url
    scheme, _, rest = url.partition("://")
    authority, slash, tail = re.match(r"([^/?#]*)(/?)(.*)", rest, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    if "@" not in authority and "@" in tail and ":" in authority:
        # A slash in the password: it belongs to the authority, whatever the rules say.
        before, _, after = rest.rpartition("@")
        host, slash, tail = re.match(r"([^/?#]*)(/?)(.*)", after, flags=re.DOTALL).groups()  # type: ignore[union-attr]
        authority = f"{before}@{host}"
    user, at, host = authority.rpartition("@")
    if at:
        name = user.partition(":")[0]
        authority = f"{name}@{host}" if name and scheme.startswith(("postgres", "mysql", "http")) else host
    path, mark, query = tail.partition("?")
    query = _SECRET_KEYS.sub("", query).lstrip("&")
    return f"{scheme}://{authority}{slash}{path}" + (f"?{query}" if mark and query else "")


def redacted(text: object) -> str:
    """The text without passwords, keys and tokens: every message, log and record that may hold one goes through here.

    Left out are what `public` leaves out of each address, the login before an address without a scheme, what is assigned
    to a name such as `password`, and, wherever they stand, the secrets of addresses that this process was given and those in
    its environment.
    """
    found = _ADDRESS.sub(lambda match: public(match.group()), str(text))
    found = _ASSIGNED.sub(r"\1***", _LOGIN.sub("***@", found))
    for secret in sorted(_known | _secrets_of(os.environ), key=len, reverse=True):
        found = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", found)
    return found


def remember(url: str | None) -> None:
    """Let `redacted` know the secrets of an address, for texts that hold them without it."""
    login = _LOGIN.match(url) if url and "://" not in url else None
    _known.update(one for one in (*secrets(url), *(login.groups() if login else ())) if len(one) >= _SHORTEST)


def _secrets_of(environment: Mapping[str, str]) -> set[str]:
    found = set[str]()
    for name, value in environment.items():
        found |= {value} if _SECRET_VARIABLE.search(name) else set(secrets(value) if _ADDRESS.match(value) else ())
    return {one for one in found if len(one) >= _SHORTEST}


def secrets(url: str | None) -> tuple[str, ...]:
    """What `public` leaves out, as it may appear in other libraries' messages: longest first."""
    if not url or "://" not in url or public(url) == url:
        return ()
    rest = url.partition("://")[2]
    user = rest.rpartition("@")[0]
    found = {part for part in user.split(":")[1:] if part}
    if not url.startswith(("postgres", "mysql", "http")):
        found |= {part for part in user.split(":") if part}
    found |= {match.group().partition("=")[2] for match in _SECRET_KEYS.finditer(rest.partition("?")[2])}
    found |= {unquote(one) for one in found}
    return tuple(sorted(filter(None, found), key=len, reverse=True))


def told(fault: object, url: str | None) -> str:
    """What went wrong at `url`, in one line without its secrets."""
    text = " ".join(str(fault).split())
    if url:
        text = text.replace(url, public(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return redacted(text)[:300]


def first_line(fault: BaseException, url: str | None) -> str:
    """The first line of what an exception says that came from `url`, without its secrets; its kind, when it says nothing."""
    return told(next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__), url)
