"""Measures of texts equal sacrebleu 2.6 and rouge_score 0.1.2, whose results on these texts stand here, and what is worked by
hand."""

import random

import pytest
import regex
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from dist_plm.objectives.metrics.bleu_words import SPLITTERS, words_13a
from dist_plm.objectives.metrics.text_overlap import Bleu, Rouge, TextScores, longest_common

TEXTS = [
    ("The cat sat on the mat.", "A cat sat on the mat, quietly."),
    ("It cost 1,000.50 euros (about $5-6)!", "It cost 1,000.50 euro (about $ 5-6)!"),
    ('"No," she said &amp; left.', "'No', she said and left."),
    ("", "Something."),
    ("word", "word"),
]
#: ROUGE-1, -2, -L, BLEU and chrF of the first so many texts together.
PUBLISHED = {
    1: (76.9231, 72.7273, 76.9231, 48.3545, 57.8089),
    2: (82.906, 73.8636, 82.906, 63.3648, 76.2935),
    3: (81.9373, 65.9091, 81.9373, 53.0071, 66.9935),
    4: (61.453, 49.4318, 61.453, 49.353, 61.3578),
    5: (69.1624, 39.5455, 69.1624, 49.5906, 62.0109),
}


@pytest.mark.parametrize("count", PUBLISHED)
def test_as_sacrebleu_and_rouge_score(count):
    scores = TextScores()
    for text, reference in TEXTS[:count]:
        scores.add(text, reference)
    measures = scores.measures()
    found = [measures[name] for name in ("rouge1", "rouge2", "rougeL", "bleu", "chrf")]
    assert found == pytest.approx(PUBLISHED[count], abs=1e-4)


def test_a_line_that_ends_within_a_word_is_counted_as_sacrebleu_does():
    written, wanted = (
        ["the film was a play -\n", "it is very -\n good"],
        ["the film was a play -", "it is very - good\n"],
    )
    scores = TextScores()
    for text, reference in zip(written, wanted, strict=True):
        scores.add(text, reference)
    assert scores.measures()["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [wanted]).score)


def test_worked_by_hand():
    bleu = Bleu()
    bleu.add("a b c d e", "a b c d f g")
    # 4/5, 3/4, 2/3 and 1/2 of the n-grams are right: the fourth root of 1/5; 5 words where there should be 6.
    assert bleu.score() == pytest.approx(100 * 0.2**0.25 * 2.718281828459045 ** (1 - 6 / 5))
    rouge = Rouge()
    rouge.add("the dog saw the cat", "the cat saw a dog")
    # Words: the once, dog, saw, cat, 4 of 5 and 5. Pairs: the cat, 1 of 4 and 4. In order: the cat, or the saw, 2 of 5 and 5.
    assert rouge.scores() == pytest.approx({"rouge1": 80.0, "rouge2": 25.0, "rougeL": 40.0})


def test_nothing_was_written():
    scores = TextScores()
    scores.add("", "a b")
    assert set(scores.measures().values()) == {0.0}


def test_an_exact_match_but_for_white_space():
    scores = TextScores()
    scores.add(" a  b\n", "a b")
    scores.add("A b", "a b")
    assert scores.measures()["exact_match"] == 50.0


def test_other_scripts_have_words():
    rouge = Rouge()
    rouge.add("Über die Brücke", "über die brücke")
    assert rouge.scores()["rougeL"] == pytest.approx(100.0)
    assert longest_common("abcbdab", "bdcaba") == 4  # Cormen et al., section 15.4
    assert words_13a("Wait, 3.5-4 x_y.") == ["Wait", ",", "3.5", "-", "4", "x", "_", "y", "."]


@pytest.mark.parametrize("tokenizer", SPLITTERS)
def test_every_tokenizer_splits_and_signs_as_sacrebleu_does(tokenizer):
    draw = random.Random(3)
    letters = "ab1 .,-\u2014\u4f60\u597d\u3002\uff0cA&;\u2001\u2a6d\u2f80\u2fa1\u3400\u4db5\u33ff\U00020001\u00e9"
    texts = ["".join(draw.choices(letters, k=draw.randint(0, 30))) for _ in range(400)]
    theirs = sacrebleu.BLEU(tokenize=tokenizer)
    for text in texts:
        assert " ".join(SPLITTERS[tokenizer](text)) == " ".join(theirs.tokenizer(text).split()), ascii(text)
    written, wanted = texts[:200], texts[200:]
    scores = TextScores.split_by(tokenizer)
    for text, reference in zip(written, wanted, strict=True):
        scores.add(text, reference)
    assert scores.measures()["bleu"] == pytest.approx(theirs.corpus_score(written, [wanted]).score, abs=1e-9)
    parts = str(theirs.get_signature()).split("|")
    assert scores.signatures["bleu"].split("|") == [part for part in parts if not part.startswith("version:")]
    chrf = sacrebleu.CHRF()
    chrf.corpus_score(written, [wanted])
    assert scores.signatures["chrf"] in str(chrf.get_signature())


#: What splits badly, and what other scripts have; some are white space, or nothing.
WORDS = (
    *(
        "the",
        "The",
        "cat",
        "cats",
        "a",
        "dog's",
        "re-do",
        "1,000.50",
        "3.14",
        "5-6",
        "x_y",
        "U.S.",
        "e.g.",
        "(ok)",
        "$5",
        "%",
    ),
    *("&amp;", "&quot;", "<skipped>", "-", "--", "...", "!", "?", "", "\n", "\t", "  "),
)
OTHERS = (
    "über",
    "Straße",
    "naïve",
    "кот",
    "猫",
    "坐在",
    "ねこ",
    "고양이",
    "😀",
    "é",
    "e\u0301",
    "\u00a0",
    "“x”",
    "…",
    "İ",
    "٣",
    "½",
)


class AnyScript:
    """rouge_score's own leaves letters out that ASCII lacks."""

    def tokenize(self, text: str) -> list[str]:
        return regex.findall(r"[\p{L}\p{N}][\p{L}\p{N}\p{Mn}\p{Mc}]*", text.lower())


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("हिन्दी किताब", "हिन्दी किताब", 100),
        ("हिन्दी", "हन्दा", 0),
        ("किताब", "कताब", 0),
        ("cafe\u0301 bar", "cafe bar", 50),
        ("שָׁלוֹם", "שלום", 0),
        ("İstanbul", "İSTANBUL", 100),
        ("I \u2764\ufe0f you", "I you", 100),
        ("a\u00a0b_c", "a b c", 100),
    ],
)
def test_marks_belong_to_their_letters(text, reference, expected):
    rouge = Rouge()
    rouge.add(text, reference)
    assert rouge.scores()["rouge1"] == rouge.scores()["rougeL"] == expected


def pairs(draw: random.Random, words: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """Texts of up to 14 words, empty ones among them, and the same with other words, or others."""
    made = []
    for _ in range(count):
        reference = draw.choices(words, k=draw.randint(0, 14))
        kept = [draw.choice(words) if draw.random() < 0.3 else word for word in reference if draw.random() < 0.9]
        text = kept if draw.random() < 0.8 else draw.choices(words, k=draw.randint(0, 14))
        made.append((" ".join(text), " ".join(reference)))
    return made


@pytest.mark.parametrize(("words", "tokenizer"), [(WORDS, None), (WORDS + OTHERS, AnyScript())], ids=["ascii", "all"])
def test_hundreds_of_texts_as_the_libraries_measure_them(words, tokenizer):
    """All together, and a few at a time, where orders without a match are many."""
    draw, rouge = random.Random(0), RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=tokenizer)
    for count in (300, *[3] * 20):
        texts, references = zip(*pairs(draw, words, count), strict=True)
        scores = TextScores()
        for text, reference in zip(texts, references, strict=True):
            scores.add(text, reference)
        found = scores.measures()
        assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score, abs=1e-9)
        assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score, abs=1e-9)
        theirs = [rouge.score(reference, text) for text, reference in zip(texts, references, strict=True)]
        for name in theirs[0]:
            assert found[name] == pytest.approx(100 * sum(one[name].fmeasure for one in theirs) / count, abs=1e-9), name
        alike = [
            " ".join(text.split()) == " ".join(reference.split())
            for text, reference in zip(texts, references, strict=True)
        ]
        assert found["exact_match"] == pytest.approx(100 * sum(alike) / count)
