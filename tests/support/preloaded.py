"""Loads what a driver takes seconds to load. For the server that drivers are forked from; nothing here starts a thread."""

from __future__ import annotations

import importlib
from typing import Final

import sqlalchemy.orm

MODULES: Final = (
    "ray.tune", "ray.tune.logger.aim", "ray.dag", "ray.air.integrations.mlflow", "aiohttp.web", "pyarrow.json",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.model_registry.sqlalchemy_store", "alembic.command",
    "optuna.storages._rdb.storage", "optuna.storages._rdb.models", "sqlalchemy.dialects.sqlite", "safetensors.torch",
    "torch.nested._internal.nested_tensor", "PIL.PngImagePlugin", "PIL.WebPImagePlugin", "rich._emoji_codes",
    "gbc.training.tasks", "search.run", "search.driver.sweep", "search.driver.tune_adapter", "search.driver.finalize",
    "search.status", "search.export",
)  # fmt: skip

for module in MODULES:
    importlib.import_module(module)
sqlalchemy.orm.configure_mappers()  # of MLflow's hundred tables, which it would do at the first query
