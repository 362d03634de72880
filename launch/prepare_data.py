"""Turns raw text into a tokenized store that launch/pretrain.py reads: read, drop duplicates, split, tokenize.

    python launch/prepare_data.py data.sources='[{path: texts/*.txt}]' data.out=corpus/mine
    python launch/prepare_data.py data.sources='[{path: "web/**/*.jsonl.gz", text: content}]' data.out=corpus/web \\
        tokenizer=file tokenizer.path=gpt2/tokenizer.json data.workers=16

A source is a glob of .txt or .jsonl files, each also .gz. `document: whole` (a file or JSONL row), `block` (between
blank lines) or `line` says what a document is; `max_chars: 8192` cuts longer ones, so that a few books split evenly.
The store holds train, validation and test as Megatron .bin/.idx pairs, tokenizer.json and manifest.json. An interrupted
run goes on when it is started again; the same input and configuration give the same bytes with any number of workers.

Most used settings:
  data.sources=[…]  data.out=DIR                     what to read, where to write
  data.workers=8                                     processes
  data.split=[0.98,0.01,0.01]                        shares of train, validation and test
  tokenizer.vocab_size=32768                         of the BPE that is trained on the text
  tokenizer=file tokenizer.path=FILE                 or a tokenizer.json that there is
  data.overwrite=true                                replaces a store made otherwise
"""

import os

from _app import main

from dist_plm.config.launchenv import from_environment
from dist_plm.config.origins import Origin
from dist_plm.config.schema_prepare import PrepareConfig


def run(config: PrepareConfig, origins: dict[str, Origin]) -> int | None:
    from dist_plm.data.prepare import prepare  # imports the tokenizers, which --help does without

    prepare(config, print, from_environment(os.environ))


if __name__ == "__main__":
    main(PrepareConfig, "prepare_data", run, __doc__)
