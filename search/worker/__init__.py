"""Code of the worker processes, in which trials train."""
