"""The Optuna study: the one record of a sweep's trials, their reports, decisions and ends."""
