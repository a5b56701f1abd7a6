"""Specification of a sweep: settings, search spaces, addresses, outside faults, records of trials."""
