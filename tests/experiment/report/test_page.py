"""``report.html``: what it shares with the table, what it escapes, what it refers to, and how large it is."""

import base64
import hashlib
import json
import re
from pathlib import Path

import lxml.html
import pandas as pd
import pytest
from pyterrier.measures import P, R, nDCG

from pyterrier_merge import compare
from pyterrier_merge.collections import from_frames
from pyterrier_merge.experiment.report import drill_down as room
from pyterrier_merge.experiment.report import markdown
from pyterrier_merge.experiment.report.drill_down import drill_down, shortened
from pyterrier_merge.experiment.report.html import source
from pyterrier_merge.experiment.report.marks import legend, p_shown
from pyterrier_merge.experiment.report.page import html_page
from pyterrier_merge.systems import System

QUERIES = ["<script>alert(1)</script>", "</script><b>x", "two & two", "統合 'quoted'", "five", "six"]
ODD = 'odd "name" <i>'


class Broken(System):
    """Fails with a message that looks like a page."""

    def prepare(self, bench):
        raise ValueError("no <b>model</b>")


def ranked(*ranks):
    """Results in which the relevant document of query n has rank ``ranks[n]``, from 1."""
    rows = []
    for number, rank in enumerate(ranks):
        others = [f"d{other}" for other in range(12) if other != number]
        order = [*others[: rank - 1], f"d{number}", *others[rank - 1 :]]
        rows += [(f"q{number}", docno, 12.0 - place) for place, docno in enumerate(order)]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


GOOD, POOR = ranked(1, 1, 1, 1, 1, 2), ranked(4, 5, 3, 12, 9, 4)


@pytest.fixture(scope="module")
def collection():
    """Twelve documents; document n is relevant for query n, the next is judged not relevant."""
    docs = [{"docno": f"d{n}", "text": f"</script><b>text {n}</b> " + "long " * 100} for n in range(12)]
    topics = pd.DataFrame({"qid": [f"q{n}" for n in range(6)], "query": QUERIES})
    rows = [(f"q{n}", f"d{d}", label) for n in range(6) for d, label in ((n, 2), (n + 1, 0))]
    return from_frames("odd", docs, topics, pd.DataFrame(rows, columns=["qid", "docno", "label"]))


@pytest.fixture(scope="module")
def found(collection):
    systems = {"poor": POOR, ODD: GOOD, "again": GOOD, "broken": Broken()}
    return compare(systems, collection, measures=[nDCG @ 10, R @ 10])


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory) -> Path:
    return found.save(tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def page(folder):
    return lxml.html.fromstring((folder / "report.html").read_text())


def cells(table):
    head = [cell.text_content() for cell in table.find("thead/tr")]
    return pd.DataFrame([[cell.text_content() for cell in row] for row in table.find("tbody")], columns=head)


def words(element):
    return " ".join(element.text_content().split())


def test_tables_and_sentences_are_those_of_the_comparison(found, page, folder):
    results, tests = page.find_class("sortable")
    pd.testing.assert_frame_equal(cells(results), found.marked())
    shown = markdown.tests_table(found).map(str)
    pd.testing.assert_frame_equal(cells(tests), shown)
    assert [bold.text for bold in results.iter("b")] == [
        f"{found.table[name].max():.4f}" for name in found.measures
    ] * 2
    other = (folder / "report.md").read_text()
    for said in (found.verdict(), legend(found), markdown.tests_explained(found), *markdown.all_notes(found)):
        assert said in other
        assert " ".join(said.split()) in words(page)


def test_why_a_system_failed_is_said_once(page, folder):
    assert words(page).count("broken failed: no <b>model</b>.") == 1
    assert (folder / "report.md").read_text().count("no <b>model</b>") == 1


def test_untrusted_text_stays_text(page, found):
    assert [script.get("type") for script in page.iter("script")] == ["application/json", None]
    assert not list(page.iter("i"))
    assert all(re.fullmatch(r"[\d.]+", bold.text) for bold in page.iter("b"))  # the best figures alone
    data = json.loads(page.get_element_by_id("query-data").text)
    assert {query["query"] for query in data["queries"]} == set(QUERIES)
    assert data["systems"] == ["poor", ODD]
    assert dict(data["docs"])["d0"].startswith("</script><b>text 0</b> long")


def test_nothing_is_loaded_from_elsewhere(page, folder):
    for element in page.iter():
        for name, value in element.items():
            if name.split(":")[-1].rstrip("}") in ("src", "href", "action", "data", "srcset", "poster"):
                assert not re.match(r"\s*(\w+:)?//", value), (element.tag, name, value)
    text = (folder / "report.html").read_text()
    assert "@import" not in text
    assert all(name.startswith("#") for name in re.findall(r"url\(([^)]*)\)", text))
    [policy] = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    script = page.xpath("//script[not(@type)]")[0].text
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_within_the_page_are_unique_and_known(page, folder):
    names = page.xpath("//@id")
    assert len(names) == len(set(names))
    text = (folder / "report.html").read_text()
    referred = [name[1:] for name in page.xpath("//@href") if name.startswith("#")]
    referred += [name for value in page.xpath("//@aria-labelledby | //label/@for") for name in value.split()]
    referred += re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)
    assert set(referred) <= set(names)


def test_files_that_are_linked_are_there(page, folder):
    links = {link for link in page.xpath("//a/@href") if not link.startswith("#")}
    assert {"means.png", "differences-a.png", "results.csv", "table.tex", "runs"} <= links
    assert all((folder / link).exists() for link in links)


def test_a_screen_reader_finds_names_of_everything(page):
    assert page.get("lang") == "en"
    for table in page.iter("table"):
        assert table.find("caption").text_content().strip()
        assert all(cell.get("scope") for cell in table.iter("th"))
    for picture in page.iter("svg"):
        assert picture.get("role") == "img"
        assert picture.get("aria-labelledby")
    controls = {element.get("id") for kind in ("select", "input") for element in page.iter(kind)}
    assert controls == set(page.xpath("//label/@for"))
    assert all(element.get("aria-label") or element.get("aria-labelledby") for element in page.find_class("wide"))


def test_the_same_comparison_is_the_same_page(found, folder, tmp_path):
    again = found.save(tmp_path / "again") / "report.html"
    assert again.read_text() == (folder / "report.html").read_text()


def test_pictures_have_names_as_text(page):
    texts = [text.text_content() for text in page.iter("text")]
    assert ODD in texts
    assert "5 better, 0 worse" in texts or "6 better, 0 worse" in texts


def test_single_queries_by_hand(found):
    """Query 3: rank 12 against rank 1; query 4: 9 against 1. Rank r counts 1 / log2(r + 1)."""
    data = drill_down(found)
    first, second = data["queries"][:2]
    assert (first["qid"], first["values"], first["relevant"]) == ("q3", [0.0, 1.0], 1)
    assert (second["qid"], second["values"]) == ("q4", [0.30103, 1.0])
    docnos = [docno for docno, _ in data["docs"]]
    poor, good = ([(docnos[place], score, label) for place, score, label in top] for top in first["top"])
    assert good[:2] == [("d3", 12.0, 2), ("d0", 11.0, None)]
    assert poor[:5] == [("d0", 12, None), ("d1", 11, None), ("d2", 10, None), ("d4", 9, 0), ("d5", 8, None)]
    assert len(poor) == 10
    assert data["start"] == [0, 1]  # the baseline, and the best of the others


def test_equal_scores_are_shown_in_the_order_that_was_measured(collection):
    data = drill_down(compare({"tied": POOR.assign(score=1.0)}, collection, measures=[P @ 1]))
    docnos = [docno for docno, _ in data["docs"]]
    shown = [docnos[place] for place, _, _ in data["queries"][0]["top"][0]]
    assert shown == sorted((f"d{n}" for n in range(12)), reverse=True)[:10]
    assert data["start"] == [0, 0]


def test_a_large_page_has_the_queries_that_differ_most(tmp_path, monkeypatch):
    """Of 300 queries the last 150 differ; texts are cut, and the page says how many queries it has."""
    docs = [{"docno": f"d{n}", "text": "統合" * 5_000} for n in range(40)]
    topics = pd.DataFrame({"qid": [f"q{n}" for n in range(300)], "query": [f"query {n}" for n in range(300)]})
    many = from_frames("many", docs, topics, topics.assign(docno="d0", label=1)[["qid", "docno", "label"]])
    order = {"same": list(range(12)), "other": [*range(1, 12), 0]}
    rows = {
        name: [(f"q{n}", f"d{d}", -float(place)) for n in range(300) for place, d in enumerate(docs_)]
        for name, docs_ in (("one", order["same"]), ("two", order["other"]))
    }
    one, two = (pd.DataFrame(rows[name], columns=["qid", "docno", "score"]) for name in ("one", "two"))
    half = one["qid"].str[1:].astype(int) < 150
    found = compare({"one": one, "two": pd.concat([one[half], two[~half]])}, many, measures=[nDCG @ 10])
    page = (found.save(tmp_path / "out") / "report.html").read_text()
    assert "The 100 of 300 queries in which nDCG@10 differs most" in page
    assert len(page.encode()) < 500_000
    data = drill_down(found)
    assert [query["qid"] for query in data["queries"]] == [f"q{n}" for n in range(150, 250)]
    assert max(len(text.encode()) for _, text in data["docs"]) <= room.SNIPPET + len(" …".encode())
    monkeypatch.setattr(room, "MOST_ROWS", 65)  # ten of each of two systems
    assert len(drill_down(found)["queries"]) == 3


def test_texts_are_cut_between_characters():
    assert shortened("統合", 6) == "統合"
    assert shortened("統合統", 8) == "統合 …"
    assert shortened("a\ud800", 9) == "a?"  # half a pair, which no file holds


def test_a_page_without_any_figure(collection, tmp_path):
    found = compare({"broken": Broken(), "too": Broken()}, collection, measures=[R @ 10])
    page = lxml.html.fromstring((found.save(tmp_path / "out") / "report.html").read_text())
    assert "No system could be measured." in words(page)
    assert not list(page.iter("svg"))
    assert page.xpath("//script[@type]") == []


def test_the_citation_is_that_of_the_readme(page):
    readme = Path(__file__).parents[3].joinpath("README.md").read_text()
    [bibtex] = re.findall(r"```bibtex\n(.*?)```", readme, flags=re.DOTALL)
    assert bibtex.strip() in page.text_content()


def test_every_p_value_is_sorted_as_a_figure():
    [pattern] = re.findall(r"^const FIGURE = /(.*)/;$", source("page.js"), re.MULTILINE)
    assert all(re.search(pattern, p_shown(p)) for p in (0.0, 1e-300, 2.5e-7, 0.05, 1.0))


def test_the_plot_of_costs_is_explained(found):
    text = html_page(found, pictures={"cost": "<svg></svg>"}, files={}, made_with={"packages": {}})
    [caption] = lxml.html.fromstring(text).iter("figcaption")
    assert words(caption) == "nDCG@10 against the time of a search, on the machine that searched. cost.png"
    assert "not drawn" not in text


def test_of_several_trials_the_pictures_of_the_first_are_shown(found):
    svg = '<svg><g id="a"><use xlink:href="#a"/><text>id="a"</text></g></svg>'
    names = ["merged@1-sweep", "merged@2-sweep", "merged@12-sweep", "LoRA-training"]
    text = html_page(found, pictures=dict.fromkeys(names, svg), files={}, made_with={"packages": {}})
    page = lxml.html.fromstring(text)
    captions = [words(caption) for caption in page.iter("figcaption")]
    assert [caption.split(":")[0] for caption in captions] == ["merged@1", "LoRA"]
    linked = page.xpath("//section[@id='plots']/p/a/@href")
    assert linked == ["merged%402-sweep.png", "merged%4012-sweep.png"]
    assert text.count('<g id="picture0-a"><use xlink:href="#picture0-a"/><text>id="a"</text></g>') == 1
    assert text.count('<g id="picture1-a">') == 1
