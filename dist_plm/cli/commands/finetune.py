"""Fine-tunes a pretrained model on labelled rows: classes, numbers, tags, answers, texts.

    python launch/finetune.py model.init_from=downloads/bert data.train=train.csv data.validation=dev.csv
    python launch/finetune.py task=tag model.init_from=downloads/bert data.train=train.conll data.validation=dev.conll
    torchrun --nproc-per-node 4 launch/finetune.py model.init_from=downloads/roberta parallel.tensor=2 data.train=train.jsonl
    python launch/finetune.py experiment=glue glue.data=GLUE glue.recipe=bert_base model.init_from=downloads/bert
    python launch/finetune.py -m train.seed=1,2,3 optim.lr=1e-5,2e-5 model.init_from=DIR data.train=train.csv

It begins with the weights of a directory of Hugging Face, reads tables, JSON lines or CoNLL files, and writes into run.dir
what launch/pretrain.py does: run.yaml, metrics.jsonl (eval/accuracy and others), log/ and checkpoints/. Started again with
the same run.name it goes on from its latest checkpoint.

experiment=glue makes runs of all nine tasks of GLUE, from the files of its archive, with seeds 1 to glue.seeds=5, and tells
their median and spread beside what the authors of glue.recipe tell; runs that are finished are not made again.

Most used settings:
  task=classify|regress|tag|qa|choice               a label or number for a text or a pair, a label for each word, answers to
                                                    questions about a text, one of several choices
  task=seq2seq|chat                                 a text that is written of another, what is answered in dialogues
  model.init_from=DIR                               the model; its tokenizer is used unless data.tokenizer names another
  train.init_from=RUN                               or the model and the tokenizer of a run, under a new head
  data.train=FILE  data.validation=FILE             rows; data.columns='{text: body, label: stars}' where names are others
  data.sequence_length=128                          tokens at most
  train.epochs=3  train.global_batch=32             length of the run, samples a step
  optim.lr=2e-5  optim.layer_decay=0.9              learning rate, smaller in the layers further down
  checkpoint.keep_best=accuracy                     keeps the checkpoint that is best by a measure
"""

import sys
from functools import partial
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.cli.glue import glue_sweep
from dist_plm.cli.glue.glue_cells import asks_for_glue
from dist_plm.cli.sweeps import local_sweep
from dist_plm.config.decode import encode
from dist_plm.config.origins import Origin, complete
from dist_plm.spec.schema_finetune import FinetuneConfig


def run(config: FinetuneConfig, origins: dict[str, Origin]) -> int | None:
    # They import torch, which --help and --check do without.
    from dist_plm.cluster.preflight import look
    from dist_plm.tasks.evaluate.in_training import more_measures
    from dist_plm.tasks.samples.first_example import tell_first_example
    from dist_plm.train.build import run_training

    return run_training(
        config,
        overrides=app.settings_given(sys.argv[1:]),
        preflight=look,
        command="finetune",
        measuring=more_measures,
        showing=tell_first_example,
        origins=partial(complete, origins, encode(config)),
    )


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    if asks_for_glue(sys.argv[1:]):
        glue_sweep.main()
    local_sweep.main(FinetuneConfig, "finetune", run, __doc__)


if __name__ == "__main__":
    main()
