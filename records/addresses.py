"""Addresses of stores, and what of addresses and other texts is secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SECRET_KEY: Final = re.compile(r"(?i)password|secret|token|sig")
# Each of these is tried once a word, not once a letter: a word may have thousands.
_ADDRESS: Final = re.compile(r"(?<![\w+.-])((?:(?![A-Za-z])[\w+.-])*+)([A-Za-z][\w+.-]*+://[^\s'\"<>]*[^\s'\"<>()\]},:;.!?])")
_LOGIN: Final = re.compile(r"(?<![^\s:/@'\"=(\[{,])[^\s:/@'\"=(\[{,]*:([^\s/@][^\s@]*)@(?=[\w\[])")
_ASSIGNED: Final = re.compile(
    r"(?i)((?:password|passwd|secret|token|access_?key|account_?key|signature)(?:\s?=\s?|['\"]\s?:\s?)['\"]?)([^\s&,;'\"})]{4,})"
)
_SECRET_VARIABLE: Final = re.compile(r"(?i)(password|passwd|secret|token|key|key_id|sas|connection_string)$")
_SHORTEST_SECRET: Final = 4
"""Letters of a secret that is looked for in texts: a shorter one is part of many words."""
_secrets_of_addresses: Final = set[str]()
"""Secrets of the addresses that this process was given."""


def public(url: str) -> str:
    """The address without what is secret in it.

    Of a database or server the user's name stays, of a store of files neither half of the key does. The password is left out
    and not replaced by asterisks, because an address on record is used again. An address that cannot be read is shown by its
    scheme alone if a password may be in it.
    """
    if not secrets(url):
        return url
    scheme = url.partition("://")[0]
    parsed = parsed_address(url)
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


def redacted(text: object) -> str:
    """The text without passwords, keys and tokens: every message, log and record that may hold one goes through here.

    Left out are what `public` leaves out of each address, the login before an address without a scheme, what is assigned
    to a name such as `password`, and, wherever they stand, the secrets of addresses that this process was given and those in
    its environment.
    """
    shown = _ADDRESS.sub(lambda match: match[1] + public(match[2]), str(text))
    shown = _ASSIGNED.sub(r"\1***", _LOGIN.sub("***@", shown))
    for secret in sorted(_secrets_of_addresses | _secrets_of(os.environ), key=len, reverse=True):
        shown = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", shown)
    return shown


def remember_secrets(url: str | None) -> None:
    """Let `redacted` know the secrets of an address, for texts that hold them without it."""
    login = _LOGIN.match(url) if url and "://" not in url else None
    every = (*secrets(url), *(login.groups() if login else ()))
    _secrets_of_addresses.update(secret for secret in every if len(secret) >= _SHORTEST_SECRET)


def secrets(url: str | None) -> tuple[str, ...]:
    """Secret parts of `url`, in each form that may appear in other libraries' messages: longest first."""
    if not url or "://" not in url:
        return ()
    scheme, _, rest = url.partition("://")
    if "@" not in rest and "?" not in rest:
        return ()
    parsed = parsed_address(url)
    if parsed is None:
        return (rest,)
    parts = [parsed.password, *(value for key, value in parsed.query.items() if _SECRET_KEY.search(key))]
    if not _names_its_user(scheme):
        parts.append(parsed.username)
    texts = {text for value in parts for text in ((value,) if isinstance(value, str) else value or ()) if text}
    texts |= {form for text in texts for form in (quote(text, safe=""), quote_plus(text))}
    return tuple(sorted(texts, key=len, reverse=True))


def fault_line(fault: object, url: str | None) -> str:
    """The fault at `url`, in one line without the secrets of `url`."""
    text = " ".join(str(fault).split())
    if url:
        text = text.replace(url, public(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return redacted(text)[:300]


def first_line(fault: BaseException, url: str | None) -> str:
    """The first line of what an exception says that came from `url`, without its secrets; its kind, when it says nothing."""
    return fault_line(next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__), url)


def sqlite_url(path: Path) -> str:
    """The address of a database in a file; what means something else in an address (`%`, `?`, `#`) is quoted.

    Nothing else is: MLflow makes a folder of the name as it stands in the address, which must not grow too long.
    """
    return f"sqlite:///{re.sub('[%?#]', lambda match: quote(match.group()), str(path))}"


def parsed_address(url: str) -> URL | None:
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


def _secrets_of(environment: Mapping[str, str]) -> set[str]:
    values = set[str]()
    for name, value in environment.items():
        values |= {value} if _SECRET_VARIABLE.search(name) else set(secrets(value) if _ADDRESS.match(value) else ())
    return {secret for secret in values if len(secret) >= _SHORTEST_SECRET}
