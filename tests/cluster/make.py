"""A submission for tests, without the command line."""

from typing import Any

from dist_plm.config.decode import decode
from dist_plm.spec.schema import SubmissionConfig
from tests.spec.make import pretrain_mapping


def submission(
    *, nodes: int = 1, min_nodes: int | None = None, check_data: bool = False, **changes: Any
) -> SubmissionConfig:
    """`tests.spec.make.PRETRAIN` on `nodes` nodes, with values set at "group__key"."""
    mapping = {
        **pretrain_mapping(**changes),
        "nodes": nodes,
        "min_nodes": min_nodes,
        "submit": {"check_data": check_data},
    }
    return decode(SubmissionConfig, mapping)
