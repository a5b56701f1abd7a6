"""The commands of `python -m gbc`, one module each: `add` declares its flags, `run` does the work."""
