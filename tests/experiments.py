"""Which of our experiments are of which command."""

from dist_plm.cli.search_path import CONF, OWN

#: Those of launch/finetune.py: they choose a task.
FINETUNES = tuple(
    name for name in OWN.choices("experiment") if "override /task" in (CONF / "experiment" / f"{name}.yaml").read_text()
)
