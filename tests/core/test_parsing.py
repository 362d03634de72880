import pytest

from dist_plm.core.parsing import is_number, load_json, load_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\nb: 2\na: 3", 'duplicate key a: keep one of them; in "f", line 3'),
        ("a: {b: 1, b: 1}", "duplicate key b"),
        ("a: [{c: 1, c: 2}]", "duplicate key c"),
        ("a: 010", "010 is not the same number to every reader"),
        ("a: 1:30", "1:30 is not the same"),
        ("a: -1:30:00.5", "1:30:00.5 is not the same"),
        ("a: 1_000", "1_000 is not the same"),
        ("a: 0x10", "0x10 is not the same"),
        ("a: 0b11", "0b11 is not the same"),
        ("a: [1, {b: 007}]", "007 is not the same"),
        ("a: !!int '1:30'", "1:30 is not the same"),
        ("a: &a [*a]", "contains itself"),
        ("&a a: {b: &c {d: *c}}", "contains itself"),
        (BOMB, "aliases repeat themselves"),
        ("[" * 100 + "]" * 100, "nest more than 50 levels"),
        ("[" * 20_000 + "]" * 20_000, "nests more than 50 levels"),
        ("{a: " * 1_000 + "1" + "}" * 1_000, "nest"),
        ("a: " + "9" * 5_000, "… (5,000 characters) is too large: no number of more than 4,300 digits is read; in "),
        ("a: 0x" + "f" * 5_000, "… (5,002 characters) is too large"),
        ("a: 1\n" + "b" * 900 + ": 1\n" + "b" * 900 + ": 1", "… (900 characters): keep one of them"),
        ("? [1, 2]\n: 3", "keys are names"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [1", "expected ',' or ']'"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \0", "special characters"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).+") as caught:
        load_yaml(text, "f")
    assert part in str(caught.value)


def test_plain_values_are_read() -> None:
    text = "a: [1, -2, +3, 0, 1.5, .5, true, null, 1e-4, 2024-01-01, '010', ~, 1.0e+3]\nb: &b {c: x}\nd: *b"
    listed = [1, -2, 3, 0, 1.5, 0.5, True, None, "1e-4", "2024-01-01", "010", None, 1000.0]
    assert load_yaml(text, "f") == {"a": listed, "b": {"c": "x"}, "d": {"c": "x"}}
    assert load_yaml("[1e-4, 3E5, 1e+2, -1e3, 1.e2, e5]", "f", plain_exponents=True) == [
        1e-4,
        3e5,
        1e2,
        -1e3,
        1e2,
        "e5",
    ]
    assert load_yaml("", "f") is None


def test_numbers_of_json_that_nobody_reads_are_refused_without_advice_on_python() -> None:
    with pytest.raises(ValueError, match="it holds a number of more than 4,300 digits"):
        load_json('{"a": ' + "9" * 5_000 + "}")
    with pytest.raises(ValueError, match="Expecting value: line 1 column 7"):
        load_json('{"a": ')


def test_json_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match="nests too deeply"):
        load_json("[" * 100_000 + "]" * 100_000)
    assert load_json(b'{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(("value", "number"), [(1, True), (1.5, True), (True, False), ("1", False), (10**400, False)])
def test_numbers(value: object, number: bool) -> None:
    assert is_number(value) == number
