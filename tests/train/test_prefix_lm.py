"""A run that learns with prefixes: after a break it goes on to the bit, and its export says what the format cannot."""

import pytest
import transformers

from dist_plm.config.decode import decode
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from tests.ranks.ports import free_port
from tests.train.running import make_store, run_case, settings, signalled_case
from tests.train.test_resume import records

pytestmark = pytest.mark.ranks

PREFIX = {"objective__name": "prefix_lm", "objective__document_mask": True, "train__eval_every": 4, "train__steps": 8}


def test_it_resumes_and_exports(ranks, tmp_path):
    store, broken = make_store(tmp_path / "tokens"), settings(tmp_path / "tokens", tmp_path / "broken", **PREFIX)
    assert ranks.run(1, run_case, settings(store, tmp_path / "whole", **PREFIX), free_port()) == [0]
    assert [code for code, _ in ranks.run(1, signalled_case, broken, free_port(), "step", 5)] == [75]
    assert ranks.run(1, run_case, broken, free_port()) == [0]
    assert records(tmp_path / "broken") == records(tmp_path / "whole")
    asked = {"from": str(tmp_path / "whole"), "to": str(tmp_path / "hf"), "format": "hf"}
    told = convert(decode(ConvertConfig, asked))
    assert "learned to read the first tokens of a text both ways" in told
    assert "GPT2LMHeadModel reads each token from those before it alone" in told
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
