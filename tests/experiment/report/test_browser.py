"""``report.html`` in a browser: sorting, filtering and choosing a query, by its own controls."""

import html
import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from pyterrier.measures import R, nDCG

from pyterrier_merge import compare
from pyterrier_merge.collections import from_frames

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ACTIONS = """
const said = {};
const $ = (selector) => document.querySelector(selector);
const column = (n) => [...$("#results tbody").rows].map((row) => row.cells[n].textContent);
const change = (id, value, event) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
said.before = column(0);
const button = $("#results thead th:nth-child(2) button");
button.click(); said.down = column(1); said.sort = button.parentElement.getAttribute("aria-sort");
button.click(); said.up = column(1);
$("#results thead th:first-child button").click(); said.names = column(0);
const filter = $("#results input");
filter.value = "SYSTEM 1"; filter.dispatchEvent(new Event("input"));
said.left = [...$("#results tbody").rows].filter((row) => row.offsetParent).map((row) => row.cells[0].textContent);
said.count = $("#results output").value;
said.hidden = $("#chooser").hidden;
change("#left", "0", "change"); change("#right", "1", "change");
said.queries = [...$("#query").options].map((option) => option.textContent);
change("#query-filter", "q3", "input");
said.found = [...$("#query").options].map((option) => option.value);
said.title = $("#query-view h3").textContent;
said.captions = [...document.querySelectorAll("#query-view caption")].map((caption) => caption.textContent);
said.first = [...document.querySelectorAll("#query-view tbody tr:first-child")].map((row) => row.innerText);
said.elements = document.querySelectorAll("#query-view b").length;
said.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const p = [...$("#tests thead").rows[0].cells].findIndex((cell) => cell.textContent === "p_value");
const cells = () => [...$("#tests tbody").rows].map((row) => row.cells[p].textContent);
$("#tests tbody").rows[1].cells[p].textContent = "<1e-300";
const sorted = $(`#tests thead th:nth-child(${p + 1}) button`);
sorted.click(); sorted.click(); said.p = cells();
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Twelve systems; system n ranks the relevant document of query m at (n + m) % 12 + 1."""
    docs = [{"docno": f"d{n}", "text": f"<b>text {n}</b>"} for n in range(12)]
    topics = pd.DataFrame({"qid": [f"q{n}" for n in range(6)], "query": [f"<b>query {n}</b>" for n in range(6)]})
    collection = from_frames("twelve", docs, topics, topics.assign(docno="d0", label=1)[["qid", "docno", "label"]])
    systems = {}
    for number in range(12):
        rows = [
            (f"q{m}", f"d{(place - number - m) % 12}", -float(place)) for m in range(6) for place in range(12)
        ]  # d0 is at place (number + m) % 12
        systems[f"system {number}"] = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    found = compare(systems, collection, measures=[nDCG @ 10, R @ 1])
    folder = found.save(tmp_path_factory.mktemp("browser") / "out")
    return found, (folder / "report.html").read_text()


def run(page, folder, width):
    """What the actions found, in a window of some width; the policy, which refuses other scripts, is left out."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    file = folder / "page.html"
    file.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', shown, flags=re.DOTALL)[1]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_a_reader_sorts_filters_and_looks_at_a_query(page, tmp_path, width):
    found, text = page
    said = run(text, tmp_path, width)
    marked = found.marked()
    assert said["before"] == marked["system"].tolist()
    figures = sorted(found.table["nDCG@10"].tolist())
    assert [float(cell.split()[0]) for cell in said["up"]] == pytest.approx(figures, abs=5e-5)
    assert [float(cell.split()[0]) for cell in said["down"]] == pytest.approx(figures[::-1], abs=5e-5)
    assert said["sort"] == "descending"
    assert said["names"] == ["system 0 (a)", *(f"system {n}" for n in range(1, 12))]  # 2 comes before 10
    assert said["left"] == ["system 1", "system 10", "system 11"]
    assert said["count"] == "3 of 12 rows"
    assert said["hidden"] is False
    per_query = found.per_query[found.per_query["measure"] == "nDCG@10"].pivot(
        index="qid", columns="name", values="value"
    )
    change = per_query["system 1"] - per_query["system 0"]
    shown = [float(line.split()[0]) for line in said["queries"]]
    assert shown == pytest.approx(sorted(change, key=abs, reverse=True), abs=6e-5)
    assert len(said["found"]) == 1
    assert said["title"] == "<b>query 3</b>"
    assert said["captions"] == [f"system {n}: nDCG@10 {per_query[f'system {n}']['q3']:.4f}" for n in (0, 1)]
    assert [row.split()[:3] for row in said["first"]] == [["1", "?", "not"]] * 2
    assert all("<b>text" in row for row in said["first"])
    assert said["elements"] == 0
    assert said["p"][0] == "<1e-300"
    assert [float(value) for value in said["p"][1:]] == sorted(float(value) for value in said["p"][1:])
    assert said["wide"] is False  # the page itself does not scroll sideways, on a phone neither
