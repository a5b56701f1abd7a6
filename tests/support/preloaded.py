"""Loads what a driver takes seconds to load. For the server that drivers are forked from; nothing here starts a thread."""

from __future__ import annotations

import gc
import importlib
import os
from typing import Final

import sqlalchemy.orm

from tests.support.forked_workers import FIRST_JOB
from tests.support.stores import never_wait_for_the_disk

MODULES: Final = (
    "ray.tune", "ray.tune.logger.aim", "ray.dag", "ray.air.integrations.mlflow", "aiohttp.web", "pyarrow.json",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.model_registry.sqlalchemy_store", "alembic.command",
    "optuna.storages._rdb.storage", "optuna.storages._rdb.models", "sqlalchemy.dialects.sqlite", "safetensors.torch",
    "torch.nested._internal.nested_tensor", "PIL.PngImagePlugin", "PIL.WebPImagePlugin", "rich._emoji_codes",
    "gbc.training.tasks", "search.run", "search.driver.sweep", "search.driver.tune_adapter", "search.driver.finalize",
    "search.status", "search.export", "search.worker.trial", "dashboards.report", "dashboards.sweep_page",
    "ray._private.workers.setup_worker", "ray._private.process_watcher", "ray.dashboard.agent",
)  # fmt: skip

# Ray's core reads these when it is loaded, and never again. Workers that are forked need them (tests.support.forked_workers).
os.environ |= {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
for module in MODULES:
    importlib.import_module(module)
never_wait_for_the_disk()
sqlalchemy.orm.configure_mappers()  # of MLflow's hundred tables, which it would do at the first query
gc.freeze()  # a driver's last collection looks at its own objects only
