"""Part (c) of bench/data.py: pairs for BERT."""

from dataclasses import replace
from pathlib import Path

from data_common import line


def pairs(folder: Path, *, quick: bool) -> None:
    import corruption as shared
    import torch
    import torch.distributed as dist

    from dist_plm.data.loader.microbatch_loader import MicrobatchLoader
    from dist_plm.data.sampling.pairs import PairDataset
    from dist_plm.data.store.splits import StoreSplit
    from dist_plm.data.store.store import TokenStore
    from dist_plm.objectives.build import build_objective
    from dist_plm.spec.objectives import OBJECTIVES

    print("\n(c) masked pairs for BERT from a store, batches of 64, samples a second of one core")
    torch.set_num_threads(1)
    if quick:
        shared.ROUNDS = 3
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    shared.write_corpus(folder / "corpus")
    store = TokenStore.open(folder / "corpus")

    def batches_of(data, collate):  # as a training step gets them, made in this process
        grid = {"micro_batch": shared.BATCH, "global_batch": shared.BATCH, "data_rank": 0, "data_size": 1}
        return iter(MicrobatchLoader(data, collate, **grid, start_step=0, stop_step=10**9))

    for length in (128, 512):
        objective = build_objective(
            OBJECTIVES["mlm_nsp"](name="mlm_nsp"), shared.special_tokens(), seed=1, sequence_length=length
        )
        data = PairDataset(StoreSplit.whole(store), window_length=objective.window_length(length), seed=1)
        ours = batches_of(data, objective.collate)
        sides = [
            shared.Side("ours", lambda n, batches=ours: next(batches)),
            shared.megatron(folder / "corpus", length, "Megatron-core, BERTMaskedWordPieceDataset", whole_words=False),
            *(replace(side, name=f"{side.name}, no pairs") for side in shared.hugging_face(store, length)[:2]),
            shared.our_windows(store, length, "ours, no pairs: what Hugging Face's does"),
        ]
        rates = shared.measure(sides)
        best = max(rate for name, rate in rates.items() if not name.startswith("ours"))
        for name, rate in rates.items():
            ours = name.startswith("ours")
            goal = (">= 5x the better", rate >= 5 * best) if ours else ("", None)
            line(f"{length} tokens: {name}", f"{rate:,.0f}{f' ({rate / best:.1f}x)' if ours else ''}", *goal)
    dist.destroy_process_group()
