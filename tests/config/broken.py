"""Which sentences the rules have for a configuration."""

from typing import Any

from dist_plm.config.rules import finalize
from dist_plm.errors import ConfigError
from tests.config.make import pretrain


def problems(*, world_size: int = 1, vocab_size: int | None = None, **changes: Any) -> list[str]:
    try:
        finalize(pretrain(**changes), world_size=world_size, vocab_size=vocab_size)
    except ConfigError as error:
        return error.problems
    return []
