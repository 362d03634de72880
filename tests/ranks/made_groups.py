"""Counts the groups of all ranks that a program makes: each is a connection from every rank to every other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch.distributed as dist


@contextmanager
def counted_groups() -> Iterator[list[str]]:
    """Lists the backends of the groups of all ranks that the block makes beside the default one."""
    made, new_group = list[str](), dist.new_group

    def new(ranks: Any = None, *arguments: Any, **options: Any) -> Any:
        if ranks is None:
            made.append(options.get("backend") or dist.get_backend())
        return new_group(ranks, *arguments, **options)

    with patch.object(dist, "new_group", new):
        yield made
