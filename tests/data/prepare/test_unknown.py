import re

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.store.store import TokenStore
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train_unigram, train_wordpiece
from dist_plm.spec.prepare.schema import SourceConfig, TokenizerConfig
from tests.data.preparing import run

CHINESE = "床前明月光疑是地上霜舉頭望明月低頭思故鄉\n\n"
ENGLISH = ["shall i compare thee to a summer's day, thou art more lovely and more temperate. " * 20]


def prepared(tmp_path, text, tokenizer):
    (tmp_path / "text.txt").write_text(text)
    source = SourceConfig(path=str(tmp_path / "text.txt"), document="block")
    return run(tmp_path / "store", sources=(source,), tokenizer=tokenizer)


def saved(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    return str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("kind", [train_wordpiece, train_unigram])
def test_text_out_of_a_tokenizers_reach_is_refused(tmp_path, kind):
    path = saved(tmp_path, kind([ENGLISH], 300))
    text = "".join(f"{i}{CHINESE}" for i in range(40))
    with pytest.raises(
        DataError, match=r"% of the tokens of the first documents are unknown .*tokenizer.max_unknown = 0.1"
    ):
        prepared(tmp_path, text, TokenizerConfig(name="file", path=path))
    assert not (tmp_path / "store").exists()
    store, report = prepared(tmp_path, text, TokenizerConfig(name="file", path=path, max_unknown=1.0))
    unknown = Tokenizer.load(store.path).unknown_id()
    train = TokenStore.open(store.path / "train")
    share = (train.read(0, train.num_tokens) == unknown).mean()
    (told,) = re.findall(r"([\d.]+) % of the tokens are unknown", report)
    assert float(told) == pytest.approx(100 * share, abs=3)


def test_what_a_sample_does_not_hold_is_counted_at_the_end(tmp_path):
    path = saved(tmp_path, train_wordpiece([ENGLISH], 300))
    text = ENGLISH[0] * 50 + "\n\n" + "".join(f"{i}{CHINESE}" for i in range(2000))
    with pytest.raises(DataError, match=r"% of the tokens of all documents are unknown"):
        prepared(tmp_path, text, TokenizerConfig(name="file", path=path))


def test_a_few_unknown_characters_pass_and_are_told(tmp_path):
    path = saved(tmp_path, train_wordpiece([ENGLISH], 300))
    text = "".join(f"{ENGLISH[0]} {i} 霜\n\n" for i in range(20))
    _, report = prepared(tmp_path, text, TokenizerConfig(name="file", path=path))
    assert re.search(r"0\.\d+ % of the tokens are unknown to the tokenizer|[1-9]\.?\d* % of the tokens are", report)


def test_a_byte_level_tokenizer_knows_everything(tmp_path):
    _, report = prepared(tmp_path, CHINESE * 30 + ENGLISH[0], TokenizerConfig(name="bpe", vocab_size=300))
    assert "unknown" not in report
