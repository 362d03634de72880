"""What encoders save: the language-model head at the predicted positions alone, and short documents packed into full rows.

    make corpus && .venv/bin/python bench/encoders.py
    python bench/encoders.py --texts 'my/*.txt' --hidden 768 --layers 12 --heads 12 --vocab 30522

The head is timed with its backward pass, at 15 % of the positions and at all of them; memory is the peak of live tensors,
counted as they come and go. Packing: documents are the blocks between blank lines of --texts, 4 bytes a token, cut at the
sequence's length. Padded rows hold one each, packed rows as many as fit, first fit in the order of the text. Both sides see
the same documents in turns, forward and backward; tokens are those of the documents, padding not counted. A third side pads
batches to their longest row only, documents sorted by length: what packing is worth beside the best of padding.
"""

import argparse
import glob
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_plm.config.decode import decode
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import init_process_group, shutdown
from dist_plm.models.build import build_model
from dist_plm.models.encoder import MaskedLanguageModel
from dist_plm.models.layers.vocab_loss import score_tokens
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig

MASK_RATE = 0.15
BYTES_A_TOKEN = 4


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made within it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def build(args: argparse.Namespace) -> MaskedLanguageModel:
    values = {
        "run": {"name": "bench"},
        "model": {
            "family": "roberta",
            "layers": args.layers,
            "hidden": args.hidden,
            "heads": args.heads,
            "vocab_size": args.vocab,
            "norm_placement": "post",
            "activation": "gelu",
        },
        "objective": {"name": "mlm"},
        "data": {"path": "none", "sequence_length": args.sequence},
        "optim": {"name": "adamw", "lr": 1e-4},
        "schedule": {"name": "constant"},
        "engine": {"name": "megatron"},
        "precision": {"name": args.precision},
        "train": {"steps": 1, "global_batch": args.batch, "micro_batch": args.batch},
    }
    config = finalize(decode(PretrainConfig, values), world_size=1, vocab_size=None)
    env = from_environment({})
    device = choose("auto", env.local_rank)
    timeout = timedelta(minutes=10)
    init_process_group(env, device, timeout)
    groups = build_groups(Grid(data=1, tensor=1, pipeline=1, context=1), device, timeout=timeout)
    (chunk,), _ = build_model(
        config.model, config.parallel, config.precision, groups, device.torch_device, seed=config.train.seed
    )
    assert isinstance(chunk, MaskedLanguageModel)
    return chunk


def bench_head(model: MaskedLanguageModel, args: argparse.Namespace) -> None:
    shape = (args.sequence, args.batch)
    device, dtype = model.shared.device, model.shared.dtype
    labels = torch.randint(0, args.vocab, shape[::-1], device=device)
    labels[torch.rand(shape[::-1], device=device) >= MASK_RATE] = -1
    hidden = torch.randn(*shape, args.hidden, device=device, dtype=dtype, requires_grad=True)

    def predicted_alone() -> None:
        scores = model.score(hidden, {"labels": labels}, SequenceContext(causal=False))
        assert isinstance(scores, dict)
        scores["labels"].loss.backward()

    def everywhere() -> None:
        logits = model.logits(model.transform(hidden))
        score_tokens(logits, labels.transpose(0, 1), model.shared, evaluate=False).loss.backward()

    sides = {"predicted positions": predicted_alone, "all positions": everywhere}
    seconds = in_turns(sides, args.rounds, device)
    peaks = {}
    for name, side in sides.items():
        with PeakMemory() as memory:
            side()
        peaks[name] = memory.peak / 2**20
    print(f"\nhead over {args.vocab:,} tokens, hidden {args.hidden}, {args.batch} x {args.sequence}, {args.precision}")
    for name in sides:
        print(f"  {name:20} {seconds[name] * 1e3:9.1f} ms {peaks[name]:9.0f} MiB")
    first, second = sides
    print(f"  gain {seconds[second] / seconds[first]:26.1f} x {peaks[second] / peaks[first]:9.1f} x")


def lengths_of(pattern: str, longest: int) -> list[int]:
    """Tokens of each block between blank lines, and the two that frame it."""
    files = sorted(glob.glob(pattern))
    if not files:
        raise SystemExit(f"no file matches --texts {pattern!r}: run `make corpus`, or name texts of your own")
    blocks = [block for file in files for block in Path(file).read_text(encoding="utf-8").split("\n\n")]
    sizes = [len(block.strip().encode()) for block in blocks]
    return [min(2 + -(-size // BYTES_A_TOKEN), longest) for size in sizes if size]


def first_fit(lengths: Sequence[int], room: int, reach: int = 64) -> list[list[int]]:
    """Rows of document lengths, each at most `room` together; the last `reach` rows are still open."""
    rows: list[list[int]] = []
    for length in lengths:
        row = next((row for row in rows[-reach:] if sum(row) + length <= room), None)
        if row is None:
            rows.append(row := [])
        row.append(length)
    return rows


def batch_of(rows: Sequence[Sequence[int]], width: int, vocab: int, device: torch.device) -> Batch:
    """Random tokens, 15 % of them predicted, in rows of documents of these lengths, padded to `width`."""
    tokens = torch.randint(5, vocab, (len(rows), width))
    lengths = torch.tensor([sum(row) for row in rows])
    inside = torch.arange(width) < lengths[:, None]
    labels = torch.where(inside & (torch.rand(tokens.shape) < MASK_RATE), tokens, -1)
    batch = {"tokens": tokens, "labels": labels, "lengths": lengths}
    if any(len(row) > 1 for row in rows):
        documents = [[d for d, n in enumerate(row) for _ in range(n)] for row in rows]
        positions = [[p for n in row for p in range(n)] for row in rows]
        batch["documents"] = _filled(documents, width, last=True).int()
        batch["positions"] = _filled(positions, width, last=False)
    return {name: t.to(device) for name, t in batch.items()} | {"samples": torch.arange(len(rows))}


def _filled(rows: Sequence[Sequence[int]], width: int, *, last: bool) -> Tensor:
    return torch.tensor([[*row, *[row[-1] + 1 if last else 0] * (width - len(row))] for row in rows])


def bench_packing(model: MaskedLanguageModel, args: argparse.Namespace) -> None:
    lengths = lengths_of(args.texts, args.sequence)
    draw = torch.Generator().manual_seed(0)
    chosen = [lengths[i] for i in torch.randperm(len(lengths), generator=draw)[: args.documents].tolist()]
    packed, by_length = first_fit(chosen, args.sequence), sorted(chosen)
    device, size = model.shared.device, args.batch

    def batches(rows: Sequence[Sequence[int]], *, trim: bool) -> list[Batch]:
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        unit = max if trim else (lambda _: args.sequence)
        return [batch_of(part, unit([sum(row) for row in part]), args.vocab, device) for part in parts]

    data = {
        "padded to the longest possible": batches([[n] for n in chosen], trim=False),
        "padded, sorted by length": batches([[n] for n in by_length], trim=True),
        "packed": batches(packed, trim=False),
    }

    def runner(side: list[Batch]) -> Callable[[], None]:
        def run() -> None:
            for batch in side:
                model(batch)["labels"].loss.backward()

        return run

    seconds = in_turns({name: runner(side) for name, side in data.items()}, args.rounds, device)
    total = sum(chosen)
    print(
        f"\n{len(chosen):,} documents of {statistics.median(chosen):.0f} tokens (median; mean {statistics.mean(chosen):.0f}) "
        f"in rows of {args.sequence}; {args.layers} layers of {args.hidden}, forward and backward"
    )
    slowest = max(seconds.values())
    for name, side in data.items():
        places = sum(batch["tokens"].numel() for batch in side)
        rate = total / seconds[name]
        print(f"  {name:32} {rate:10,.0f} tokens/s {total / places:6.0%} full {slowest / seconds[name]:6.1f} x")


def in_turns(sides: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    model = build(args)
    bench_head(model, args)
    bench_packing(model, args)
    shutdown()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", default="corpus/quickstart/raw/*.txt")
    parser.add_argument("--precision", default="fp32")
    for name, default in [
        ("layers", 4),
        ("hidden", 256),
        ("heads", 4),
        ("vocab", 30_522),
        ("sequence", 256),
        ("batch", 8),
        ("documents", 512),
        ("rounds", 5),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
