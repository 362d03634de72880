"""Looks for false alarms of train.heal at its defaults: clean runs of all families, each with AdamW and with LAMB.

    python bench/false_alarms.py                          five to ten minutes
    python bench/false_alarms.py --steps 80 --families gpt

The runs are tiny and their data a text of words with rules; --seed gives others. Prints the largest z-scores of losses and of
norms, as judged by the steps before, and the alarms. Ends with 1 where there was one.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.schema_run import HealConfig
from dist_plm.train.healing.spikes import z_score

ROOT = Path(__file__).parents[1]
#: By family, the experiment whose objective and schedule it is trained by.
FAMILIES = {
    "gpt": "quickstart",
    "bert": "quickstart_bert",
    "roberta": "quickstart_roberta",
    "electra": "quickstart_electra",
    "t5": "quickstart_t5",
}
#: How their text is tokenized.
TOKENIZERS = {
    "gpt": [],
    "bert": ["tokenizer=wordpiece", "data.sentences=true"],
    "roberta": ["tokenizer=bpe_roberta"],
    "electra": ["tokenizer=wordpiece"],
    "t5": ["tokenizer=unigram"],
}
RATES = {"adamw": 1e-3, "lamb": 2e-3}
SIZES = ("model.layers=2", "model.hidden=64", "model.heads=2", "data.sequence_length=64", "data.loader_workers=0")


def largest_scores(records: list[dict[str, Any]]) -> tuple[float, float]:
    """Gives the largest z-scores of losses and of norms, each judged by the steps before as a run does."""
    window, loss, norm = HealConfig().window, 0.0, 0.0
    losses = [record["loss"] for record in records]
    norms = [math.log(record["grad_norm"]) for record in records]
    for place in range(window // 2, len(records)):
        before = slice(max(place - window, 0), place)
        loss = max(loss, z_score(losses[place], losses[before], share=True))
        norm = max(norm, z_score(norms[place], norms[before], share=False))
    return loss, norm


def make_text(path: Path, seed: int) -> None:
    """Writes documents of sentences whose words depend on each other, so that there is something to learn."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(400)]
    follows = {word: draw.choices(words, k=6) for word in words}
    with path.open("w") as file:
        for _ in range(600):
            word, sentences = draw.choice(words), []
            for _ in range(draw.randint(4, 20)):
                sentence = []
                for _ in range(draw.randint(4, 16)):
                    word = draw.choice(follows[word])
                    sentence.append(word)
                sentences.append(" ".join(sentence).capitalize() + ".")
            file.write(json.dumps({"text": " ".join(sentences)}) + "\n")


def launch(script: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / script, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each run (300)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="all unless given")
    parser.add_argument("--seed", type=int, default=1, help="of text and runs (1)")
    args = parser.parse_args()
    alarms = 0
    print("family    optimizer  largest z of losses, of norms  alarms", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_text(Path(folder, "text.jsonl"), args.seed)
        for family in args.families:
            store = prepare(folder, family)
            for optim, rate in RATES.items():
                run_dir = Path(folder, f"{family}_{optim}")
                words = [
                    f"experiment={FAMILIES[family]}",
                    f"optim={optim}",
                    f"optim.lr={rate}",
                    f"data.path={store}",
                    *SIZES,
                ]
                words += [
                    "train.global_batch=16",
                    "train.micro_batch=16",
                    f"train.steps={args.steps}",
                    f"run.dir={run_dir}",
                ]
                words += ["train.eval_samples=0", "train.eval_every=0", f"train.seed={args.seed}", "train.log_every=1"]
                words += ["schedule.warmup_ratio=0.1", "schedule.warmup_steps=null"]
                launch("pretrain.py", *words, "checkpoint.every=0", "checkpoint.at_end=false", "cluster.peak_tflops=1")
                records = read_metrics(run_dir / "metrics.jsonl")
                found = int(sum(record.get("heal/alarms", 0) for record in records))
                loss, norm = largest_scores(records)
                print(f"{family:<9} {optim:<9} {loss:>20.1f} {norm:>8.1f} {found:>8}", flush=True)
                alarms += found
    sys.exit(1 if alarms else 0)


def prepare(folder: str, family: str) -> str:
    """Makes the store that a family's experiment reads; gives its path."""
    words = [f"data.sources=[{{path: {folder}/text.jsonl}}]", f"data.out={folder}/store_{family}", "data.workers=1"]
    words += ["data.split=[0.9,0.05,0.05]", "tokenizer.vocab_size=512", *TOKENIZERS[family]]
    launch("prepare_data.py", *words)
    return f"{folder}/store_{family}"


if __name__ == "__main__":
    main()
