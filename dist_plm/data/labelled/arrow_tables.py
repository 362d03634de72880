"""Reads the rows of Parquet and Arrow files whole."""

from typing import Any

from dist_plm.core.errors import DataError, reason_of


def rows_of_table(path: str, form: str) -> list[dict[str, Any]]:
    """Reads rows by column.

    Args:
        form: "parquet", or "arrow", a stream (which `datasets` writes) or a file (Feather 2).
    Raises:
        DataError: the file is of another form, or damaged.
    """
    # Arrow is loaded where it is needed alone.
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    try:
        if form == "parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            table = _arrow_table(path)
        table.validate(full=True)
        return table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} is not {form.capitalize()}, or is damaged: {reason_of(error, path)}; fetch the file again"
        ) from None


def _arrow_table(path: str) -> Any:
    import pyarrow as pa

    with pa.memory_map(path) as memory:
        try:
            return pa.ipc.open_stream(memory).read_all()
        except pa.ArrowInvalid:
            memory.seek(0)
            return pa.ipc.open_file(memory).read_all()
