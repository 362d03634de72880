"""How fast data is prepared and read, beside Megatron-core, Hugging Face and datasketch.

    python bench/data.py                # all parts, some minutes
    python bench/data.py --quick        # smaller sizes, a minute or two
    python bench/data.py --only c d     # some of the parts

(a) prepare_data from text to store against the bare batch call of Hugging Face's tokenizers, on the same cores;
(b) opening a store of 10^9 samples and reading a batch, against the index that Megatron-core's GPTDataset builds;
(c) pairs for BERT, read, cut, masked and padded, on one core, against Megatron-core's BERT dataset and Hugging Face's collator;
(d) MinHash signatures and near-duplicates of documents, against datasketch at equal recall;
(e) time to prepare 1, 2 and 4 times as much text.

bench/data_memory.py measures the memory of preparing. The sides of a comparison take turns in one run. Each line ends with its
goal and whether it was reached. Needs the `bench` extra for (d).
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from data_duplicates import near_duplicates
from data_opening import open_megatron, open_ours, opening
from data_pairs import pairs
from data_preparing import bare_tokenization, scaling, tokenization

PARTS = {"a": tokenization, "b": opening, "c": pairs, "d": near_duplicates, "e": scaling}
CHILDREN: dict[str, Callable[[Path], object]] = {
    "bare_tokenization": bare_tokenization,
    "open_ours": open_ours,
    "open_megatron": open_megatron,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--directory", type=Path, default=None, help="for files; up to 4 GB")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child[0]](Path(options.child[1]))))
        return
    # Absolute: parts are given to processes that work elsewhere.
    directory = None if options.directory is None else options.directory.resolve()
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench_data_") as folder:
        for name in options.only:
            inner = Path(folder) / name
            inner.mkdir()
            PARTS[name](inner, quick=options.quick)


if __name__ == "__main__":
    main()
