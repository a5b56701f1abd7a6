"""How good a set of generated images is, measured against real ones."""
