"""The commands of launch/ as functions that return an exit code."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from dist_plm.cli.app import front
from dist_plm.cli.commands import convert, prepare_data, pretrain, submit
from dist_plm.cli.commands import plan as plan_command
from dist_plm.cli.commands.showing import report, samples, watch
from dist_plm.core.errors import UserError
from dist_plm.monitor.live.serve import WatchedRuns
from dist_plm.spec.prepare.schema import PrepareConfig, VerifyConfig
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.spec.schema_finetune import FinetuneConfig


def check_run(*arguments: str) -> int:
    """`launch/pretrain.py --check …`"""
    return front([*arguments, "--check"], PretrainConfig, "pretrain", _nothing, "")


def train(*arguments: str) -> int:
    return front(arguments, PretrainConfig, "pretrain", pretrain.run, "")


def check_prepare(*arguments: str) -> int:
    return front([*arguments, "--check"], PrepareConfig, "prepare_data", _nothing, "")


def prepare(*arguments: str) -> int:
    return front(arguments, PrepareConfig, "prepare_data", prepare_data.run, "")


def verify(store: str) -> int:
    return front([f"verify={store}"], VerifyConfig, "verify_data", prepare_data.run_verify, "")


def convert_to(*arguments: str) -> int:
    return front(arguments, ConvertConfig, "convert", convert.run, "")


def submit_dry(*arguments: str) -> int:
    return submit.execute(["submit.dry_run=true", "submit.check_data=false", *arguments])


def show_report(*runs: str) -> int:
    return report.execute(list(runs))


def watch_once(run: str) -> int:
    return watch.execute([run, "view=terminal"])


def serve_once(run: str) -> int:
    """What a page gets that is opened, and asks for what is new."""
    try:
        runs = WatchedRuns([Path(run)])
        assert "<script" in runs.page()
        json.dumps(runs.news(0, -1, 0), allow_nan=False)
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


def show_samples(*arguments: str) -> int:
    return front(arguments, SamplesShownConfig, "samples", samples.run, "")


def plan(*arguments: str) -> int:
    return plan_command.execute(arguments)


def check_rows(*arguments: str) -> int:
    """`launch/finetune.py --check …`"""
    return front([*arguments, "--check"], FinetuneConfig, "finetune", _nothing, "")


def bring_all() -> None:
    """Imports what commands import when they run, so that cases that fork from here need not."""
    import datasets  # noqa: F401
    import rich.live  # noqa: F401
    import tokenizers  # noqa: F401
    from hydra._internal import core_plugins  # noqa: F401
    from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: F401

    import dist_plm.cluster.preflight
    import dist_plm.data.prepare.prepare
    import dist_plm.engines.megatron
    import dist_plm.objectives.causal
    import dist_plm.tasks.convert.convert
    import dist_plm.tasks.convert.inspection
    import dist_plm.tasks.samples.show_samples
    import dist_plm.train.build  # noqa: F401

    for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        os.environ.pop(name, None)


def _nothing(config: Any, origins: Any) -> int:
    raise AssertionError("--check starts nothing")
