"""Turns raw text into a tokenized store that launch/pretrain.py reads: read, clean, drop duplicates, tokenize.

    python launch/prepare_data.py data.sources='[{path: texts/*.txt}]' data.out=corpus/mine
    python launch/prepare_data.py data.sources='[{path: "web/**/*.jsonl.gz", text: content}]' data.out=corpus/web \\
        tokenizer=file tokenizer.path=gpt2/tokenizer.json clean=web dedup=minhash data.workers=16
    torchrun --nproc-per-node 8 launch/prepare_data.py …      or srun: the ranks share the work through the directory
    python launch/prepare_data.py verify=corpus/mine      compares every file of a store with its hash

A source is {path: GLOB} of .txt, .jsonl, .csv or .tsv files, each also .gz or .zst, of .parquet or .arrow files; {hf: DATASET,
split: train, streaming: true}; or {python: "module:function"}. `text: COLUMN` or "{title?}: {body}" says which columns of a
row are its text, with ? those that may be empty; `quoting: none` or `minimal` what quotes are in CSV and TSV. `document:
whole` (a file or row), `block` (between blank lines) or `line` says what a document is; `max_chars: 8192` cuts longer ones,
so that a few books split evenly.
The store holds train, validation and test as Megatron .bin/.idx pairs, a tokenizer that Transformers opens, and
manifest.json. An interrupted run goes on when it is started again; the same input and configuration give the same bytes
with any number of workers and ranks.

Most used settings:
  data.sources=[…]  data.out=DIR                     what to read, where to write
  data.workers=8                                     processes
  clean=none|basic|web  clean.rules=[nfc,length]     rules of cleaning, in their order
  dedup=none|exact|minhash                           which documents count as said before
  data.max_rejected=0.01                             share of broken records (rejected.jsonl) that is borne
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
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.origins import Origin
from dist_plm.distributed.launch_env import from_environment
from dist_plm.spec.prepare.schema import PrepareConfig, VerifyConfig


def run(config: PrepareConfig, origins: dict[str, Origin]) -> int | None:
    from dist_plm.data.prepare.prepare import prepare  # imports the tokenizers, which --help does without

    prepare(config, print, from_environment(os.environ))


def run_verify(config: VerifyConfig, origins: dict[str, Origin]) -> int | None:
    from dist_plm.data.store.verify import verify

    verify(Path(config.verify), print)


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    if any(argument.startswith("verify=") for argument in sys.argv[1:]):
        app.main(VerifyConfig, "verify_data", run_verify, __doc__)
    app.main(PrepareConfig, "prepare_data", run, __doc__)


if __name__ == "__main__":
    main()
