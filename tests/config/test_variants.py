"""Sections whose fields depend on the name that they choose."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from dist_plm.config.decode import decode, encode
from dist_plm.config.suggest import setting_names
from dist_plm.config.variants import Variants, hints_of, variants_of
from dist_plm.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round(Base):
    kind: ClassVar[str] = "curve"
    name: Literal["round"] = "round"
    radius: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Base):
    name: Literal["square"] = "square"
    side: float = 2.0
    corners: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    shape: Base
    width: int = 3


SHAPES = Variants(Base, "name", {"round": Round, "square": Square})


def problems_of(**shape) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        decode(Drawing, {"shape": shape})
    return refused.value.problems


def test_the_tag_chooses_the_class_and_encode_gives_its_fields_alone():
    drawing = decode(Drawing, {"shape": {"name": "square", "size": 1, "side": 4}})
    assert drawing == Drawing(shape=Square(size=1, side=4.0))
    assert encode(drawing)["shape"] == {"name": "square", "size": 1, "side": 4.0, "corners": {}}
    assert decode(Drawing, encode(drawing)) == drawing


def test_settings_of_other_variants_are_refused_with_whose_they_are():
    assert problems_of(name="square", size=1, radius=2) == [
        "shape.radius = 2 is not a setting of shape.name = 'square', but of round: leave it out, or choose one of these"
    ]


def test_misspelt_settings_and_names_keep_their_nearest_name():
    assert problems_of(name="round", size=1, raduis=2) == [
        "shape.raduis = 2 is not a setting; did you mean shape.radius?"
    ]
    (problem,) = problems_of(name="sqare", size=1)
    assert problem == "shape.name = 'sqare' is not allowed: it must be one of round, square; did you mean square?"
    (problem,) = problems_of(size=1)
    assert problem == "shape.name is missing: give shape.name=…, which must be one of round, square"


@pytest.mark.parametrize("name", [3, None, ["round"], {"a": 1}])
def test_a_name_that_is_no_text_is_refused(name):
    (problem,) = problems_of(name=name, size=1)
    assert problem.startswith("shape.name = ")


def test_what_was_written_before_passes_over_defaults_of_others_alone():
    before = {"shape": {"name": "round", "size": 1, "radius": 3.0, "side": 2.0, "corners": {}}}
    assert decode(Drawing, before, of_before=True) == Drawing(shape=Round(size=1, radius=3.0))
    before["shape"]["side"] = 5.0
    with pytest.raises(ConfigError, match=r"shape\.side = 5\.0 is not a setting of shape\.name = 'round'"):
        decode(Drawing, before, of_before=True)


def test_names_of_all_variants_are_known():
    assert set(setting_names(Drawing)) == {
        *("shape", "shape.name", "shape.size", "shape.radius", "shape.side", "shape.corners", "width")
    }
    assert variants_of(Base) is SHAPES
    assert variants_of(Round) is None
    assert set(hints_of(Round)) == {"name", "size", "radius"}
