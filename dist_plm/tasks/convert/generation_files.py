"""Files of a directory of Hugging Face that say how its model writes: generation_config.json, and the template of dialogues."""

import json
from collections.abc import Mapping
from typing import Any

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.data.labelled.dialogues import TEMPLATE_FILE
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.interop.hf.checkpoint_tokenizer import tokenizer_path
from dist_plm.objectives.build import build_writing_task
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint, task_of_run

GENERATION_FILE = "generation_config.json"
#: Of config.json, what generation goes by.
_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def generation_files(found: Checkpoint, settings: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> content; none of a model that does not write. A run that learned dialogues ends where a turn does as well.

    Args:
        settings: of config.json.
    """
    model, run = model_of_checkpoint(found), found.run_settings()
    if model.is_encoder or not model.predicts_tokens:
        return {}
    numbers: dict[str, Any] = {name: settings[name] for name in _NUMBERS if settings.get(name) is not None}
    task, files = task_of_run(run, found.where), dict[str, bytes]()
    if task is not None and task.chat_template is not None:
        files[TEMPLATE_FILE] = task.chat_template.encode()
        if (path := tokenizer_path(found, run)) is not None:
            encoder = ExampleEncoder(Tokenizer.load(path), model.max_positions or 1, model.has_decoder)
            ends = numbers.get("eos_token_id", [])
            ends = [*build_writing_task(task).ends(encoder), *(ends if isinstance(ends, list) else [ends])]
            numbers["eos_token_id"] = list(dict.fromkeys(ends))
    return files | {GENERATION_FILE: json.dumps(numbers, indent=2).encode() + b"\n"}
