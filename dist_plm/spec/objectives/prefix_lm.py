"""Declares prefix language modelling."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import TokensConfig
from dist_plm.spec.objectives.windows import WindowsConfig


@dataclass(frozen=True, kw_only=True)
class PrefixLmConfig(WindowsConfig, TokensConfig):
    """The first tokens of a text see each other, the others are predicted from all before them (Raffel et al. 2020, section
    3.2.1, "prefix LM").

    Any length of the prefix that leaves a token to predict is as likely as any other. With `document_mask` each document of a
    row has a prefix of its own, else the row has one."""

    body: ClassVar[str] = "prefix_lm"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder",)
    loss_terms: ClassVar[tuple[str, ...]] = ("prefix_lm",)
    predicts_next: ClassVar[bool] = True
    opens_prefix: ClassVar[bool] = True

    name: Literal["prefix_lm"] = "prefix_lm"
