"""Addresses of stores, and what of an address is secret."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_SECRET_KEYS: Final = re.compile(r"(?i)(^|&)(\w*(?:password|secret|token|sig|signature)\w*)=[^&]*")


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


def secrets(url: str | None) -> tuple[str, ...]:
    """The parts that `public` leaves out, as they may appear in other libraries' messages: longest first."""
    if not url or "://" not in url or public(url) == url:
        return ()
    rest = url.partition("://")[2]
    user = rest.rpartition("@")[0]
    parts = {part for part in user.split(":")[1:] if part}
    if not url.startswith(("postgres", "mysql", "http")):
        parts |= {part for part in user.split(":") if part}
    parts |= {match.group().partition("=")[2] for match in _SECRET_KEYS.finditer(rest.partition("?")[2])}
    parts |= {unquote(one) for one in parts}
    return tuple(sorted(filter(None, parts), key=len, reverse=True))


def redacted(fault: object, url: str | None) -> str:
    """A fault at `url`, in one line without its secrets."""
    text = " ".join(str(fault).split())
    if url:
        text = text.replace(url, public(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return text[:300]


def first_line(fault: BaseException, url: str | None) -> str:
    """The first line of what an exception says that came from `url`, without its secrets; its kind, when it says nothing."""
    return redacted(next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__), url)
