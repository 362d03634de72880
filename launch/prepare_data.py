"""Turns raw text into a tokenized store that launch/pretrain.py reads: read, drop duplicates, split, tokenize.

    python launch/prepare_data.py data.sources='[{path: texts/*.txt}]' data.out=corpus/mine
    python launch/prepare_data.py data.sources='[{path: "web/**/*.jsonl.gz", text: content}]' data.out=corpus/web \\
        tokenizer=file tokenizer.path=gpt2/tokenizer.json data.workers=16
    python launch/prepare_data.py verify=corpus/mine      compares every file of a store with its hash

A source is a glob of .txt or .jsonl files, each also .gz. `document: whole` (a file or JSONL row), `block` (between
blank lines) or `line` says what a document is; `max_chars: 8192` cuts longer ones, so that a few books split evenly.
The store holds train, validation and test as Megatron .bin/.idx pairs, a tokenizer that Transformers opens, and
manifest.json. An interrupted run goes on when it is started again; the same input and configuration give the same bytes
with any number of workers.

Most used settings:
  data.sources=[…]  data.out=DIR                     what to read, where to write
  data.workers=8                                     processes
  data.split=[0.98,0.01,0.01]                        shares of train, validation and test
  data.sentences=true                                sentence boundaries, for objective=mlm_nsp and mlm_sop
  tokenizer=wordpiece|bpe|bpe_roberta|unigram        trained on the text as BERT, GPT-2, RoBERTa and T5 have it
  tokenizer.vocab_size=32768                         of the tokenizer that is trained
  tokenizer=file tokenizer.path=PATH                 or one that there is: tokenizer.json, vocab.txt, vocab.json, .model
  data.overwrite=true                                replaces a store made otherwise
"""

import os
import sys
from pathlib import Path

from _app import main

from dist_plm.config.launchenv import from_environment
from dist_plm.config.origins import Origin
from dist_plm.config.schema_prepare import PrepareConfig, VerifyConfig


def run(config: PrepareConfig, origins: dict[str, Origin]) -> int | None:
    from dist_plm.data.prepare import prepare  # imports the tokenizers, which --help does without

    prepare(config, print, from_environment(os.environ))


def run_verify(config: VerifyConfig, origins: dict[str, Origin]) -> int | None:
    from dist_plm.data.verify import verify

    verify(Path(config.verify), print)


if __name__ == "__main__":
    if any(argument.startswith("verify=") for argument in sys.argv[1:]):
        main(VerifyConfig, "verify_data", run_verify, __doc__)
    main(PrepareConfig, "prepare_data", run, __doc__)
