"""Names in Chinese sentences, learned from nothing by ours and by a plain loop over Transformers' model of the same size.

    python launch/fetch_quickstart.py --tagged && OMP_NUM_THREADS=1 .venv/bin/python bench/finetune_tag.py --seeds 5 --steps 300

Each side has an order, initial weights and dropout of its own; the loss of a character and the entity F1 (seqeval's) are of the
first rows held out. Few steps find no names yet: then the loss alone tells. With `--position rotary`, which finds names
sooner, the plain loop's model is Transformers' RoFormer: BERT but for its positions.
"""

import argparse
import itertools
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from finetune_sides import BATCH, LENGTH, Ours, PlainLoop
from seqeval.metrics import f1_score

TAGS = [f"{side}-{kind}" for side in "BI" for kind in ("LOC", "ORG", "PER")] + ["O"]
RATE, SIZES = 2e-3, {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}


def rows_at(data: Path, name: str, most: int | None = None) -> list[dict[str, Any]]:
    with (data / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, most)]


def encoded(tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    """A batch whose characters are a token each; those of the frame, of padding and beyond the length are not learned."""
    words = [row["tokens"] for row in rows]
    batch = tokenizer(
        words, is_split_into_words=True, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
    )
    labels = torch.full_like(batch["input_ids"], -100)
    for number, row in enumerate(rows):
        for place, word in enumerate(batch.word_ids(number)):
            if word is not None:
                labels[number, place] = TAGS.index(row["tags"][word])
    return {**batch, "labels": labels}


def plain_run(data: Path, *, position: str, seed: int, steps: int, eval_rows: int) -> dict[str, float]:
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "tokenizer")
    known = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "num_labels": len(TAGS), **SIZES}
    if position == "rotary":
        model: Any = transformers.RoFormerForTokenClassification(transformers.RoFormerConfig(**known))
    else:
        model = transformers.BertForTokenClassification(transformers.BertConfig(**known))
    plain = PlainLoop(model, tokenizer, steps=steps, lr=RATE)
    train = rows_at(data, "train")
    loader: Any = torch.utils.data.DataLoader(
        train, BATCH, shuffle=True, collate_fn=lambda rows: encoded(tokenizer, rows)
    )
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        plain.learn(batch)
    plain.model.eval()
    held_out, truth, said, loss = rows_at(data, "dev", eval_rows), [], [], 0.0
    with torch.no_grad():
        for first in range(0, len(held_out), BATCH):
            batch = encoded(tokenizer, held_out[first : first + BATCH])
            labels, outputs = batch["labels"], plain.model(**batch)
            loss += float(outputs.loss) * int((labels >= 0).sum())
            for row, predicted in zip(labels, outputs.logits.argmax(-1), strict=True):
                truth.append([TAGS[label] for label in row.tolist() if label >= 0])
                said.append(
                    [TAGS[one] for label, one in zip(row.tolist(), predicted.tolist(), strict=True) if label >= 0]
                )
    return {"loss": loss / sum(map(len, truth)), "f1": float(f1_score(truth, said))}


def our_run(data: Path, *, position: str, seed: int, steps: int, eval_rows: int) -> dict[str, float]:
    words = [
        "task=tag",
        "model=bert_tiny",
        "model.layers=2",
        "model.hidden=128",
        "model.heads=4",
        f"model.position={position}",
        "model.norm_eps=1e-12",
    ]
    words += ["model.hidden_dropout=0.1", "model.attention_dropout=0.1", f"optim.lr={RATE}"]
    words += [f"data.train={data}/train.jsonl", f"data.validation={data}/dev.jsonl", f"data.tokenizer={data}/tokenizer"]
    run = Ours(data, seed=seed, steps=steps, eval_rows=eval_rows, fresh=True, instead=words)
    for _ in range(steps):
        run.step()
    found = run.evaluate()
    return {name: found[name] for name in ("loss", "f1")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("corpus/quickstart/tag"))
    for name, default in {"seeds": 5, "steps": 300, "eval-rows": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--position", choices=("learned", "rotary"), default="learned")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.utils.logging.set_verbosity_error()
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain loop": []}
    for seed in range(args.seeds):
        known = {"position": args.position, "seed": seed, "steps": args.steps, "eval_rows": args.eval_rows}
        found["plain loop"].append(plain_run(args.data, **known))
        found["ours"].append(our_run(args.data, **known))
        print(f"seed {seed}: { ({name: values[-1] for name, values in found.items()}) }", flush=True)
    for name, measure in itertools.product(found, ("loss", "f1")):
        values = [one[measure] for one in found[name]]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: {measure} {statistics.mean(values):.4f}, standard deviation {spread:.4f}, {len(values)} seeds")


if __name__ == "__main__":
    main()
