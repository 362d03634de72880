"""Turns a model between formats: which one lies at a path is told from its files, and each has a module of its own."""

from collections.abc import Callable

from dist_plm.core.errors import CheckpointError, with_remedy
from dist_plm.interop.kinds import NAMES, CheckpointFormat, kind_of
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.adapters import export_peft
from dist_plm.tasks.convert.huggingface import export_hf, import_hf
from dist_plm.tasks.convert.importers import import_deepspeed, import_megatron
from dist_plm.tasks.convert.sentence_transformers import export_sentence_transformers


def convert(config: ConvertConfig) -> str:
    """Writes what is at config.from_ to config.to in config.format; returns what there is to say of it.

    Raises:
        CheckpointError: it cannot be read, or cannot be said in that format; then nothing is written.
    """
    assert config.from_ is not None
    kind = kind_of(config.from_)
    task = CONVERSIONS.get((kind, config.format))
    if task is None:
        outcomes = " or ".join(f"format={wanted}" for of, wanted in CONVERSIONS if of == kind)
        raise CheckpointError(
            f"{config.from_} is {NAMES[kind]}, which this version does not convert to format={config.format}"
            + (f"; it can be converted with {outcomes}" if outcomes else "")
        )
    given = [name for name, kinds in _READ_OF.items() if getattr(config, name) and kind not in kinds]
    if given:
        raise CheckpointError(
            f"{', '.join(given)} has no effect on {NAMES[kind]}, which {config.from_} is: leave it out"
        )
    with with_remedy("choose another checkpoint"):
        return task(config)


#: Of what a setting is read.
_READ_OF: dict[str, tuple[CheckpointFormat, ...]] = {
    "vocab_size": ("megatron", "deepspeed"),
    "kv_heads": ("megatron", "deepspeed"),
    "weights_only": ("megatron", "deepspeed"),
    "hf_config": ("deepspeed",),
}

#: What is made of what: (what lies at `from`, `format`) -> the function that does it.
CONVERSIONS: dict[tuple[CheckpointFormat, str], Callable[[ConvertConfig], str]] = {
    ("hf", "canonical"): import_hf,
    ("canonical", "hf"): export_hf,
    ("canonical", "peft"): export_peft,
    ("canonical", "sentence_transformers"): export_sentence_transformers,
    ("megatron", "canonical"): import_megatron,
    ("deepspeed", "canonical"): import_deepspeed,
}
