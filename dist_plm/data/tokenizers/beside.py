"""Reads what stands beside a tokenizer's file and may change its ids: settings, added tokens, the class that reads it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers as hf

from dist_plm.data.tokenizers.find_special_tokens import COMPANIONS, content_of, declared_tokens, read_json_object

ADDED = "added_tokens.json"
MODEL = "config.json"
#: What Transformers reads of a model's configuration to choose how a tokenizer is read.
_OF_MODEL = ("model_type", "model_name", "tokenizer_class", "transformers_version")
#: Classes that take a tokenizer.json as it is.
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
#: Settings of tokenizer_config.json that change no id where the class is generic, or there is none.
_HARMLESS = frozenset(
    {
        *("tokenizer_class", "backend", "is_local", "model_max_length", "model_input_names", "padding_side"),
        *("truncation_side", "clean_up_tokenization_spaces", "chat_template", "do_lower_case", "name_or_path"),
    }
)
#: Settings that name special tokens, which change an id where the tokenizer does not have them yet.
_NAMES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True, slots=True)
class Beside:
    """The files of a tokenizer's directory that Transformers heeds, {} where there is none.

    Attributes:
        config: tokenizer_config.json.
        named: special_tokens_map.json.
        added: added_tokens.json.
        model: what config.json says of the tokenizer.
    """

    config: Mapping[str, Any]
    named: Mapping[str, Any]
    added: Mapping[str, Any]
    model: Mapping[str, Any]

    @classmethod
    def of(cls, file: Path) -> "Beside":
        """Reads what lies beside `file`.

        Raises:
            DataError: one of them is there and is not a JSON object.
        """
        named, config, added, model = (read_json_object(file.with_name(name)) for name in (*COMPANIONS, ADDED, MODEL))
        return cls(config, named, added, {key: model[key] for key in _OF_MODEL if key in model})

    @property
    def tokenizer_class(self) -> str | None:
        """The class that is named, unless it says nothing of how text is read; else the kind of model."""
        named = self.config.get("tokenizer_class") or self.model.get("tokenizer_class")
        if named is not None and named not in GENERIC:
            return str(named)
        return None if named is not None or "model_type" not in self.model else f"of {self.model['model_type']!r}"

    @property
    def is_empty(self) -> bool:
        """Whether nothing says anything of the tokenizer."""
        return not (self.config or self.named or self.added) and self.tokenizer_class is None

    @property
    def is_harmless(self) -> bool:
        """Whether nothing but names of special tokens could change an id of a tokenizer.json."""
        known = _HARMLESS.union(_NAMES, _LISTS)
        return not self.added and not self.model and self.tokenizer_class is None and known.issuperset(self.config)

    @property
    def declared(self) -> tuple[Mapping[str, Any], ...]:
        """Files that name special tokens, the last one counts."""
        return self.named, self.config

    def agrees_with(self, tokenizer: hf.Tokenizer) -> bool:
        """Whether a tokenizer.json is a tokenizer's whole description: all special tokens that are named are in it."""
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        roles, others = declared_tokens(*self.declared)
        return self.is_harmless and special.issuperset((*roles.values(), *others))

    def assuming(self, tokenizer_class: str, defaults: Mapping[str, Any]) -> "Beside":
        """The same, of a class and with settings that count where none are named."""
        if self.tokenizer_class is not None or "auto_map" in self.config:  # which names code of its own
            return self
        return replace(self, config={**defaults, **self.config, "tokenizer_class": tokenizer_class})

    def numbered(self) -> Iterator[tuple[str, str, int]]:
        """The numbers that files give to added tokens: the file's name, the token, its number."""
        for name, number in self.added.items():
            yield ADDED, name, number
        decoder = self.config.get("added_tokens_decoder")
        for number, token in decoder.items() if isinstance(decoder, dict) else ():
            if (name := content_of(token)) is not None and number.isdecimal():
                yield COMPANIONS[1], name, int(number)

    def told(self) -> str:
        """Gives what the model says, for a fingerprint."""
        return json.dumps(self.model, sort_keys=True)
