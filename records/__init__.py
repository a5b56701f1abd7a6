"""The records of a sweep: the names in them, and the reading of study and MLflow, for `search` and `dashboards`."""
