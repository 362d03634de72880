"""The page as a file: whole, in place of a page of ours alone, and of a size that a browser opens at once."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.cli.commands.showing import report
from dist_plm.monitor.report import load_run
from dist_plm.monitor.report_page.build import build_page
from dist_plm.monitor.report_page.packed_columns import columns_of
from tests.monitor.make import record, todays_course
from tests.monitor.test_report import make_run

TINY = Path(__file__).parent / "tiny"


def execute(*words: object) -> int:
    return report.execute([str(word) for word in words])


def test_the_text_is_as_without_a_page(tmp_path, capsys):
    assert execute(TINY) == 0
    alone = capsys.readouterr().out
    assert execute(TINY, f"html={tmp_path / 'a.html'}") == 0
    assert capsys.readouterr().out == f"{alone}\npage: {tmp_path / 'a.html'}\n"


def test_a_page_is_written_again_in_its_place(tmp_path):
    page = tmp_path / "a.html"
    for _ in range(2):
        assert execute(TINY, f"html={page}") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert page.read_text().startswith("<!doctype html>\n<!-- written by dist_plm report -->\n")
    assert execute(f"html={page}", TINY, TINY) == 0


def others_file(page: Path) -> None:
    page.write_text("<!doctype html>\n<p>mine</p>")


def link(page: Path) -> None:
    other = page.with_name("other.html")
    other.write_text("x")
    page.symlink_to(other)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (others_file, "is no page of this program"),
        (link, "is a link"),
        (Path.mkdir, "Is a directory"),
        (lambda page: page.parent.rmdir(), "there is no directory"),
    ],
)
def test_a_place_that_is_not_ours_is_refused(tmp_path, capsys, spoil, said):
    page = tmp_path / "folder" / "a.html"
    page.parent.mkdir()
    spoil(page)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert execute(TINY, f"html={page}") == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert said in told.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["html="], "needs a value"),
        (["html=a", "html=b", str(TINY)], "given twice"),
        ([str(TINY), "htm=a.html"], "htm is no setting here"),
        (["html=a.html"], "name a run directory"),
        (["missing", "html=a.html"], "missing is no directory"),
    ],
)
def test_words_that_mean_nothing_are_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert execute(*words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_a_sign_in_its_name_is_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("lr=3"))
    assert execute("lr=3") == 0


def test_nothing_of_a_run_is_markup_and_no_other_script_may_run(tmp_path):
    run = make_run(tmp_path / "a<script>b", settings='x: "</script><!--"\n')
    page = build_page([load_run(run)])
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page.split("\n", 2)[2]
    assert re.search(r"default-src &#x27;none&#x27;; .*connect-src &#x27;none&#x27;", page)
    assert not re.search(
        r"https?://(?!github.com/leeoniya/uPlot )", page.split("<body>")[0] + page.split("</script>")[0]
    )


def test_a_credential_in_the_settings_is_masked(tmp_path):
    run = make_run(tmp_path / "run", settings="checkpoint: {dir: 's3://me:hunter2hunter2@host/x'}\n")
    (run / "origins.json").write_text(json.dumps({"checkpoint.dir": "over s3://me:hunter3hunter3@host/x"}))
    page = build_page([load_run(run)])
    assert "hunter" not in page
    assert "s3://me:***@host/x" in page


def test_a_hundred_thousand_steps_are_less_than_five_megabytes():
    packed = columns_of(todays_course(100_000))
    assert (packed["rows"], packed["every"]) == (100_000, 1)
    assert len(json.dumps(packed)) < 4_500_000


def test_a_page_does_not_wait_for_torch():
    program = "import sys, dist_plm.cli.commands.showing.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_chart_library_carries_its_licence():
    folder = Path(sys.modules["dist_plm.monitor.report_page.build"].__file__ or "").parent / "assets" / "uplot"
    assert "The MIT License" in (folder / "LICENSE").read_text()
    version = re.search(r"uPlot \(v([\d.]+)\)", (folder / "uPlot.iife.min.js").read_text())
    assert version is not None
    assert f"uPlot {version[1]}," in (folder / "README.md").read_text()


def test_records_are_those_of_the_file(tmp_path):
    run = make_run(tmp_path / "run", 0)
    with (run / "metrics.jsonl").open("w") as file:
        file.write(json.dumps(record(1).as_dict()) + "\n")
    assert columns_of(load_run(run).records)["rows"] == 1
