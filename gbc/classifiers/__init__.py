"""Classifiers Φ(x; ζ): architectures, the user's own, and how they are trained."""
