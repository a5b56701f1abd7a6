"""The error that the command prints."""

from __future__ import annotations


class ReportError(Exception):
    """A sweep cannot be shown, or its page not written. The command prints the message alone and exits with code 2."""
