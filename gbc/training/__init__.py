"""Training a generator: Algorithms 1 and 2."""
