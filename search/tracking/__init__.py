"""MLflow: its store, its runs, its pages and its registered models."""
