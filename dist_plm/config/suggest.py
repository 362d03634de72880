"""Guesses what the user meant: the valid names nearest to one that is not valid."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from dist_plm.config.types import key_of
from dist_plm.config.variants import hints_of

T = TypeVar("T")

#: Settings of ours, the likeliest first, and other libraries' names for them, without "-" and "_". A name with a dot is looked
#: up whole, before its last part is. Settings that the schema at hand does not have are passed over.
_NAMES = {
    "model.family": "model.name",
    "model run.name": "modelname",
    "optim.lr": "learningrate maxlr",
    "schedule.min_lr_ratio": "minlr",
    "optim": "optimizer optimiser",
    "schedule": "lrscheduler lrschedulertype lrdecaystyle scheduler",
    "optim.betas": "beta1 adambeta1 adambeta2 beta2",
    "optim.eps": "adamepsilon adameps epsilon",
    "optim.weight_decay": "wd",
    "optim.clip_norm": "clip gradclip clipgrad maxgradnorm gradientclipping",
    "schedule.warmup_steps schedule.warmup_ratio": "warmup",
    "schedule.warmup_steps": "lrwarmupiters lrwarmupsamples numwarmupsteps warmupiters warmupnumsteps",
    "schedule.warmup_ratio": "lrwarmupfraction",
    "train.global_batch train.micro_batch": "batch batchsize gradientaccumulationsteps",
    "train.global_batch": "globalbatchsize trainbatchsize totalbatchsize accumulategradbatches gradaccum gradaccumsteps",
    "train.micro_batch": (
        "microbatchsize perdevicetrainbatchsize perdeviceevalbatchsize evalbatchsize trainmicrobatchsizepergpu"
    ),
    "train.batch_rampup": "rampupbatchsize",
    "train.steps": "maxsteps numsteps trainiters trainsamples lrdecayiters totalnumsteps iterations",
    "train.epochs train.steps": "epochs maxepochs numepochs numtrainepochs",
    "data.blend[0].max_epochs": "data.blend[0].epochs",
    "train.stop_at": "exitinterval",
    "train.log_every": "loginterval loggingsteps loggingstrategy logeverynsteps stepsperprint",
    "train.eval_every": "evalinterval evalsteps evalstrategy evaluationstrategy valcheckinterval checkvaleverynepoch doeval",
    "train.eval_samples": "evaliters limitvalbatches",
    "checkpoint.every": "saveinterval savesteps savestrategy saveevery",
    "checkpoint.keep": "savetotallimit savetopk",
    "checkpoint.keep_best": "loadbestmodelatend metricforbestmodel",
    "train.resume": "resumefromcheckpoint load",
    "train.init_from model.init_from": "finetune pretrainedcheckpoint initcheckpoint",
    "train.init_optimizer": "noloadoptim",
    "model.init_from": "modelnameorpath pretrainedmodelnameorpath",
    "run.dir run.root": "outputdir",
    "run.dir checkpoint.every": "save",
    "parallel.tensor": "tp tensorparallel tensormodelparallelsize modelparallelsize",
    "parallel.pipeline": "pp pipelineparallel pipelinemodelparallelsize",
    "parallel.virtual_pipeline": "numlayerspervirtualpipelinestage vpp",
    "parallel.stage_layers": "decoderfirstpipelinenumlayers decoderlastpipelinenumlayers pipelinemodelparallellayout",
    "parallel.data": "dp dataparallel",
    "parallel.context": "cp contextparallelsize ulyssesdegree",
    "parallel.expert": "ep",
    "parallel.sequence_parallel": "sp",
    "engine.zero_stage": "zero stage zerooptimization usedistributedoptimizer fsdp shardingstrategy",
    "engine.overlap_grad_reduce engine.deepspeed": "overlapcomm",
    "engine.bucket_mib": "reducebucketsize allgatherbucketsize",
    "engine.deepspeed": (
        "offloadoptimizer offloadparam cpuoffload contiguousgradients wallclockbreakdown prescalegradients "
        "gradientpredividefactor"
    ),
    "precision": "fp16 bf16 fp32 tf32 dtype amp mixedprecision",
    "precision.initial_loss_scale": "initiallossscaling initialscalepower lossscale",
    "data.sequence_length": "seqlen seqlength maxseqlength maxseqlen maxlength modelmaxlength blocksize",
    "parallel.context data.sequence_length": "context",
    "data.path data.sources": "dataset datapath",
    "data.train data.path": "trainfile",
    "data.validation": "validationfile",
    "data.test": "testfile",
    "data.sources": "input",
    "data.out": "output outputprefix",
    "data.loader_workers data.workers": "numworkers",
    "data.loader_workers": "dataloaderworkers",
    "model.layers": "numlayers nlayer nlayers numhiddenlayers",
    "model.hidden": "hiddensize nembd dmodel",
    "model.heads": "numheads nhead nheads numattentionheads",
    "model.kv_heads": "numkeyvalueheads groupqueryattention numquerygroups",
    "model.head_size": "headdim kvchannels",
    "model.ffn": "intermediatesize ffnhiddensize dff",
    "model.max_positions": "maxpositionembeddings npositions",
    "model.max_positions data.sequence_length": "nctx",
    "model.position": "positionembeddingtype",
    "model.rotary_base": "ropetheta ropebase",
    "model.hidden_dropout model.attention_dropout": "dropout",
    "model.hidden_dropout": "hiddendropoutprob",
    "model.attention_dropout": "attentionprobsdropoutprob",
    "model.init_std": "initializerrange initmethodstd",
    "model.activation": "swiglu hiddenact activationfunction",
    "model.norm": "normalization",
    "model.norm_eps": "layernormeps layernormepsilon rmsnormeps",
    "model.bias": "disablebiaslinear addbiaslinear",
    "model.vocab_multiple": "makevocabsizedivisibleby",
    "model.tied_embeddings": "tiewordembeddings untieembeddingsandoutputweights",
    "model.recompute": (
        "gradientcheckpointing recomputegranularity recomputeactivations recomputemethod recomputenumlayers "
        "activationcheckpointing"
    ),
    "track track.wandb_mode": "wandb",
    "track": "reportto",
    "track.to run.dir": "loggingdir tensorboarddir",
    "track.wandb_project": "project",
    "run.name": "wandbexpname runname expname",
    "cluster.device": "gpus",
    "tokenizer.end_of_document": "eos",
    "tokenizer.path data.tokenizer": "vocabfile mergefile tokenizermodel tokenizername tokenizernameorpath",
    "tokenizer.name data.tokenizer": "tokenizertype",
    "objective.mask_rate": "maskedlmprob mlmprob mlmprobability",
}
OTHER_NAMES = {name: tuple(settings.split()) for settings, names in _NAMES.items() for name in names.split()}

#: What does something that no setting does, as the end of a sentence, and other libraries' names for it.
_WAYS = {
    "the tokenizer is chosen with the corpus, as in launch/prepare_data.py tokenizer=file tokenizer.path=FILE": (
        "vocabfile mergefile tokenizermodel tokenizername tokenizernameorpath tokenizertype"
    ),
    "torchrun --nproc-per-node sets the processes of a node": "devices nprocpernode numprocesses numgpus",
    "torchrun --nnodes sets the nodes": "nnodes numnodes",
    "torchrun starts the ranks, and --check --world-size checks for so many": "worldsize localrank",
    "launch/pretrain.py and launch/finetune.py train, nothing turns it on": "dotrain",
    "each pass takes the fastest attention that can compute it": "attnimplementation attentionbackend useflashattn",
    "model.position=rotary turns all of a head": "rotarypercent",
}
OTHER_WAYS = {name: way for way, names in _WAYS.items() for name in names.split()}


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
        other_names(key, valid),
        [siblings[n] for n in near(name, siblings, cutoff=0.8)],
        difflib.get_close_matches(key, as_deep or elsewhere, n=2, cutoff=0.3),
        [siblings[n] for n in near(name, siblings)],
        near(key, valid, cutoff=0.75),
        [k for n in near(name, last_parts, cutoff=0.75) for k in last_parts[n]],
    ):
        if found:
            return found[:3]
    return []


def other_names(key: str, valid: Collection[str]) -> list[str]:
    """Picks those of `valid` that set what another library calls `key`."""
    return [t for t in _of_others(key, OTHER_NAMES) or () if t in valid and t != key]


def other_way(key: str, valid: Sequence[str]) -> str:
    """Says what does here what another library calls `key`, where none of `valid` does so; empty where nothing is known."""
    group, _, name = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in valid if k.rpartition(".")[0] == group]
    if other_names(key, valid) or near(name, siblings, cutoff=0.8):
        return ""
    return _of_others(key, OTHER_WAYS) or ""


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


def _of_others(key: str, table: Mapping[str, T]) -> T | None:
    """Finds in a table of others' names the whole key, or its last part."""
    plain = key.lower().replace("-", "").replace("_", "")
    return table.get(plain, table.get(plain.rpartition(".")[2]))


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(a) is tuple for a in get_args(hint))
