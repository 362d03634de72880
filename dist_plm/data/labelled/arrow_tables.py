"""Reads the rows of Parquet and Arrow files whole."""

from typing import Any

from dist_plm.core.errors import DataError, reason_of


def rows_of_table(path: str, form: str) -> list[dict[str, Any]]:
    """Reads rows by column.

    Args:
        form: "parquet", or "arrow", a stream (which `datasets` writes) or a file (Feather 2).
    Raises:
        DataError: the file is of another form, or damaged, or two columns have one name.
    """
    # Arrow is loaded where it is needed alone.
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    try:
        if form == "parquet":
            _refuse_doubled(pyarrow.parquet.read_schema(path), path)
            table = pyarrow.parquet.read_table(path)
        else:
            table = _arrow_table(path)
            _refuse_doubled(table.schema, path)
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


def _refuse_doubled(fields: Any, path: str) -> None:
    """Sees to it that columns, and those within a column, have different names."""
    import pyarrow as pa

    names = [field.name for field in fields]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{path}: {names.count(twice[0])} columns are called {twice[0]!r}, and which of them is meant cannot be told: "
            "give them different names"
        )
    for field in fields:
        if pa.types.is_struct(field.type):
            _refuse_doubled(field.type.fields, path)
