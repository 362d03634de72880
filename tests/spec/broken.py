"""Which sentences the rules have for a configuration."""

from typing import Any

from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from tests.spec.make import pretrain


def problems(*, world_size: int = 1, vocab_size: int | None = None, **changes: Any) -> list[str]:
    try:
        finalize(pretrain(**changes), world_size=world_size, vocab_size=vocab_size)
    except ConfigError as error:
        return error.problems
    return []
