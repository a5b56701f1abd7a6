"""The sweep: proposes settings, runs trials, remembers what happened."""
