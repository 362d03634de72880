"""The picture of a plan is whole in a real browser: nothing is fetched, nothing hangs over, every part is there."""

import json
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from dist_plm.plan.picture import picture, write_picture
from dist_plm.plan.verdict import make_plan
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Asks the browser what it laid out, in the title, which --dump-dom shows.
ASK = """<script>
const found = {svgs: [], overflow: document.documentElement.scrollWidth - innerWidth, text: document.body.innerText};
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  const outside = [...svg.querySelectorAll('rect, text')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > frame.right + 1.5 || box.left < frame.left - 1.5 || box.bottom > frame.bottom + 1.5;
  });
  found.svgs.push({id: svg.id, boxes: svg.querySelectorAll('rect').length, outside: outside.length, width: frame.width});
}
document.title = JSON.stringify(found);
</script>"""


def planned(**changes):
    sizes = SIZES | {"cluster__gpu": "a100"} | changes
    return make_plan(finalize(pretrain(**sizes), world_size=8, vocab_size=None), 8)


def test_it_holds_all_that_it_shows(tmp_path):
    plan = planned(parallel__pipeline=4, run__name="a<b")
    write_picture(plan, str(tmp_path / "new" / "plan.html"))
    text = (tmp_path / "new" / "plan.html").read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "a&lt;b" in text
    for svg in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("changes", [{"parallel__pipeline": 4, "parallel__virtual_pipeline": 2}, {}])
def test_a_browser_shows_it(tmp_path, changes):
    assert CHROMIUM is not None
    plan = planned(**changes)
    page = tmp_path / "plan.html"
    page.write_text(picture(plan).replace("</body>", f"{ASK}</body>"))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--window-size=1100,900",
    ]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    found = json.loads(title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["overflow"] <= 0
    charts = {one["id"]: one for one in found["svgs"]}
    assert charts.keys() == ({"memory", "pipeline", "parts"} if changes else {"memory", "parts"})
    assert all(one["outside"] == 0 and one["width"] > 800 for one in charts.values()), charts
    assert charts["parts"]["boxes"] == sum(part > plan.step.seconds / 1000 for part in plan.step.parts.values())
    if changes:
        assert charts["pipeline"]["boxes"] == 2 * 4 * 2 * 12
        assert charts["memory"]["boxes"] >= 4 * 6
    for shown in ("weights", "moments", "compute", "GiB of the GPU"):
        assert shown in found["text"]
