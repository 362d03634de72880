"""Lets a model go on with a text, or fill in what is masked.

    python launch/generate.py from=runs/gpt prompt="To be" max_new_tokens=50
    python launch/generate.py from=runs/gpt prompt="To be" temperature=0.8 top_p=0.95 samples=3
    python launch/generate.py from=downloads/gpt2 prompts=prompts.txt out=answers.jsonl num_beams=4
    python launch/generate.py from=runs/bert prompt="The [MASK] sat"
    python launch/generate.py from=runs/chat chat=true        talks in the terminal, turn by turn
    torchrun --nproc-per-node 2 launch/generate.py from=runs/gpt prompt="To be" parallel.tensor=2

from= is a run, a checkpoint of one, or a directory of Hugging Face. Without temperature= the most likely token is taken. What
is drawn depends on seed= and on the number of the row alone: not on the batch, nor on the ranks. One process takes
Transformers' own generation where it has a class for the model; tensor and pipeline ranks share the model otherwise.

Of t5 the decoder writes; <extra_id_0>, <extra_id_1>, … in the prompt stand for the spans that it is to fill in.
"""

from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.origins import Origin
from dist_plm.spec.inference.schema import GenerateConfig


def run(config: GenerateConfig, origins: dict[str, Origin]) -> int | None:
    # It imports torch, which --help and --check do without.
    from dist_plm.tasks.generate.converse import converse
    from dist_plm.tasks.generate.generate import generate

    return converse(config) if config.talks else generate(config)


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(GenerateConfig, "generate", run, __doc__)


if __name__ == "__main__":
    main()
