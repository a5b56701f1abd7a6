"""Errors of reading, each a message in one line that names the record and says why, without passwords."""

from __future__ import annotations


class Unreadable(Exception):
    """A record is missing, or where it is cannot be reached or used."""


class Damaged(Unreadable):
    """A file is there, and it is not what was written."""
