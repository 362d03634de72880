import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import check_prepare
from tests.spec.make import prepare


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data__sources": []}, ["data.sources is empty", "data.sources=[{path: texts/*.txt}]"]),
        ({"data__sources": [{"path": "a"}, {"path": "a"}]}, ["data.sources[1].path = 'a' is given twice"]),
        ({"data__sources": [{"text": "a"}]}, ["data.sources[0] gives neither path, nor hf, nor python"]),
        ({"data__sources": [{"path": "a", "hf": "b"}]}, ["data.sources[0] gives path and hf", "one of {path: FILES}"]),
        ({"data__sources": [{"path": "a", "streaming": True}]}, ["data.sources[0].streaming = true has no effect"]),
        ({"data__sources": [{"hf": "a", "format": "csv"}]}, ["data.sources[0].format = 'csv' has no effect with hf"]),
        ({"data__sources": [{"python": "a.b"}]}, ["data.sources[0].python = 'a.b' is not of the form"]),
        ({"data__sources": [{"path": "a", "text": "{b"}]}, ["data.sources[0].text = '{b' is no template", "{title}"]),
        ({"data__sources": [{"path": "~/a"}]}, ["data.sources[0].path = '~/a' begins with ~"]),
        ({"data__sources": [{"path": "a", "text": ""}]}, ["data.sources[0].text is empty"]),
        ({"clean__rules": ["nfc", "length", "nfc"]}, ["clean.rules names nfc twice"]),
        ({"clean__rules": ["boilerplate_lines"]}, ["clean.boilerplate gives no expressions"]),
        ({"clean__boilerplate": ["("]}, ["clean.boilerplate[0] = '(' is no regular expression"]),
        ({"clean__boilerplate": ["a{5000000000}"]}, ["no regular expression: the repetition number is too large"]),
        ({"clean__rules": ["c4_bad_words"]}, ["clean.c4.bad_words gives no file"]),
        ({"clean__rules": ["language"], "clean__languages": []}, ["clean.languages is empty"]),
        (
            {"clean__languages": ["de"]},
            ["clean.languages = ['de'] has no effect with clean.rules, which has no language"],
        ),
        (
            {"clean__rules": ["language"], "clean__languages": ["en", "english"]},
            ["clean.languages[1] = 'english' is no language", "as en for English"],
        ),
        (
            {"clean__rules": ["language"], "clean__languages": ["zh-CN"]},
            ["clean.languages[0] = 'zh-CN' is no language", "did you mean zh?"],
        ),
        ({"clean__min_chars": 9}, ["clean.min_chars = 9 has no effect with clean.rules, which has no length"]),
        (
            {"clean__rules": ["length"], "clean__min_chars": 9, "clean__max_chars": 3},
            ["clean.max_chars = 3 is below clean.min_chars = 9"],
        ),
        ({"dedup__threshold": 0.7}, ["dedup.threshold = 0.7 has no effect with dedup.near = false", "dedup=minhash"]),
        (
            {"dedup__min_paragraph_chars": 9},
            ["dedup.min_paragraph_chars = 9 has no effect with dedup.paragraphs = false"],
        ),
        ({"data__out": ""}, ["data.out = '' is empty"]),
        ({"data__split": [0.5, 0.5, 0.5]}, ["data.split = [0.5, 0.5, 0.5] sums to 1.5"]),
        ({"tokenizer__end_of_document": ""}, ["tokenizer.end_of_document is empty"]),
        ({"tokenizer__name": "file"}, ["tokenizer.path is missing", "give tokenizer.path=…"]),
        (
            {"tokenizer__name": "file", "tokenizer__path": "t.json", "tokenizer__vocab_size": 99},
            ["tokenizer.vocab_size = 99 has no effect with tokenizer.name = 'file'"],
        ),
        ({"tokenizer__path": "t.json"}, ["tokenizer.path = 't.json' has no effect", "tokenizer=file"]),
        ({"tokenizer__memory_mb": 63}, ["tokenizer.memory_mb = 63 is too small", "64 or more"]),
        ({"tokenizer__vocab_size": 10**12}, ["tokenizer.vocab_size = 1,000,000,000,000 is too large", "4,194,304"]),
        (
            {"tokenizer__name": "file", "tokenizer__path": "t", "tokenizer__sentinels": 10**9},
            ["tokenizer.sentinels = 1,000,000,000 is too"],
        ),
        (
            {"tokenizer__name": "wordpiece", "tokenizer__character_coverage": 0},
            ["tokenizer.character_coverage = 0 leaves most characters unknown"],
        ),
        (
            {"tokenizer__name": "unigram", "tokenizer__character_coverage": 0.4},
            ["tokenizer.character_coverage = 0.4 leaves most characters unknown"],
        ),
        ({"tokenizer__name": "bpe", "tokenizer__max_unknown": 0.5}, ["tokenizer.max_unknown = 0.5 has no effect"]),
        ({"tokenizer__vocab_size": 256}, ["tokenizer.vocab_size = 256 is too small", "257"]),
        ({"tokenizer__vocab_size": 259, "tokenizer__fim": True}, ["tokenizer.vocab_size = 259 is too small", "260"]),
        ({"tokenizer__name": "bpe_roberta", "tokenizer__vocab_size": 260}, ["vocab_size = 260 is too small", "261"]),
        ({"tokenizer__name": "wordpiece", "tokenizer__vocab_size": 5}, ["vocab_size = 5 is too small", "6 at least"]),
        ({"tokenizer__name": "unigram", "tokenizer__vocab_size": 103}, ["vocab_size = 103 is too small", "104"]),
        (
            {"tokenizer__name": "wordpiece", "tokenizer__end_of_document": "<eod>"},
            ["tokenizer.end_of_document = '<eod>' has no effect with tokenizer.name = 'wordpiece'"],
        ),
        ({"tokenizer__lowercase": False}, ["tokenizer.lowercase = false has no effect with tokenizer.name = 'bpe'"]),
        (
            {"tokenizer__vocab_size": 359, "tokenizer__sentinels": 100, "tokenizer__special": ["<a>", "<b>", "<c>"]},
            ["360"],
        ),
        ({"tokenizer__special": ["<a>", "<a>"]}, ["tokenizer.special", "names a token twice"]),
        (
            {"tokenizer__special": ["<a>", "<|endoftext|>"]},
            ["tokenizer.special names '<|endoftext|>', which", "leave it"],
        ),
        (
            {"tokenizer__special": ["<e>"], "tokenizer__end_of_document": "<e>"},
            ["tokenizer.special names '<e>', which"],
        ),
        (
            {"tokenizer__special": ["<|fim_middle|>"], "tokenizer__fim": True},
            ["tokenizer.special names '<|fim_middle|>'"],
        ),
        ({"tokenizer__end_of_document": "<|fim_middle|>", "tokenizer__fim": True}, ["tokenizer.end_of_document names"]),
        ({"tokenizer__name": "unigram", "tokenizer__special": ["</s>"]}, ["tokenizer.special names '</s>', which"]),
        (
            {"tokenizer__name": "unigram", "tokenizer__special": ["<extra_id_100>", "<extra_id_99>"]},
            ["tokenizer.special names '<extra_id_99>', which tokenizer.name = 'unigram' has anyway"],
        ),
        ({"tokenizer__special": ["<a>", "user"]}, ["tokenizer.special: text can become 'user'", "<|user|>"]),
        ({"tokenizer__special": ["###"]}, ["tokenizer.special: text can become '###'", "more than one word"]),
        ({"tokenizer__end_of_document": "2"}, ["tokenizer.end_of_document: text can become '2'"]),
        ({"tokenizer__name": "wordpiece", "tokenizer__special": ["a"]}, ["tokenizer.special", "has no effect"]),
        ({"tokenizer__name": "unigram", "tokenizer__fim": True}, ["tokenizer.fim = true has no effect"]),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    with pytest.raises(ConfigError) as caught:
        check_prepare(prepare(**changes))
    (problem,) = caught.value.problems
    for part in parts:
        assert part in problem


def test_special_tokens_that_a_tokenizer_would_not_have_pass():
    names = ["</s>", "<extra_id_0>", "<extra_id_007>", "<|fim_middle|>"]
    check_prepare(prepare(tokenizer__special=names, tokenizer__end_of_document="<|end|>"))
    check_prepare(prepare(tokenizer__name="unigram", tokenizer__special=["<|endoftext|>", "<extra_id_007>"]))


def test_a_tokenizer_file_passes():
    check_prepare(prepare(tokenizer__name="file", tokenizer__path="t.json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("dedup__permutations", 10**6), ("dedup__shingle", 10**6), ("data__workers", 10**6), ("dedup__permutations", 0)],
)
def test_numbers_that_would_take_for_ever_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"{key.replace('__', '.')} = {value} is not allowed: .* at most \d+"):
        check_prepare(prepare(**{key: value}))


def test_documents_with_nothing_in_common_are_no_duplicates():
    for value in (0, 1):
        with pytest.raises(
            ConfigError, match=rf"dedup\.threshold = {value}.* is not allowed: .*more than 0 and less than 1"
        ):
            check_prepare(prepare(dedup__near=True, dedup__threshold=value))
    check_prepare(prepare(dedup__near=True, dedup__threshold=0.01))


def test_quoting_is_for_delimited_files():
    for source in ({"path": "a", "format": "jsonl", "quoting": "none"}, {"hf": "a", "quoting": "none"}):
        with pytest.raises(ConfigError, match=r"data\.sources\[0\]\.quoting = 'none' has no effect with"):
            check_prepare(prepare(data__sources=[source]))
    check_prepare(prepare(data__sources=[{"path": "a", "format": "tsv", "quoting": "none"}]))
