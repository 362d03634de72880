"""Measures how well a model knows a text: perplexity, bits per byte, accuracy.

    python launch/evaluate.py from=runs/gpt data.path=corpus/mine
    python launch/evaluate.py from=downloads/gpt2 data.text=wiki.test.raw documents=joined stride=512
    python launch/evaluate.py from=runs/bert data.path=corpus/mine limit=100 samples=5
    torchrun --nproc-per-node 4 launch/evaluate.py from=runs/gpt data.path=corpus/mine parallel.tensor=2 out=results.json
    python launch/evaluate.py from=runs/t5 on=objective data.path=corpus/mine
    python launch/evaluate.py on=contamination from=runs/gpt data.path=corpus/mine
    python launch/evaluate.py from=runs/summaries on=task data.rows=test.jsonl predictions=written.jsonl
    python launch/evaluate.py from=runs/gpt data.path=corpus/law trackers=true name=law
    torchrun --nproc-per-node 8 launch/evaluate.py from=runs/gpt on=lm_eval tasks=[lambada_openai,hellaswag,arc_*]

from= is a run, a checkpoint of one, or a directory of Hugging Face. Results do not depend on the number of ranks, and memory
not on the number of documents.

on=perplexity reads each document from its beginning, behind the token that ends the one before, in windows that no token is in
twice: word_perplexity, byte_perplexity and bits_per_byte are those of lm-evaluation-harness. stride=N gives each token more of
what stands before it, documents=joined reads all as one text, as in the Hugging Face guide on perplexity. Masked models give
pseudo-perplexity (Salazar et al. 2020), where each token is masked in turn. on=objective gives the losses of training, on=probe
what a logistic regression learns from hidden states, on=contamination how much of the set stands in the training text.
on=lm_eval asks tasks of lm-evaluation-harness (pip install 'dist_plm[lm_eval]'), whose data come from where each says.
"""

from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.origins import Origin
from dist_plm.spec.inference.schema import EvaluateConfig


def run(config: EvaluateConfig, origins: dict[str, Origin]) -> int | None:
    # It imports torch, which --help and --check do without.
    from dist_plm.tasks.evaluate.evaluate import evaluate

    return evaluate(config)


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(EvaluateConfig, "evaluate", run, __doc__)


if __name__ == "__main__":
    main()
