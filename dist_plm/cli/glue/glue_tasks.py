"""The nine tasks of GLUE (Wang et al. 2019, arXiv 1804.07461), as its archive has them, and recipes with what they reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: Names of RECIPES.
RecipeName = Literal["bert_base", "roberta_base", "roberta_large", "electra_small", "electra_base", "electra_large"]


@dataclass(frozen=True, slots=True)
class GlueTask:
    """Says how a task is read and measured.

    Args:
        folder: of the archive.
        measures: that are told of it, the first of which tells which checkpoint is best.
        settings: of launch/finetune.py.
        validation, mismatched: files in the folder beside train.tsv; the second is measured once the model has learned.
    """

    folder: str
    measures: tuple[str, ...] = ("accuracy",)
    settings: tuple[str, ...] = ()
    validation: str = "dev.tsv"
    mismatched: str | None = None


TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask("CoLA", ("matthews",), ("data.header=[source,label,mark,sentence]",)),
    "sst2": GlueTask("SST-2"),
    "mrpc": GlueTask("MRPC", ("f1", "accuracy")),
    "stsb": GlueTask("STS-B", ("pearson", "spearman"), ("task=regress",)),
    "qqp": GlueTask("QQP", ("accuracy", "f1")),
    "mnli": GlueTask("MNLI", validation="dev_matched.tsv", mismatched="dev_mismatched.tsv"),
    "qnli": GlueTask("QNLI"),
    "rte": GlueTask("RTE"),
    "wnli": GlueTask("WNLI"),
}


@dataclass(frozen=True, slots=True)
class GlueRecipe:
    """Says how a model learns, and what its authors tell of the validation rows.

    Args:
        experiment: of conf/experiment.
        settings: of some tasks, beside it.
        published: in per cent, by task and measure.
        source: of `published`.
    """

    experiment: str
    published: Mapping[str, Mapping[str, float]]
    source: str
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    everywhere: tuple[str, ...] = ()


def _of(measures: Mapping[str, str], numbers: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Numbers by task, of the measure that tells of it: accuracy where none is named."""
    return {task: {measures.get(task, "accuracy"): number} for task, number in numbers.items()}


_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
_FAIRSEQ, _ELECTRA = {"cola": "matthews", "stsb": "pearson"}, {"cola": "matthews", "stsb": "spearman"}
_SMALL_BATCH = "train.global_batch=16"
#: Liu et al. 2019, table 10, and the best checkpoint by what each task is told by.
_OF_ROBERTA: Mapping[str, tuple[str, ...]] = {
    "rte": ("optim.lr=2e-5", _SMALL_BATCH),
    "stsb": ("optim.lr=2e-5", _SMALL_BATCH, "checkpoint.keep_best=pearson"),
    "mrpc": (_SMALL_BATCH,),
    "cola": (_SMALL_BATCH, "checkpoint.keep_best=matthews"),
}
_OF_ELECTRA: Mapping[str, tuple[str, ...]] = dict.fromkeys(("rte", "stsb"), ("train.epochs=10",))
_FAIRSEQ_README, _ELECTRA_README = "fairseq, examples/roberta/README.md", "google-research/electra, README.md (medians)"

RECIPES: Mapping[RecipeName, GlueRecipe] = {
    "bert_base": GlueRecipe(
        "glue_bert",
        {
            "cola": {"matthews": 56.53},
            "sst2": {"accuracy": 92.32},
            "mrpc": {"f1": 88.85, "accuracy": 84.07},
            "stsb": {"pearson": 88.64, "spearman": 88.48},
            "qqp": {"accuracy": 90.71, "f1": 87.49},
            "mnli": {"accuracy": 83.91, "mismatched": 84.10},
            "qnli": {"accuracy": 90.66},
            "rte": {"accuracy": 65.70},
            "wnli": {"accuracy": 56.34},
        },
        "transformers, examples/pytorch/text-classification/README.md (bert-base-cased, one seed)",
        dict.fromkeys(("mrpc", "wnli"), ("train.epochs=5",)),
    ),
    "roberta_base": GlueRecipe(
        "glue_roberta",
        _of(_FAIRSEQ, dict(zip(_TASKS, (63.6, 94.8, 90.2, 91.2, 91.9, 87.6, 92.8, 78.7), strict=True))),
        _FAIRSEQ_README,
        _OF_ROBERTA,
    ),
    "roberta_large": GlueRecipe(
        "glue_roberta",
        _of(_FAIRSEQ, dict(zip(_TASKS, (68.0, 96.4, 90.9, 92.4, 92.2, 90.2, 94.7, 86.6), strict=True))),
        _FAIRSEQ_README,
        _OF_ROBERTA,
    ),
    "electra_small": GlueRecipe(
        "glue_electra",
        _of(_ELECTRA, dict(zip(_TASKS, (57.0, 91.2, 88.0, 87.5, 89.0, 81.3, 88.4, 66.7), strict=True))),
        _ELECTRA_README,
        _OF_ELECTRA,
    ),
    "electra_base": GlueRecipe(
        "glue_electra",
        _of(_ELECTRA, dict(zip(_TASKS, (67.7, 95.1, 89.5, 91.2, 91.5, 88.8, 93.2, 82.7), strict=True))),
        _ELECTRA_README,
        _OF_ELECTRA,
    ),
    "electra_large": GlueRecipe(
        "glue_electra",
        _of(_ELECTRA, dict(zip(_TASKS, (69.1, 96.9, 90.8, 92.6, 92.4, 90.9, 95.0, 88.0), strict=True))),
        _ELECTRA_README,
        _OF_ELECTRA,
        ("optim.lr=5e-5", "optim.layer_decay=0.9"),
    ),
}
