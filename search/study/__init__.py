"""The Optuna study: the one record of what was asked, reported, decided and told."""
