"""What each objective is given of a store: windows or pairs of the right length, and the refusals of stores that do not
serve, before any process group is made."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.storage import LATEST, LocalStorage, name_of
from dist_plm.core.errors import ConfigError, DataError
from dist_plm.data.store.store import TokenStoreWriter
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import BlendSource
from dist_plm.train.data import open_data, open_run, special_tokens, vocab_size_of
from tests.train.conftest import CORPUS, launch
from tests.train.running import make_store, settings

FAMILIES = {"mlm": "bert", "mlm_nsp": "bert", "mlm_sop": "bert", "rtd": "electra", "span": "t5", "causal": "gpt"}


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "store"
    arguments = [
        f"data.sources=[{{path: {CORPUS}/*.txt, max_chars: 512}}]",
        f"data.out={out}",
        "data.split=[0.6,0.2,0.2]",
    ]
    done = launch(
        [sys.executable, "launch/prepare_data.py", *arguments, "tokenizer=wordpiece", "tokenizer.vocab_size=300"]
    )
    assert done.returncode == 0, done.stderr
    return out


def config_of(path, objective, **changes):
    model = {"model__family": FAMILIES[objective], "model__vocab_size": None}
    if objective == "span":
        model |= {"model__position": "relative"}
    config = settings(path, "unused", objective__name=objective, **model, **changes)
    return finalize(config, world_size=1, vocab_size=vocab_size_of(str(path)) or 97)


def data_of(config):
    return open_data(config.data, config.objective, config.train, config.model)


def test_the_tokenizers_roles_reach_the_objective(wordpiece):
    special = special_tokens(str(wordpiece))
    assert special is not None
    assert special.pieces is not None
    named = {name: special.pieces[getattr(special, name)] for name in ("cls", "sep", "mask", "pad")}
    assert named == {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]"}
    assert special.continues is not None
    continuing = {piece for piece, continues in zip(special.pieces, special.continues, strict=True) if continues}
    assert continuing
    assert all(piece.startswith("##") for piece in continuing)
    assert special.vocab_size == vocab_size_of(str(wordpiece))


@pytest.mark.parametrize(("objective", "frame"), [("causal", 0), ("mlm", 2), ("rtd", 2)])
def test_documents_that_share_a_row_are_framed_each(wordpiece, objective, frame):
    masked = {"objective__document_mask": True, "data__packing": "best_fit", "data__sequence_length": 512}
    data = data_of(config_of(wordpiece, objective, **masked))
    windows = data.samples["train"].read(np.arange(40))
    assert windows.frame == frame
    batch = data.objective.collate(windows)
    special = special_tokens(str(wordpiece))
    assert special is not None
    if frame:
        begins = np.diff(batch["documents"], axis=1, prepend=-1) > 0
        begins[:, 1:] &= batch["tokens"][:, 1:] != special.pad
        assert begins.sum() > 40
        assert (batch["tokens"][begins] == special.cls).all()
    assert (
        data_of(config_of(wordpiece, objective, data__packing="best_fit")).samples["train"].read(np.arange(2)).frame
        == 0
    )


@pytest.mark.parametrize(("objective", "length"), [("causal", 16), ("mlm", 14), ("rtd", 14)])
def test_windows_are_as_long_as_the_objective_wants_them(wordpiece, objective, length):
    data = data_of(config_of(wordpiece, objective))
    assert set(data.samples) == {"train", "validation"}
    windows = data.samples["train"].read(np.arange(3))
    assert windows.tokens.shape == (3, length + 1)
    assert data.objective.collate(windows)["tokens"].shape == (3, 16)


def test_without_evaluation_only_the_training_text_is_opened(wordpiece):
    assert set(data_of(config_of(wordpiece, "mlm", train__eval_samples=0)).samples) == {"train"}


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        ("mlm_nsp", DataError, "no sentence boundaries"),
        ("span", ConfigError, "special tokens that the data's tokenizer does not have"),
    ],
)
def test_a_store_that_does_not_serve_is_refused(wordpiece, objective, error, words):
    with pytest.raises(error, match=words):
        data_of(config_of(wordpiece, objective))


def test_a_bare_pair_serves_causal_modelling_alone(tmp_path):
    store = make_store(tmp_path / "s")
    assert data_of(config_of(store, "causal")).samples["train"].read(np.arange(2)).tokens.shape == (2, 17)
    with pytest.raises(ConfigError, match="nothing is known of the data's tokenizer"):
        data_of(config_of(store, "mlm"))


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_data_that_are_not_there_lack_no_tokens(tmp_path, objective):
    with pytest.raises(DataError, match="there is neither such a directory nor"):
        data_of(config_of(tmp_path / "absent", objective))


@pytest.mark.parametrize(("objective", "both"), [("mlm_nsp", True), ("mlm_sop", False)])
def test_pairs_have_a_second_run_where_the_objective_reads_it(wordpiece, tmp_path, objective, both, monkeypatch):
    """The store of `wordpiece`, its text in sentences of 5 tokens."""
    draw = np.random.default_rng(0)
    with TokenStoreWriter(tmp_path / "s", np.dtype(np.uint16)) as writer:
        for _ in range(40):
            writer.add_document(draw.integers(10, 97, 50), [5] * 10)
    known = special_tokens(str(wordpiece))
    monkeypatch.setattr("dist_plm.train.data.special_tokens", lambda path: known)
    data = data_of(config_of(tmp_path / "s", objective, train__eval_samples=0, data__split=(1.0, 0.0, 0.0)))
    pairs = data.samples["train"].read(np.arange(4))
    assert (pairs.second is not None) == both
    batch = data.objective.collate(pairs)
    assert batch["tokens"].shape == (4, 16)
    assert set(batch) >= {"segments", "lengths", "pair_labels"}


@pytest.mark.parametrize("script", ["pretrain", "submit"])
def test_check_opens_the_data_where_it_is_at_hand(wordpiece, script):
    arguments = ["--check", f"data.path={wordpiece}", "model=t5_tiny", "objective=span"]
    more = ["nodes=1", "cluster=cpu"] if script == "submit" else []
    done = launch([sys.executable, f"launch/{script}.py", *arguments, *more])
    assert done.returncode == 2
    assert "special tokens that the data's tokenizer does not have (eos)" in done.stderr
    assert "Traceback" not in done.stderr


def test_shares_of_stores_that_have_splits_are_refused(wordpiece, tmp_path):
    bare = make_store(tmp_path / "bare")
    given = (0.5, 0.25, 0.25)
    with pytest.raises(
        DataError, match=r"data\.split = \[0\.5, 0\.25, 0\.25\] has no effect with .*store, prepared with splits"
    ):
        data_of(config_of(wordpiece, "causal", data__split=given))
    config = config_of(bare, "causal", data__split=given)
    for paths, refused in (((bare,), False), ((bare, wordpiece), False), ((wordpiece, wordpiece), True)):
        blend = tuple(BlendSource(path=str(path)) for path in paths)
        data = replace(config.data, path=None, blend=blend)
        with pytest.raises(DataError, match="has no effect") if refused else nullcontext():
            open_data(data, config.objective, replace(config.train, eval_samples=0), config.model)


@pytest.mark.parametrize("split", [(1.0, 0.0, 0.0), (0.001, 0.999, 0.0)])
def test_an_empty_split_says_what_it_is_for(tmp_path, split):
    config = config_of(make_store(tmp_path / "tokens"), "causal", data__split=split)
    with pytest.raises(DataError, match=r"split of .* holds 0 tokens, too few") as told:
        open_data(config.data, config.objective, config.train, config.model)
    _, found, advice = str(told.value).partition("train without evaluating, with ")
    assert bool(found) == (split[0] == 1.0)
    if found:
        changes = {name.replace(".", "__"): int(value) for name, value in (one.split("=") for one in advice.split())}
        data = data_of(config_of(tmp_path / "tokens", "causal", data__split=split, **changes))
        assert set(data.samples) == {"train"}


ASKED = {"train__global_batch": 16, "train__micro_batch": 2, "train__eval_samples": 0, "train__eval_every": 0}


def save_position(run_dir, engine):
    """A checkpoint after 4 steps of 4 samples, of which 4 more were skipped."""
    history = [{"step": 2, "changes": ["healed"], "skipped": [[8, 12]]}]
    saved = state_file.TrainState(step=4, samples_seen=16, engine=engine, stream={}, history=history)
    storage = LocalStorage(run_dir / "checkpoints")
    (run_dir / "checkpoints" / name_of(4)).mkdir(parents=True)
    storage.write(state_file.encode(saved), name_of(4), state_file.NAME)
    storage.write(f"{name_of(4)}\n".encode(), LATEST)


def of_capped_blend(store, run_dir, **changes):
    """A run that 84 samples are there for."""
    capped = [{"path": str(store), "weight": 1, "max_epochs": 0.2625}]
    return settings(store, run_dir, data__path=None, data__blend=capped, **ASKED, **changes)


OWN, PATH, RUN = "auto", "{saved}/checkpoints/step_00000004", "{saved}"


@pytest.mark.parametrize(
    ("steps", "resume", "engine", "asked"),
    [
        (8, OWN, {"optimizer_steps": 4}, None),
        (8, PATH, {"optimizer_steps": 4}, None),
        (8, RUN, {"optimizer_steps": 4}, None),
        (5, "none", {"optimizer_steps": 4}, None),
        (9, OWN, {"optimizer_steps": 4}, 100),
        (9, RUN, {"optimizer_steps": 4}, 100),
        (8, "none", {"optimizer_steps": 4}, 128),
        (8, PATH, {}, 128),  # its weights alone
    ],
)
def test_samples_are_counted_from_where_a_run_goes_on(tmp_path, steps, resume, engine, asked):
    """The steps before took another batch, and samples were skipped."""
    store, run_dir = make_store(tmp_path / "tokens"), tmp_path / "run"
    saved = run_dir if resume == OWN else tmp_path / "saved"
    save_position(saved, engine)
    begin = {"train__resume": resume.format(saved=saved), "train__steps": steps}
    if asked is None:
        open_run(of_capped_blend(store, run_dir, **begin), 1)
        return
    with pytest.raises(DataError, match=rf"^{asked} samples are asked of a blend whose sources end after 84 "):
        open_run(of_capped_blend(store, run_dir, **begin), 1)
