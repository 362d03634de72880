"""Fine-tuning, evaluating and writing beside plain Transformers on the same cores: samples and tokens a second, and accuracy.

    python launch/fetch_quickstart.py --labelled && OMP_NUM_THREADS=1 .venv/bin/python bench/finetune.py
    OMP_NUM_THREADS=1 .venv/bin/python bench/finetune.py --seeds 3 --steps 30

Both sides are one process that takes turns with itself: some steps of ours inside the callback of Transformers' Trainer, after
as many of its own, of the same model, rows, lengths and batch. Trainer pads to the longest row of a batch of 32
(DataCollatorWithPadding), ours to that of a microbatch of 16. Rounds are compared one by one, and their median told. Writing is
that of a small GPT-2 with random weights, greedy: our loop for process grids beside `generate` (on one process ours is
`generate` itself).

With --seeds, ours, a plain loop over Transformers' model and ours from random weights learn a little, and tell their accuracy
on rows held out. Seconds are those of the process on all its cores, which others on the machine change little.
"""

import argparse
import csv
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from dist_plm.cli.app import load
from dist_plm.distributed.device import choose
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.tasks.generate.batches import PromptBatch
from dist_plm.tasks.generate.generate import _decoding
from dist_plm.tasks.generate.on_grid import GridWriter
from dist_plm.tasks.generate.prompts import PromptRow
from dist_plm.tasks.inference.open_model import build_runner, find_model
from dist_plm.train.build import engine_settings, grid_of
from dist_plm.train.data import open_run
from dist_plm.train.loop import Position
from dist_plm.train.parts import build_evaluator, open_loader
from dist_plm.train.startup.arithmetic import prepare_cpu
from dist_plm.train.startup.load_weights import load_weights, open_weights

BATCH, LENGTH = 32, 64
#: Seconds of this process on all cores: others on the machine change them little.
CLOCK = time.process_time


class Ours:
    """Holds a fine-tuning run of ours without its loop."""

    def __init__(self, data: Path, *, seed: int, steps: int, eval_rows: int, fresh: bool = False) -> None:
        words = [f"model.init_from={data}/model", f"data.train={data}/train.csv", f"data.validation={data}/dev.csv"]
        words += [f"train.steps={steps}", "train.epochs=null", f"train.eval_samples={eval_rows}", f"train.seed={seed}"]
        words += [
            f"train.global_batch={BATCH}",
            "train.micro_batch=16",
            f"data.sequence_length={LENGTH}",
            "optim.lr=1e-4",
        ]
        words += ["cluster.device=cpu", "data.loader_workers=0", "optim.weight_decay=0", "train.eval_every=0"]
        config, _ = load(FinetuneConfig, "finetune", words)
        self.config, self.data = open_run(config, 1)
        config = self.config
        env = from_environment({})
        device = choose("cpu", 0)
        timeout = timedelta(minutes=10)
        shutdown()  # of the run before
        init_process_group(env, device, timeout)
        self.groups = build_groups(grid_of(config.parallel), device, timeout=timeout)
        prepare_cpu(config.precision.name, self.groups, env, os.environ)
        sections = config.model, config.parallel, config.precision
        model, shards = build_model(*sections, self.groups, device.torch_device, seed=seed)
        losses = self.data.objective.losses
        self.engine = build_engine(engine_settings(config), self.groups, device.torch_device, model, losses)
        if not fresh:
            weights = open_weights(str(data / "model"), self.groups.world)
            load_weights(weights, config.model, None, self.engine, shards, self.groups.world, seed=seed)
        self.batches = open_loader(self.data, config.data, config.train, Position(), self.groups)
        self.done = 0

    def step(self) -> None:
        self.done += 1
        train, schedule = self.config.train, self.config.schedule
        rate = learning_rate(schedule, step=self.done, steps=train.steps or 1, peak=self.config.optim.lr)
        self.engine.train_step(list(itertools.islice(self.batches, BATCH // train.micro_batch)), rate)

    def evaluate(self) -> dict[str, float]:
        evaluator = build_evaluator(self.config.train, self.data, self.groups, Path(tempfile.gettempdir()), None)
        assert evaluator is not None
        return evaluator(self.engine, lambda: None)


def rows_at(data: Path, name: str, tokenizer: Any, most: int | None = None) -> datasets.Dataset:
    rows = list(csv.DictReader((data / f"{name}.csv").open(encoding="utf-8")))[:most]
    labels = {"negative": 0, "positive": 1}
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH)
    return datasets.Dataset.from_dict({**encoded, "labels": [labels[row["label"]] for row in rows]})


def classifier(data: Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(data / "model", num_labels=2)


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
        logging_strategy="no", optim="adamw_torch",
    )  # fmt: skip
    trainer = transformers.Trainer(
        classifier(data), settings, transformers.DataCollatorWithPadding(tokenizer), rows_at(data, "train", tokenizer),
        rows_at(data, "dev", tokenizer, args.eval_rows), callbacks=[turns],
    )  # fmt: skip
    trainer.train()
    told("training, samples/s", turns.seconds[1:], BATCH * args.each)
    pairs = []
    for _ in range(args.rounds // 2 + 1):
        pairs.append((seconds(trainer.evaluate), seconds(ours.evaluate)))
    told("evaluating, samples/s", pairs[1:], args.eval_rows)


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
        decoding, writer = _decoding(asked, session), GridWriter(build_runner(session))
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

        pairs = [(seconds(generate), seconds(write)) for _ in range(args.rounds // 2 + 1)]
        same = [tuple(row[32:].tolist()) == one.tokens for row, one in zip(found["theirs"], found["ours"], strict=True)]
        told(
            f"writing, tokens/s ({sum(same)} of {len(same)} answers the same)",
            pairs[1:],
            len(rows) * args.new_tokens,
        )


def seconds(act: Callable[[], Any]) -> float:
    start = CLOCK()
    act()
    return CLOCK() - start


def told(what: str, pairs: list[tuple[float, float]], amount: int) -> None:
    """Prints amounts a second of both sides, and by how much ours is quicker in each round: median, least and most."""
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    theirs, ours = (amount / statistics.median(side) for side in zip(*pairs, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(
        f"{what}: Transformers {theirs:,.1f}, ours {ours:,.1f}: {statistics.median(ratios):.2f} x ({spread})",
        flush=True,
    )


def plain_loop(data: Path, *, seed: int, steps: int, eval_rows: int) -> float:
    """Fine-tunes as Transformers' examples do without a Trainer, and returns the accuracy."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "model")
    model, collate = classifier(data), transformers.DataCollatorWithPadding(tokenizer)
    rows: Any = rows_at(data, "train", tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(0.06 * steps), steps)
    loader = torch.utils.data.DataLoader(rows, BATCH, shuffle=True, collate_fn=collate)
    model.train()
    for batch in itertools.islice(loader, steps):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    held_out: Any = rows_at(data, "dev", tokenizer, eval_rows)
    right = 0
    with torch.no_grad():
        for batch in torch.utils.data.DataLoader(held_out, BATCH, collate_fn=collate):
            labels = batch.pop("labels")
            right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(held_out)


def compare_accuracy(args: argparse.Namespace, data: Path) -> None:
    with (data / "dev.csv").open(encoding="utf-8") as file:  # all of them: they are sorted by what they say
        known = {"steps": args.steps, "eval_rows": sum(1 for _ in csv.DictReader(file))}
    found: dict[str, list[float]] = {"ours": [], "plain loop": [], "ours from random weights": []}
    for seed in range(args.seeds):
        found["plain loop"].append(plain_loop(data, seed=seed, **known))
        for name, fresh in (("ours", False), ("ours from random weights", True)):
            run = Ours(data, seed=seed, fresh=fresh, **known)
            for _ in range(args.steps):
                run.step()
            found[name].append(run.evaluate()["accuracy"])
        print({name: [round(one, 4) for one in values] for name, values in found.items()}, flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: accuracy {statistics.mean(values):.3f}, standard deviation {spread:.3f}, {len(values)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("corpus/quickstart/classify"))
    counts = {"rounds": 6, "each": 4, "eval-rows": 320, "new-tokens": 48, "seeds": 0, "steps": 40}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.utils.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    if args.seeds:
        compare_accuracy(args, args.data)
        return
    bench_training(args, args.data)
    shutdown()
    bench_writing(args)


if __name__ == "__main__":
    main()
