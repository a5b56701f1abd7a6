"""Where a sweep runs and where its records are, as addresses; and what of an address is secret.

A password never leaves the process that was given it: whatever is written down or shown is the address without it. A driver
that finds an address on record takes the password from where PostgreSQL, MLflow and the stores of files look for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import Field, field_serializer, field_validator, model_validator

from gbc.errors import BadInput
from gbc.settings import Config

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SECRET_KEY: Final = re.compile(r"(?i)password|secret|token|sig")
_POSTGRES: Final = ("postgres", "postgresql", "postgresql+psycopg")
_ADDRESS: Final = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]*[^\s'\"<>()\]},:;.!?]")
_LOGIN: Final = re.compile(r"[^\s:/@'\"=(\[{,]*:([^\s/@][^\s@]*)@(?=[\w\[])")
_ASSIGNED: Final = re.compile(
    r"(?i)(\w*(?:password|passwd|secret|token|access_?key|account_?key|signature)(?:\s?=\s?|['\"]\s?:\s?)['\"]?)([^\s&,;'\"})]{4,})"
)
_SECRET_VARIABLE: Final = re.compile(r"(?i)(password|passwd|secret|token|key|key_id|sas|connection_string)$")
_SHORTEST_SECRET: Final = 4
"""Letters of a secret that is looked for in texts: a shorter one is part of many words."""
_secrets_of_addresses: Final = set[str]()
"""Secrets of the addresses that this process was given."""


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
        parsed = _parsed(url) if url else None
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
        """What of these can be refused before anything is opened.

        Not a validator: what pydantic says of a value that is refused holds the value, and the value may hold a password.

        Raises:
            BadInput: an address of a kind that is not supported.
        """
        for flag, url in (("study-url", self.study_url), ("tracking-uri", self.tracking_uri), ("storage", self.storage)):
            if url is not None and "://" in url and _parsed(url) is None:
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

    Of a database or server the user's name stays, of a store of files neither half of the key does. The password is left out
    and not replaced by asterisks, because an address on record is used again. An address that cannot be read is shown by its
    scheme alone if a password may be in it.
    """
    if not secrets(url):
        return url
    scheme = url.partition("://")[0]
    parsed = _parsed(url)
    if parsed is None:
        return f"{scheme}://***"
    from sqlalchemy.engine import URL

    return URL.create(
        parsed.drivername,
        username=(parsed.username or None) if _names_its_user(scheme) else None,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query={key: value for key, value in parsed.query.items() if not _SECRET_KEY.search(key)},
    ).render_as_string(hide_password=False)


def sqlite_url(path: Path) -> str:
    """The address of a database in a file; what means something else in an address (`%`, `?`, `#`) is quoted.

    Nothing else is: MLflow makes a folder of the name as it stands in the address, which must not grow too long.
    """
    return f"sqlite:///{re.sub('[%?#]', lambda match: quote(match.group()), str(path))}"


def _parsed(url: str) -> URL | None:
    """The parts of an address; None if it has none, or where the password ends cannot be told."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    ambiguous = parsed.username is not None and "@" in f"{parsed.host}{parsed.database}"
    return None if ambiguous else parsed


def _names_its_user(scheme: str) -> bool:
    return scheme.startswith(("postgres", "mysql", "http"))


def redacted(text: object) -> str:
    """The text without passwords, keys and tokens: every message, log and record that may hold one goes through here.

    Left out are what `public` leaves out of each address, the login before an address without a scheme, what is assigned
    to a name such as `password`, and, wherever they stand, the secrets of addresses that this process was given and those in
    its environment.
    """
    found = _ADDRESS.sub(lambda match: public(match.group()), str(text))
    found = _ASSIGNED.sub(r"\1***", _LOGIN.sub("***@", found))
    for secret in sorted(_secrets_of_addresses | _secrets_of(os.environ), key=len, reverse=True):
        found = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", found)
    return found


def remember_secrets(url: str | None) -> None:
    """Let `redacted` know the secrets of an address, for texts that hold them without it."""
    login = _LOGIN.match(url) if url and "://" not in url else None
    every = (*secrets(url), *(login.groups() if login else ()))
    _secrets_of_addresses.update(secret for secret in every if len(secret) >= _SHORTEST_SECRET)


def _secrets_of(environment: Mapping[str, str]) -> set[str]:
    found = set[str]()
    for name, value in environment.items():
        found |= {value} if _SECRET_VARIABLE.search(name) else set(secrets(value) if _ADDRESS.match(value) else ())
    return {one for one in found if len(one) >= _SHORTEST_SECRET}


def secrets(url: str | None) -> tuple[str, ...]:
    """What `public` leaves out, as it may appear in other libraries' messages: longest first."""
    if not url or "://" not in url:
        return ()
    scheme, _, rest = url.partition("://")
    if "@" not in rest and "?" not in rest:
        return ()
    parsed = _parsed(url)
    if parsed is None:
        return (rest,)
    found = [parsed.password, *(value for key, value in parsed.query.items() if _SECRET_KEY.search(key))]
    if not _names_its_user(scheme):
        found.append(parsed.username)
    texts = {text for value in found for text in ((value,) if isinstance(value, str) else value or ()) if text}
    texts |= {form for text in texts for form in (quote(text, safe=""), quote_plus(text))}
    return tuple(sorted(texts, key=len, reverse=True))


def fault_line(fault: object, url: str | None) -> str:
    """What went wrong at `url`, in one line without its secrets."""
    text = " ".join(str(fault).split())
    if url:
        text = text.replace(url, public(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return redacted(text)[:300]


def first_line(fault: BaseException, url: str | None) -> str:
    """The first line of what an exception says that came from `url`, without its secrets; its kind, when it says nothing."""
    return fault_line(next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__), url)
