"""Which texts of an evaluation set stand in a training store: planted ones are found, others are not."""

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from dist_plm.cli.app import checked, load, parse
from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError, DataError
from dist_plm.data.prepare.prepare import prepare
from dist_plm.distributed.world import leave
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig
from dist_plm.tasks.contamination.shared_runs import check_contamination, contamination_of, measure_contamination
from tests.ranks.made_groups import counted_groups

#: A tokenizer that gives text back, and one that lowers it and takes accents off.
TOKENIZERS = {
    "bpe": TokenizerConfig(name="bpe", vocab_size=300),
    "wordpiece": TokenizerConfig(name="wordpiece", vocab_size=200),
}


def sentence(first: int, count: int = 20) -> str:
    return " ".join(f"{'Été' if n % 3 else 'cat'} {n}" for n in range(first, first + count))


@pytest.fixture(scope="module", params=TOKENIZERS)
def store(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text("\n".join(sentence(100 * n) for n in range(40)))
    data = PrepareDataConfig(
        sources=(SourceConfig(path=str(folder / "text.txt"), document="line"),),
        out=str(folder / "store"),
        split=(1, 0, 0),
    )
    prepare(PrepareConfig(data=data, tokenizer=TOKENIZERS[request.param]), lambda line: None)
    return folder / "store"


def test_planted_texts_are_found(store, ranks, tmp_path) -> None:
    texts = [sentence(300), sentence(7000), f"{sentence(8000, 10)}, {sentence(500, 10).upper()}", "too short"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": 1}) + "\n" for text in texts))
    settings = {"on": "contamination", "data": {"rows": str(rows), "against": str(store)}, "samples": 5}
    (told,) = ranks.run(1, measure, settings)
    assert told["results"] == {
        "contaminated": pytest.approx(2 / 3),
        "overlap": pytest.approx((1 + 0.5) / 3),
        "contaminated_texts": 2,
        "texts": 3,
        "too_short": 1,
    }
    assert [(one["overlap"], one["name"]) for one in told["samples"]] == [
        (1.0, f"{rows}, line 1"),
        (0.5, f"{rows}, line 3"),
    ]
    for other in ranks.run(2, measure, settings):
        assert other == told


def test_shares_of_a_store_that_has_splits_are_refused(store) -> None:
    asked = {"path": str(store), "against": str(store)}
    check_contamination(decode(EvaluateConfig, {"on": "contamination", "data": {**asked, "split": "train"}}))
    asked["shares"] = [0.5, 0.25, 0.25]
    with pytest.raises(
        DataError, match=r"^data\.shares = \[0\.5, 0\.25, 0\.25\] has no effect with .*store, prepared with"
    ):
        check_contamination(decode(EvaluateConfig, {"on": "contamination", "data": asked}))


def measure(world, settings):
    return contamination_of(decode(EvaluateConfig, settings), dist.group.WORLD)


def test_texts_are_compared_over_one_group_of_all_ranks(store, ranks, tmp_path) -> None:
    (tmp_path / "text.txt").write_text(sentence(300))
    settings = {"on": "contamination", "data": {"text": str(tmp_path / "text.txt"), "against": str(store)}}
    assert ranks.run(1, measure_alone, settings) == [(1.0, ["gloo"])]


def measure_alone(world, settings):
    leave()
    with counted_groups() as made:
        told = measure_contamination(decode(EvaluateConfig, settings), {})
    return told["results"]["contaminated"], made


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["data.text=x.txt"], "from is missing: give a run, whose training text is compared with, or a store"),
        (["from=a", "data.against=b", "data.text=x.txt"], "from and data.against = 'b' both name training text"),
        (["data.against=b"], "there is nothing to read; a set is data.path=STORE"),
        (["data.against=b", "data.text=x.txt", "stride=3"], "stride = 3 has no effect with on = 'contamination'"),
        (["on=perplexity", "from=a", "data.text=x.txt", "ngram=8"], "ngram = 8 has no effect with on = 'perplexity'"),
        (["on=perplexity", "from=a", "data.text=x.txt", "data.against=b"], "data.against = 'b' has no effect"),
    ],
)
def test_what_cannot_be_compared_is_refused(words, part) -> None:
    config, _ = load(EvaluateConfig, "evaluate", ["on=contamination", *words])
    with pytest.raises(ConfigError) as refused:
        checked(config, parse([]))
    assert part in str(refused.value)
