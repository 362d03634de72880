"""Questions out of files as SQuAD has them: articles, their paragraphs, and the questions about each."""

from collections.abc import Iterator, Mapping
from typing import Any

from dist_plm.core.errors import DataError


def is_article(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("paragraphs"), list)


def questions_of(article: Mapping[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each question of an article with its place, as a row with `id`, `title`, `context`, `question` and `answers`.

    Raises:
        DataError: it is not laid out as SQuAD's are.
    """
    for number, paragraph in enumerate(article["paragraphs"], 1):
        where = f"{place}, paragraph {number}"
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list) or not isinstance(paragraph.get("context"), str):
            raise DataError(f"{where} has no `context` with a list of `qas`, as paragraphs of SQuAD have")
        for asked, question in enumerate(questions, 1):
            spot = f"{where}, question {asked}"
            if not isinstance(question, dict) or "question" not in question:
                raise DataError(f"{spot} is no object with a `question`")
            row = {name: question.get(name) for name in ("id", "question", "answers")}
            yield spot, {**row, "title": article.get("title"), "context": paragraph["context"]}
