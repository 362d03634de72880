"""Encoders as Sentence-Transformers opens them: what its files say makes the vectors that Transformers gives of the model that
was exported, and so does the library, where it is installed."""

import json
from importlib.util import find_spec
from pathlib import Path

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
    tokenizer = wordpiece()  # once: training it again may break ties otherwise
    for half in ("generator", "discriminator"):
        tokenizer.save(str(directory / half / "tokenizer.json"))
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
    model = transformers.AutoModel.from_pretrained(network)
    assert how["word_embedding_dimension"] == model.config.hidden_size
    longest = json.loads((network / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert longest == model.config.max_position_embeddings
    source = tmp_path / "hf" / ("discriminator" if name == "electra" else "")
    expected = [pooled(source, text, pooling) for text in TEXTS_READ]
    if name != "bert":
        expected = [vector / np.linalg.norm(vector) for vector in expected]
    found = [as_its_files_say(tmp_path / "out", modules, text) for text in TEXTS_READ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float(np.abs(np.diff(expected, axis=0)).max()) > 1e-2, "texts differ"
    if find_spec("sentence_transformers") is not None:
        import sentence_transformers

        vectors = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS_READ)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def pooled(directory: Path, text: str, pooling: str) -> np.ndarray:
    """One vector of the last hidden states of a model of Transformers."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(directory)(text).input_ids[
        : model.config.max_position_embeddings
    ]
    with torch.no_grad():
        states = model(torch.tensor([tokens])).last_hidden_state[0]
    return (states.mean(dim=0) if pooling == "mean" else states[0]).numpy()


def as_its_files_say(directory: Path, modules: list[dict], text: str) -> np.ndarray:
    """What the modules of such a directory do, one after the other."""
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    assert kinds[:2] == ["Transformer", "Pooling"]
    said = json.loads((directory / modules[1]["path"] / "config.json").read_text())
    vector = pooled(directory / modules[0]["path"], text, "mean" if said["pooling_mode_mean_tokens"] else "cls")
    assert kinds[2:] in ([], ["Normalize"])
    return vector / np.linalg.norm(vector) if kinds[2:] else vector


def test_what_makes_no_vectors_is_refused(tmp_path) -> None:
    run(save("gpt2", tmp_path / "hf"), tmp_path / "in")
    with pytest.raises(CheckpointError, match="is no encoder"):
        run(tmp_path / "in", tmp_path / "out", format="sentence_transformers")
    assert not (tmp_path / "out").exists()
    run(save_any("bert_model", tmp_path / "bare"), tmp_path / "bare_in")
    with pytest.raises(CheckpointError, match="has no tokenizer that is known"):
        run(tmp_path / "bare_in", tmp_path / "out", format="sentence_transformers")
