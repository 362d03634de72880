import pytest

from tests.spec.broken import problems

TWO = [{"path": "a"}, {"path": "b"}]


def blend(*sources, **settings):
    changes = {f"data__{name}": value for name, value in settings.items()}
    return problems(data__path=None, data__blend=list(sources), **changes)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"path": None}, ["data.path is missing", "data.path=…", "data.blend"]),
        ({"blend": TWO}, ["data.path = 'corpus/test' and data.blend are both given", "data.path=null"]),
        ({"temperature": 3}, ["data.temperature = 3.0 has no effect with a single store"]),
        ({"path": None, "blend": [{"path": "~/a"}]}, ["data.blend[0].path = '~/a' begins with ~"]),
        ({"path": None, "blend": [{"path": "a", "weight": 0}]}, ["data.blend[0].weight = 0", "more than 0"]),
        ({"path": None, "blend": [{"path": "a", "weight": 1}, {"path": "b"}]}, ["data.blend[1].weight is missing"]),
        (
            {"path": None, "blend": [{"path": "a", "weight": 1}], "temperature": 2},
            ["data.temperature = 2.0 has no effect with weights in data.blend"],
        ),
        ({"packing": "tight"}, ["data.packing = 'tight'", "one of concat, best_fit"]),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = problems(**{f"data__{name}": value for name, value in changes.items()})
    for part in parts:
        assert part in problem


def test_blends_that_are_complete():
    assert blend(*TWO) == blend(*TWO, temperature=3) == []
    assert blend({"path": "a", "weight": 0.7, "max_epochs": 4}, {"path": "b", "weight": 0.3}) == []


@pytest.mark.parametrize("other", ["{0}/poems", "{0}/poems/", "{0}/poems.bin", "{0}/x/../poems", "{0}/link"])
def test_a_store_counts_once_in_a_blend(tmp_path, other):
    (tmp_path / "link").symlink_to(tmp_path / "poems")
    one, other = {"path": f"{tmp_path}/poems", "weight": 1}, {"path": other.format(tmp_path), "weight": 1}
    (problem,) = blend(one, {"path": "a", "weight": 1}, other)
    assert f"data.blend[2].path = '{other['path']}' is given twice" in problem
    assert "data.blend[0]" in problem
    assert "weight" in problem
    assert blend(one, {**other, "path": f"{tmp_path}/poems.d"}) == []


def test_rows_are_packed_for_objectives_that_take_rows():
    assert problems(data__packing="best_fit", objective__document_mask=True) == []
    assert problems(data__packing="full_sentences", objective__name="mlm", model__family="bert") == []
    for name in ("mlm_nsp", "mlm_sop"):
        (problem,) = problems(data__packing="best_fit", objective__name=name, model__family="bert")
        assert f"data.packing = 'best_fit' does not serve objective.name = '{name}'" in problem
    (problem,) = problems(data__packing="best_fit", objective__fim_rate=0.5)
    assert "objective.fim_rate = 0.5" in problem
    assert "data.packing=concat" in problem
