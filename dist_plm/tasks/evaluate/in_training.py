"""Builds what a run has measured beside the loss while it trains, importing no more than it asks for."""

from dist_plm.distributed.groups import Groups
from dist_plm.spec.schema import PretrainConfig, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.train.evaluation import MoreMeasures


def more_measures(config: TrainingConfig, groups: Groups) -> MoreMeasures:
    """Builds what a finalised run has measured beside the loss. Collective.

    Raises:
        UserError: on every rank alike, where something cannot be read.
    """
    written = named = None
    # Imported here: they bring Transformers in, half a second that most runs do without.
    if isinstance(config, FinetuneConfig) and config.writes_when_evaluated:
        from dist_plm.tasks.generate.written_rows import text_measures

        written = text_measures(config, groups)
    if isinstance(config, PretrainConfig) and config.evaluate.tasks:
        from dist_plm.tasks.evaluate.named_sets import named_set_measures

        named = named_set_measures(config, groups)
    return MoreMeasures(written, named)
