"""Every setting of launch/convert.py, as frozen dataclasses; see schema.py."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.types import Count, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """Says what launch/convert.py does: it describes `inspect`, the path or URL of a checkpoint or of a run, or it
    turns what is at `from` into a checkpoint in `to`, in `format`.

    Of a run with adapters (model.lora) format=hf writes whole weights, and format=peft the adapters alone.

    An encoder in format=sentence_transformers makes one vector of a text: by `pooling` of its last hidden states, of length 1
    with `normalize`.

    `dtype` of what is written for Hugging Face is fp32 when None, or that which the weights were imported in. Files of more
    than `shard_gb` gigabytes (10⁹ bytes) of weights are split, with an index. Unless `verify` is false, Transformers opens what
    was written, and its logits are compared with those of the checkpoint.

    Of a checkpoint of Megatron-LM or DeepSpeed, `vocab_size` is the number of rows of its embedding that stand for a token
    and `kv_heads` the number of its query groups, needed where it does not tell; `weights_only` leaves out the optimizer's
    state. Of a model of Hugging Face trained by DeepSpeed, `hf_config` is a directory with its config.json, where that is not
    beside the checkpoint."""

    inspect: str | None = None
    from_: str | None = None
    to: str | None = None
    format: Literal["canonical", "hf", "peft", "sentence_transformers"] = "canonical"
    # format=hf
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    shard_gb: Positive = 5.0
    verify: bool = True
    # format=sentence_transformers
    pooling: Literal["mean", "cls", "max"] = "mean"
    normalize: bool = False
    # from= a checkpoint of Megatron-LM or DeepSpeed
    vocab_size: Count | None = None
    kv_heads: Count | None = None
    weights_only: bool = False
    hf_config: str | None = None
