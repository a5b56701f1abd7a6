"""The error that the command prints."""

from __future__ import annotations


class BadInput(Exception):
    """Something cannot be shown. The command prints the message alone and exits with code 2."""
