"""Guesses what the user meant: the valid names nearest to one that is not valid."""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from dist_plm.config.types import key_of
from dist_plm.config.variants import hints_of

#: Other libraries' names for our settings, keyed without "-" and "_". A key with a dot is looked up whole, before its
#: last part is. Targets that the schema at hand does not have are passed over.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "model.name": ("model.family",),
    "modelname": ("model", "run.name"),
    "learningrate": ("optim.lr",),
    "maxlr": ("optim.lr",),
    "minlr": ("schedule.min_lr_ratio",),
    "optimizer": ("optim",),
    "optimiser": ("optim",),
    "lrscheduler": ("schedule",),
    "lrschedulertype": ("schedule",),
    "lrdecaystyle": ("schedule",),
    "scheduler": ("schedule",),
    "beta1": ("optim.betas",),
    "adambeta1": ("optim.betas",),
    "adambeta2": ("optim.betas",),
    "beta2": ("optim.betas",),
    "wd": ("optim.weight_decay",),
    "clip": ("optim.clip_norm",),
    "gradclip": ("optim.clip_norm",),
    "clipgrad": ("optim.clip_norm",),
    "maxgradnorm": ("optim.clip_norm",),
    "gradientclipping": ("optim.clip_norm",),
    "warmup": ("schedule.warmup_steps", "schedule.warmup_ratio"),
    "lrwarmupiters": ("schedule.warmup_steps",),
    "batch": ("train.global_batch", "train.micro_batch"),
    "batchsize": ("train.global_batch", "train.micro_batch"),
    "globalbatchsize": ("train.global_batch",),
    "trainbatchsize": ("train.global_batch",),
    "microbatchsize": ("train.micro_batch",),
    "perdevicetrainbatchsize": ("train.micro_batch",),
    "trainmicrobatchsizepergpu": ("train.micro_batch",),
    "rampupbatchsize": ("train.batch_rampup",),
    "gradientaccumulationsteps": ("train.global_batch", "train.micro_batch"),
    "maxsteps": ("train.steps",),
    "numsteps": ("train.steps",),
    "trainiters": ("train.steps",),
    "iterations": ("train.steps",),
    "exitinterval": ("train.stop_at",),
    "loginterval": ("train.log_every",),
    "loggingsteps": ("train.log_every",),
    "evalinterval": ("train.eval_every",),
    "evalsteps": ("train.eval_every",),
    "evaliters": ("train.eval_samples",),
    "saveinterval": ("checkpoint.every",),
    "savesteps": ("checkpoint.every",),
    "savetotallimit": ("checkpoint.keep",),
    "loadbestmodelatend": ("checkpoint.keep_best",),
    "resumefromcheckpoint": ("train.resume",),
    "load": ("train.resume",),
    "outputdir": ("run.dir", "run.root"),
    "save": ("run.dir", "checkpoint.every"),
    "tp": ("parallel.tensor",),
    "tensorparallel": ("parallel.tensor",),
    "tensormodelparallelsize": ("parallel.tensor",),
    "modelparallelsize": ("parallel.tensor",),
    "pp": ("parallel.pipeline",),
    "pipelineparallel": ("parallel.pipeline",),
    "pipelinemodelparallelsize": ("parallel.pipeline",),
    "numlayerspervirtualpipelinestage": ("parallel.virtual_pipeline",),
    "decoderfirstpipelinenumlayers": ("parallel.stage_layers",),
    "decoderlastpipelinenumlayers": ("parallel.stage_layers",),
    "pipelinemodelparallellayout": ("parallel.stage_layers",),
    "vpp": ("parallel.virtual_pipeline",),
    "dp": ("parallel.data",),
    "dataparallel": ("parallel.data",),
    "cp": ("parallel.context",),
    "contextparallelsize": ("parallel.context",),
    "ulyssesdegree": ("parallel.context",),
    "ep": ("parallel.expert",),
    "sp": ("parallel.sequence_parallel",),
    "zero": ("engine.zero_stage",),
    "stage": ("engine.zero_stage",),
    "zerooptimization": ("engine.zero_stage",),
    "usedistributedoptimizer": ("engine.zero_stage",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "fp32": ("precision",),
    "tf32": ("precision",),
    "dtype": ("precision",),
    "initiallossscaling": ("precision.initial_loss_scale",),
    "initialscalepower": ("precision.initial_loss_scale",),
    "lossscale": ("precision.initial_loss_scale",),
    "seqlen": ("data.sequence_length",),
    "seqlength": ("data.sequence_length",),
    "maxseqlength": ("data.sequence_length",),
    "maxseqlen": ("data.sequence_length",),
    "blocksize": ("data.sequence_length",),
    "context": ("parallel.context", "data.sequence_length"),
    "dataset": ("data.path", "data.sources"),
    "datapath": ("data.path", "data.sources"),
    "input": ("data.sources",),
    "output": ("data.out",),
    "outputprefix": ("data.out",),
    "numworkers": ("data.loader_workers", "data.workers"),
    "dataloaderworkers": ("data.loader_workers",),
    "numlayers": ("model.layers",),
    "nlayer": ("model.layers",),
    "nlayers": ("model.layers",),
    "numhiddenlayers": ("model.layers",),
    "hiddensize": ("model.hidden",),
    "nembd": ("model.hidden",),
    "dmodel": ("model.hidden",),
    "numheads": ("model.heads",),
    "nhead": ("model.heads",),
    "nheads": ("model.heads",),
    "numattentionheads": ("model.heads",),
    "numkeyvalueheads": ("model.kv_heads",),
    "groupqueryattention": ("model.kv_heads",),
    "numquerygroups": ("model.kv_heads",),
    "headdim": ("model.head_size",),
    "kvchannels": ("model.head_size",),
    "intermediatesize": ("model.ffn",),
    "ffnhiddensize": ("model.ffn",),
    "dff": ("model.ffn",),
    "maxpositionembeddings": ("model.max_positions",),
    "npositions": ("model.max_positions",),
    "ropetheta": ("model.rotary_base",),
    "ropebase": ("model.rotary_base",),
    "dropout": ("model.hidden_dropout", "model.attention_dropout"),
    "initializerrange": ("model.init_std",),
    "tiewordembeddings": ("model.tied_embeddings",),
    "gradientcheckpointing": ("model.recompute",),
    "recomputegranularity": ("model.recompute",),
    "activationcheckpointing": ("model.recompute",),
    "wandb": ("track", "track.wandb_mode"),
    "reportto": ("track",),
    "project": ("track.wandb_project",),
    "gpus": ("cluster.device",),
    "eos": ("tokenizer.end_of_document",),
}


def dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field of type `hint` holds (alone, or None, or in a tuple), if it holds one."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    if get_origin(hint) in (Union, UnionType, tuple, Annotated):
        return next((found for arg in get_args(hint) if (found := dataclass_in(arg)) is not None), None)
    return None


def setting_names(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration class: groups and the settings in them, in the schema's order."""
    names = []
    for name, hint in hints_of(cls).items():
        key = f"{prefix}{key_of(name)}"
        names.append(key)
        inner = dataclass_in(hint)
        if inner is not None:
            names.extend(setting_names(inner, f"{key}[0]." if _is_list(hint) else f"{key}."))
    return names


def suggest(key: str, valid: Sequence[str]) -> list[str]:
    """At most three of `valid`, nearest first; empty when nothing is near.

    In order: another library's name for it, a slip of the pen in the same group, the same name in other groups (as deep
    where there are such), a slip of the pen anywhere.
    """
    group, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in valid if k.rpartition(".")[0] == group}
    last_parts: dict[str, list[str]] = {}
    for k in valid:
        last_parts.setdefault(k.rpartition(".")[2], []).append(k)
    elsewhere = last_parts.get(name, [])
    as_deep = [k for k in elsewhere if k.count(".") == key.count(".")]
    for found in (
        _other_names(key, valid),
        [siblings[n] for n in near(name, siblings, cutoff=0.8)],
        difflib.get_close_matches(key, as_deep or elsewhere, n=2, cutoff=0.3),
        [siblings[n] for n in near(name, siblings)],
        near(key, valid, cutoff=0.75),
        [k for n in near(name, last_parts, cutoff=0.75) for k in last_parts[n]],
    ):
        if found:
            return found[:3]
    return []


def near(name: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The names that `name` may be a misspelling or shortening of, nearest first."""
    names = list(names)
    by_letters = {n.lower().replace("-", "_"): n for n in names}
    wanted = name.lower().replace("-", "_")
    found = [by_letters[n] for n in difflib.get_close_matches(wanted, by_letters, n=2, cutoff=cutoff)]
    if not found and len(wanted) > 2:
        found = [n for n in names if n.lower().startswith(wanted)][:2]
    return found


def did_you_mean(found: Sequence[str]) -> str:
    """`found` as the end of a sentence: "; did you mean a or b?", or nothing."""
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _other_names(key: str, valid: Sequence[str]) -> list[str]:
    plain = key.lower().replace("-", "").replace("_", "")
    targets = OTHER_NAMES.get(plain, OTHER_NAMES.get(plain.rpartition(".")[2], ()))
    return [t for t in targets if t in valid and t != key]


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(a) is tuple for a in get_args(hint))
