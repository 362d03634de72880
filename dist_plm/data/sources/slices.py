"""A part of a source that one process reads."""

from dataclasses import dataclass

from dist_plm.spec.prepare.schema import SourceConfig


@dataclass(frozen=True, slots=True)
class Slice:
    """[start, stop) of a source, counted in what its format can be cut at.

    Bytes of uncompressed text and JSON lines (a line belongs to the slice in which it begins), row groups of Parquet, rows
    of a downloaded dataset, shards of a streamed one. What else there is comes whole.

    Attributes:
        path: the file, or the name of the dataset or function.
        format: a value of SourceConfig.format, or "hf" or "python".
        num_bytes: about how much there is to read, which makes slices comparable.
        is_one_of_many: whether the source has other files; then one without rows is none that is broken.
    """

    source: SourceConfig
    path: str
    format: str
    start: int
    stop: int
    num_bytes: int
    is_one_of_many: bool = False

    @property
    def counts_rows(self) -> bool:
        """Whether places in it are rows of a table, not lines of a file."""
        return self.format not in ("text", "jsonl", "csv", "tsv")

    @property
    def holds_rows(self) -> bool:
        """Whether a file of it can be whole without any document."""
        return self.format != "text"

    @property
    def goes_on(self) -> bool:
        """Whether lines of its file may come before its own."""
        return self.start > 0 and not self.counts_rows

    @property
    def counts_slices(self) -> bool:
        """Whether `start` counts shards, each with rows of its own numbers."""
        return self.format == "hf" and self.source.streaming
