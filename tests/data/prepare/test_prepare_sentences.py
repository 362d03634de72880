"""A store whose documents are kept sentence by sentence, and what Megatron-core makes of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_plm.data.prepare.prepare import prepare
from dist_plm.data.prepare.stages import sentence_tokens
from dist_plm.data.store.sentences import sentences
from dist_plm.data.store.store import TokenStore
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig

HERE = Path(__file__).parents[1]
GOLD = (HERE / "sentences" / "english.txt", HERE / "sentences" / "chinese.txt")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Documents of five lines of the texts that are divided by hand."""
    folder = tmp_path_factory.mktemp("sentences")
    for path in GOLD:
        lines = path.read_text().replace("|", "").splitlines()
        text = "\n\f\n".join(" ".join(lines[i : i + 5]) for i in range(0, len(lines), 5))
        for number, document in enumerate(text.split("\n\f\n")):
            (folder / f"{path.stem}_{number:02}.txt").write_text(document)
    config = PrepareConfig(
        data=PrepareDataConfig(
            sources=(SourceConfig(path=str(folder / "*.txt")),),
            out=str(folder / "store"),
            split=(1, 0, 0),
            sentences=True,
        ),
        tokenizer=TokenizerConfig(name="wordpiece", vocab_size=1000, character_coverage=1),
    )
    prepare(config, lambda line: None)
    return folder / "store"


def test_sequences_are_sentences_and_documents_lie_above_them(store):
    tokens, tokenizer = TokenStore.open(store / "train"), Tokenizer.load(store)
    texts = [path.read_text() for path in sorted(store.parent.glob("*.txt"))]
    expected = [tokenizer.encode_batch(sentences(text)) for text in texts]
    assert tokens.num_documents == len(texts) == 15
    assert np.diff(tokens.document_indices()).tolist() == [len(document) for document in expected]
    assert tokens.sequence_lengths().tolist() == [len(ids) for document in expected for ids in document]
    assert tokens.read(0, tokens.num_tokens).tolist() == [i for document in expected for ids in document for i in ids]
    assert tokenizer.end_of_document_id not in tokens.read(0, tokens.num_tokens)


def test_sentences_without_tokens_are_left_out(store):
    tokenizer = Tokenizer.load(store)
    ids, counts = sentence_tokens(tokenizer, ["One. \x00!", "\x00", "Two? Three."])
    assert (len(ids), counts) == (4, [2, 2])
    assert all(ids)


_MEGATRON = """
import sys
from types import SimpleNamespace
import numpy as np
import torch.distributed as dist
from megatron.core.datasets.bert_dataset import BERTMaskedWordPieceDataset, BERTMaskedWordPieceDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from dist_plm.data.tokenizers.tokenizer import Tokenizer

store = sys.argv[1]
dist.init_process_group("gloo", init_method=f"file://{store}.meet", rank=0, world_size=1)
ours = Tokenizer.load(store)
special = ours.special_tokens()
tokenizer = SimpleNamespace(
    cls=special.cls, sep=special.sep, mask=special.mask, pad=special.pad, eod=special.sep,
    inv_vocab=dict(enumerate(ours.pieces())), unique_identifiers={},
)
config = BERTMaskedWordPieceDatasetConfig(
    random_seed=1, sequence_length=64, blend=([store + "/train"], None), split="1,0,0", path_to_cache=store + ".cache",
    tokenizer=tokenizer, masking_probability=0.15, short_sequence_probability=0.1, masking_max_ngram=3,
    masking_do_full_word=True, masking_do_permutation=False, masking_use_longer_ngrams=False,
    masking_use_geometric_distribution=False, classification_head=True,
)
indexed = IndexedDataset(store + "/train")
documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
dataset = BERTMaskedWordPieceDataset(indexed, store + "/train", documents, 1000, Split.train, config)
samples = [dataset[i] for i in range(len(dataset))]
assert len(samples) >= 15, len(samples)
for sample in samples:
    text, types = sample["text"], sample["types"]
    assert text[0] == special.cls, text
    assert (text == special.sep).sum() == 2, text
    assert set(types) <= {0, 1} and types.any(), types
assert any((sample["text"] == special.mask).any() for sample in samples)
print(len(samples), "samples")
"""


def test_megatrons_bert_dataset_reads_it(store):
    result = subprocess.run([sys.executable, "-c", _MEGATRON, str(store)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "samples" in result.stdout
