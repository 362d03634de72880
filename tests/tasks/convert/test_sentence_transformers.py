"""Encoders as Sentence-Transformers opens them; where it is installed, its vectors are those that the model makes here."""

import json

import numpy as np
import pytest
import torch
import transformers

from dist_plm.core.errors import CheckpointError
from tests.tasks.convert.hf_dirs import save as save_any
from tests.tasks.convert.test_huggingface import run
from tests.tasks.inference.models import TEXTS, save, wordpiece

TEXTS_READ = [text[:60] for text in TEXTS]


def electra(directory):
    save_any("electra", directory)
    for half in ("generator", "discriminator"):
        wordpiece().save(str(directory / half / "tokenizer.json"))
    return directory


@pytest.mark.parametrize(("name", "pooling"), [("bert", "mean"), ("electra", "cls")])
def test_a_text_is_one_vector(tmp_path, name, pooling) -> None:
    run(electra(tmp_path / "hf") if name == "electra" else save(name, tmp_path / "hf"), tmp_path / "in")
    told = run(
        tmp_path / "in", tmp_path / "out", format="sentence_transformers", pooling=pooling, normalize=name != "bert"
    )
    assert f"{pooling} of the last hidden states" in told
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    network = tmp_path / "out" / modules[0]["path"]
    how = json.loads((tmp_path / "out" / modules[1]["path"] / "config.json").read_text())
    assert [key for key, value in how.items() if value is True] == [
        "pooling_mode_mean_tokens" if pooling == "mean" else "pooling_mode_cls_token"
    ]
    model = transformers.AutoModel.from_pretrained(network).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(network)
    assert how["word_embedding_dimension"] == model.config.hidden_size
    longest = json.loads((network / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert longest == model.config.max_position_embeddings
    library = pytest.importorskip("sentence_transformers", reason="Sentence-Transformers is not installed")
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS_READ)
    for text, vector in zip(TEXTS_READ, found, strict=True):
        with torch.no_grad():
            states = model(
                torch.tensor([tokenizer(text, truncation=True, max_length=longest).input_ids])
            ).last_hidden_state[0]
        expected = (states.mean(dim=0) if pooling == "mean" else states[0]).numpy()
        assert vector == pytest.approx(expected / (np.linalg.norm(expected) if name != "bert" else 1.0), abs=1e-5)


def test_what_makes_no_vectors_is_refused(tmp_path) -> None:
    run(save("gpt2", tmp_path / "hf"), tmp_path / "in")
    with pytest.raises(CheckpointError, match="is no encoder"):
        run(tmp_path / "in", tmp_path / "out", format="sentence_transformers")
    assert not (tmp_path / "out").exists()
    run(save_any("bert_model", tmp_path / "bare"), tmp_path / "bare_in")
    with pytest.raises(CheckpointError, match="has no tokenizer that is known"):
        run(tmp_path / "bare_in", tmp_path / "out", format="sentence_transformers")
