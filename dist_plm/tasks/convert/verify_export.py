"""Opens what was exported as its users will, and compares what it says with what the checkpoint does."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.core.errors import CheckpointError, count_of
from dist_plm.interop.hf.base import Half
from dist_plm.interop.hf.config_json import CONFIG_FILE, hf_config
from dist_plm.interop.hf.registry import hf_model
from dist_plm.models.build import DTYPES
from dist_plm.spec.schema import ModelConfig
from dist_plm.tasks.convert.checkpoint_logits import CHOICES, PAIRS, SAID, STATES, AskedTexts, logits_of
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
from dist_plm.tasks.convert.transformers_model import be_quiet, transformers_model
from dist_plm.train.startup.load_weights import of_checkpoint

#: By how much logits may differ, as a share of the largest of them, or of 1 where all are smaller; both sides compute in fp32.
TOLERANCE = 1e-4
#: And where adapters were merged, whose sum with the weights is rounded to the type of the export on one side alone.
_MERGED = {torch.float32: TOLERANCE, torch.float16: 1e-2, torch.bfloat16: 8e-2}
#: What a model that runs takes, in bytes of its weights.
_MEMORY = 1.2
_NAMED = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


@dataclass(frozen=True, slots=True)
class Exported:
    """Holds what Transformers opens.

    Args:
        settings: its config.json.
        open: opens it, in fp32.
        held: the type in which it, and so the checkpoint's model beside it, holds weights.
        limit: see TOLERANCE.
    """

    settings: Mapping[str, Any]
    open: Callable[[], Any]
    held: torch.dtype = torch.float32
    limit: float = TOLERANCE

    @property
    def name(self) -> str:
        return self.settings["architectures"][0]

    @property
    def pad(self) -> int | None:
        """The token for padding; None where that is none of the vocabulary, as -1."""
        pad = self.settings.get("pad_token_id")
        return pad if pad is not None and 0 <= pad < self.settings["vocab_size"] else None


def exported_at(directory: Path, *, merged: bool) -> Exported:
    """Finds the model that was written to a directory.

    Args:
        merged: adapters were added to its weights.
    """
    settings = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    dtype = _NAMED[settings["dtype"]]

    def opened() -> Any:
        be_quiet()
        return getattr(transformers, settings["architectures"][0]).from_pretrained(directory, dtype=torch.float32)

    if merged:
        return Exported(settings, opened, limit=_MERGED[dtype])
    return Exported(settings, opened, held=dtype)


def adapters_at(directory: Path, found: Checkpoint) -> Exported:
    """Finds the adapters that were written to a directory, above the weights of their checkpoint without them."""
    base = replace(_model_of(found), lora=None)
    settings = hf_config(base, found.weights)

    def opened() -> Any:
        import peft  # no dependency: whoever writes such files for another machine need not have it

        be_quiet()
        network = transformers_model(base, of_checkpoint(found), settings, torch.float32)
        return peft.PeftModel.from_pretrained(network, directory)

    return Exported(settings, opened)


def _model_of(found: Checkpoint) -> ModelConfig:
    """Finds the model with those heads that the checkpoint holds."""
    model = model_of_checkpoint(found)
    return hf_model(model).with_heads_of(model, found.weights)


def verify_export(found: Checkpoint, half: Half | None, exported: Exported) -> str:
    """Compares what an exported model says of a few drawn texts with what that of its checkpoint does.

    Args:
        half: of electra, that which was exported.
    Returns:
        how much they differ, or why they were not compared.
    Raises:
        CheckpointError: more than the type of the export explains.
    """
    num_bytes = sum(4 * math.prod(shape) for shape in found.weights.values())
    if _MEMORY * num_bytes > (room := psutil.virtual_memory().available):
        return (
            f"logits not compared: {exported.name} takes {_MEMORY * num_bytes / 1e9:,.1f} GB in fp32, and "
            f"{room / 1e9:,.1f} GB are free"
        )
    model = _model_of(found)
    is_headless = hf_model(model).classes.get(exported.name) == ()
    if is_headless and model.has_decoder:
        return f"logits not compared: {exported.name} gives hidden states alone"
    pad = exported.pad
    # RoBERTa counts its positions from behind the token for padding, which its configuration need not name.
    asked = AskedTexts.of(model, max(model.position_offset - 1, 0) if pad is None else pad)
    ours = logits_of(found, model, asked, half, exported.held, is_headless=is_headless)
    theirs = _said(exported, model, asked)
    differences = {name: float((theirs[name] - expected).abs().max()) for name, expected in ours.items()}
    for name, expected in ours.items():
        largest = float(expected.abs().max())
        if not differences[name] <= exported.limit * max(1.0, largest):
            raise CheckpointError(
                f"{_WORDS.get(name, name)} of {exported.name} as exported differ by {differences[name]:.2g} from those of "
                f"{found.where}, which reach {largest:.3g}: more than {exported.limit:g} of that, which is left to rounding; "
                "nothing was written: tell the authors of this program, or take the model as it is with verify=false"
            )
    return "\n".join(_line(exported, asked, name, differences[name], ours[name]) for name in ours)


_WORDS = {SAID: "logits", PAIRS: "logits of pairs", STATES: "mean hidden states"}


def _line(exported: Exported, asked: AskedTexts, name: str, difference: float, said: Tensor) -> str:
    rows, length = asked.tokens.shape
    low, high = float(said.min()), float(said.max())
    held = "" if exported.held == torch.float32 else f", from weights in {str(exported.held).removeprefix('torch.')}"
    return (
        f"{_WORDS.get(name, name)} by {exported.name} of {count_of(rows, 'text')} of {count_of(length, 'token')}: "
        f"largest difference {difference:.1e} "
        f"(they lie between {low:.3g} and {high:.3g}{held})"
    )


def _said(exported: Exported, model: ModelConfig, asked: AskedTexts) -> dict[str, Tensor]:
    """Gives what Transformers' model says, as `logits_of` does."""
    inputs = {"input_ids": asked.tokens, "attention_mask": asked.attended}
    if asked.segments is not None:
        inputs["token_type_ids"] = asked.segments
    if asked.written is not None:
        inputs["decoder_input_ids"] = asked.written
    if model.head == "choice":
        inputs = {name: values.view(-1, CHOICES, values.shape[-1]) for name, values in inputs.items()}
    network = exported.open().eval()
    with torch.no_grad():
        if model.is_encoder or model.has_decoder or exported.pad is not None:
            outputs = dict(network(**inputs))
        else:  # without a token for padding classes read one text at a time
            outputs = _one_by_one(network, asked)
    if "prediction_logits" in outputs:  # of BERT with both heads
        outputs[SAID] = outputs.pop("prediction_logits")
    if STATES in outputs:
        outputs[STATES] = torch.einsum("bsh,bs->bh", outputs[STATES], asked.weights)
    of_texts = (PAIRS, STATES, *((SAID,) if model.scores_sequences else ()))
    return {
        name: values if name in of_texts else asked.of_tokens(values)
        for name, values in outputs.items()
        if isinstance(values, Tensor)
    }


def _one_by_one(network: Any, asked: AskedTexts) -> dict[str, Tensor]:
    length = asked.tokens.shape[1]
    rows: list[Tensor] = []
    name = SAID
    for tokens, count in zip(asked.tokens, asked.lengths.tolist(), strict=True):
        outputs = network(tokens[None, :count])
        name = SAID if SAID in outputs else STATES
        said = outputs[name]
        rows.append(functional.pad(said, (0, 0, 0, length - count)) if said.dim() == 3 else said)
    return {name: torch.cat(rows)}
