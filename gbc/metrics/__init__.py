"""Scores of generated images, measured against real ones."""
