"""Decisions about trials from settings and reports alone: what to try next, which is better, when it is over."""
