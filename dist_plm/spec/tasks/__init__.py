"""Registers the tasks by name: one section class each here, and one body in dist_plm/objectives/tasks/."""

from dist_plm.config.variants import Variants
from dist_plm.spec.families.base import ModelConfig
from dist_plm.spec.tasks.base import TaskConfig
from dist_plm.spec.tasks.chat import ChatConfig
from dist_plm.spec.tasks.choice import ChoiceConfig
from dist_plm.spec.tasks.classify import ClassifyConfig
from dist_plm.spec.tasks.qa import QaConfig
from dist_plm.spec.tasks.regress import RegressConfig
from dist_plm.spec.tasks.seq2seq import Seq2SeqConfig
from dist_plm.spec.tasks.tag import TagConfig

TASKS: Variants[TaskConfig] = Variants(
    TaskConfig,
    "name",
    {
        "choice": ChoiceConfig,
        "classify": ClassifyConfig,
        "qa": QaConfig,
        "regress": RegressConfig,
        "tag": TagConfig,
        "seq2seq": Seq2SeqConfig,
        "chat": ChatConfig,
    },
    owed=("body", "loss_terms", "columns", "measures"),
)


def tasks_of(model: ModelConfig | type[ModelConfig]) -> list[str]:
    """Lists the tasks that models of a family learn, by name."""
    return [name for name, task in TASKS.items() if task.suits(model)]
