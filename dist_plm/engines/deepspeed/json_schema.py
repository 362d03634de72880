"""DeepSpeed's own schemas of its JSON, imported without chatter, and the check of `engine.deepspeed` against them: all that a
login node has to load of DeepSpeed before a run is queued."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from dist_plm.distributed.lean_imports import without
from dist_plm.engines.deepspeed.settings import check_extra

os.environ.setdefault("DS_LOG_LEVEL", "error")
logging.disable(logging.WARNING)  # its logger exists once it is imported, and by then has warned that there is no GPU

with without("mlflow"):  # its tuner's, seconds to import where it is installed
    from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig  # noqa: E402
from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT  # noqa: E402
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: E402

logging.disable(logging.NOTSET)

#: Asynchronous input and output for NVMe offload: DeepSpeed has a table of defaults in place of a schema.
_AIO_FIELDS: dict[str, Any] = {name: (type(value), value) for name, value in AIO_DEFAULT_DICT.items()}
_Aio: type[BaseModel] = create_model("Aio", __config__=ConfigDict(extra="forbid", strict=True), **_AIO_FIELDS)

#: By top-level key of the JSON.
SCHEMAS: dict[str, Any] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "aio": _Aio,
}


def check_keys(own_keys: Mapping[str, Any]) -> None:
    """Compares the keys under engine.deepspeed with DeepSpeed's own schema.

    Raises:
        ConfigError: a key under engine.deepspeed is unknown, wrong, or decided by another setting.
    """
    check_extra(own_keys, SCHEMAS)
