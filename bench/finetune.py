"""Fine-tuning, evaluating and writing beside plain Transformers on the same cores: samples and tokens a second, and accuracy.

    python launch/fetch_quickstart.py --labelled && OMP_NUM_THREADS=1 .venv/bin/python bench/finetune.py
    OMP_NUM_THREADS=1 .venv/bin/python bench/finetune.py --seeds 5 --steps 100
    OMP_NUM_THREADS=1 .venv/bin/python bench/finetune.py --same 20

Both sides are one process that takes turns with itself: some steps of ours inside the callback of Transformers' Trainer, after
as many of its own, of the same model, rows, lengths and batch. Trainer pads to the longest row of a batch of 32
(DataCollatorWithPadding), ours to that of a microbatch of 16. Rounds are compared one by one, and their median told. Writing is
that of a small GPT-2 with random weights, greedy: our loop for process grids beside `generate` (on one process ours is
`generate` itself).

With --seeds, ours, a plain loop over Transformers' model and ours from random weights learn a little, and tell their accuracy
on rows held out. With --same, ours and a plain loop learn the same rows from the same weights without dropout, and tell by how
much their losses differ. Seconds are those of the process on all its cores, which others on the machine change little.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from finetune_sides import BATCH, Ours, classifier, plain_run, rows_at, same_steps
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from dist_plm.distributed.device import choose
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.batches import PromptBatch
from dist_plm.tasks.generate.generate import decoding_of
from dist_plm.tasks.generate.on_grid import GridWriter
from dist_plm.tasks.generate.prompts import PromptRow
from dist_plm.tasks.inference.open_model import build_runner, find_model

#: Seconds of this process on all cores: others on the machine change them little.
CLOCK = time.process_time


class InTurns(TrainerCallback):
    """Times the steps of the Trainer, and as many of another side after each round of them."""

    def __init__(self, other: Callable[[], None], each: int) -> None:
        self.other, self.each = other, each
        self.seconds: list[tuple[float, float]] = []
        self.since = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.since = CLOCK()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.each:
            return
        now = CLOCK()
        for _ in range(self.each):
            self.other()
        after = CLOCK()
        self.seconds.append((now - self.since, after - now))
        self.since = after


def bench_training(args: argparse.Namespace, data: Path) -> None:
    steps = (args.rounds + 1) * args.each
    ours = Ours(data, seed=0, steps=steps, eval_rows=args.eval_rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "model")
    turns = InTurns(ours.step, args.each)
    settings = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, max_steps=steps,
        learning_rate=1e-4, lr_scheduler_type="linear", report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        classifier(data), settings, transformers.DataCollatorWithPadding(tokenizer), rows_at(data, "train", tokenizer),
        rows_at(data, "dev", tokenizer, args.eval_rows), callbacks=[turns],
    )  # fmt: skip
    trainer.train()
    told("training, samples/s", turns.seconds[1:], BATCH * args.each)
    told("evaluating, samples/s", in_turns(trainer.evaluate, ours.evaluate, args.rounds), args.eval_rows)


def bench_writing(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = {"<|endoftext|>": 0, **{f"w{i}": i for i in range(1, 8000)}}
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<|endoftext|>"))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        plain.save(f"{folder}/tokenizer.json")
        sizes: Any = {"n_layer": 6, "n_embd": 384, "n_head": 6, "vocab_size": 8000, "n_positions": 256}
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        theirs: Any = transformers.GPT2LMHeadModel(config).eval()
        theirs.save_pretrained(folder)
        asked = GenerateConfig(from_=folder, prompt="", max_new_tokens=args.new_tokens)
        init_process_group(from_environment({}), choose("cpu", 0), timedelta(minutes=10))
        session = find_model(asked, from_environment({}), choose("cpu", 0), timedelta(minutes=10))
        rows = [[(7 * row + 13 * place) % 7999 + 1 for place in range(32)] for row in range(16)]
        batch = PromptBatch(tuple(PromptRow(i, "", tuple(row), args.new_tokens) for i, row in enumerate(rows)))
        decoding, writer = decoding_of(asked, session), GridWriter(build_runner(session))
        tokens: Tensor = batch.padded()[0]
        found: dict[str, Any] = {}

        def generate() -> None:
            found["theirs"] = theirs.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=args.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )

        def write() -> None:
            found["ours"] = writer.write(batch, decoding)

        pairs = in_turns(generate, write, args.rounds)
        same = [tuple(row[32:].tolist()) == one.tokens for row, one in zip(found["theirs"], found["ours"], strict=True)]
        told(
            f"writing, tokens/s ({sum(same)} of {len(same)} answers the same)",
            pairs,
            len(rows) * args.new_tokens,
        )


def seconds(act: Callable[[], Any]) -> float:
    start = CLOCK()
    act()
    return CLOCK() - start


def in_turns(theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> list[tuple[float, float]]:
    """Times calls of both sides, half as many as there are rounds and at least one, after one that is not counted."""
    return [(seconds(theirs), seconds(ours)) for _ in range(max(1, rounds // 2) + 1)][1:]


def told(what: str, pairs: list[tuple[float, float]], amount: int) -> None:
    """Prints amounts a second of both sides, and by how much ours is quicker in each round: median, least and most."""
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    theirs, ours = (amount / statistics.median(side) for side in zip(*pairs, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(
        f"{what}: Transformers {theirs:,.1f}, ours {ours:,.1f}: {statistics.median(ratios):.2f} x ({spread})",
        flush=True,
    )


def compare_accuracy(args: argparse.Namespace, data: Path) -> None:
    with (data / "dev.csv").open(encoding="utf-8") as file:  # all of them: they are sorted by what they say
        known = {"steps": args.steps, "eval_rows": sum(1 for _ in csv.DictReader(file))}
    found: dict[str, list[float]] = {"ours": [], "plain loop": [], "ours from random weights": []}
    for seed in range(args.seeds):
        found["plain loop"].append(plain_run(data, seed=seed, **known))
        for name, fresh in (("ours", False), ("ours from random weights", True)):
            run = Ours(data, seed=seed, fresh=fresh, **known)
            for _ in range(args.steps):
                run.step()
            found[name].append(run.evaluate()["accuracy"])
        print({name: [round(one, 4) for one in values] for name, values in found.items()}, flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: accuracy {statistics.mean(values):.3f}, standard deviation {spread:.3f}, {len(values)} seeds")


def compare_losses(args: argparse.Namespace, data: Path) -> None:
    losses = same_steps(data, steps=args.same)
    for step, (plain, ours) in enumerate(losses, 1):
        print(f"step {step}: plain loop {plain:.7f}, ours {ours:.7f}, relative {abs(ours - plain) / plain:.1e}")
    print(f"largest difference: {max(abs(ours - plain) / plain for plain, ours in losses):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("corpus/quickstart/classify"))
    counts = {"rounds": 6, "each": 4, "eval-rows": 320, "new-tokens": 48, "seeds": 0, "steps": 40, "same": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.utils.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    if args.same:
        compare_losses(args, args.data)
        return
    if args.seeds:
        compare_accuracy(args, args.data)
        return
    bench_training(args, args.data)
    shutdown()
    bench_writing(args)


if __name__ == "__main__":
    main()
