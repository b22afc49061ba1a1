import pytest

from pyterrier_merge.encoding.saving.licences import Licence, read_licence, read_licences


@pytest.mark.parametrize(
    ("card", "licence", "words"),
    [
        (None, Licence(), "unknown"),
        ("no front matter", Licence(), "unknown"),
        ("---\nlicense: mit\n---\ntext", Licence(("mit",)), "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", Licence(("other",), "gemma"), "gemma"),
        ("---\nlicense: other\n---\n", Licence(("other",)), "other"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", Licence(("mit", "apache-2.0")), "mit, apache-2.0"),
        ("---\ntags: [a]\n---\n", Licence(), "unknown"),
        ("---\n- a list\n---\n", Licence(), "unknown"),
        ("---\nlicense: [broken\n---\n", Licence(), "unknown"),
    ],
)
def test_a_licence_is_what_the_card_states(card, licence, words, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path) == licence
    assert str(licence) == words


@pytest.mark.parametrize(("link", "kept"), [("https://a.org/terms", "https://a.org/terms"), ("LICENSE", None)])
def test_a_link_is_kept_where_it_leads_somewhere_from_another_card(link, kept, tmp_path):
    (tmp_path / "README.md").write_text(f"---\nlicense: other\nlicense_name: own\nlicense_link: {link}\n---\n")
    licence = read_licence(tmp_path)
    assert licence.link == kept
    assert licence.fields() == {"license": "other", "license_name": "own"} | ({"license_link": kept} if kept else {})


def test_licences_are_equal_whatever_they_link_to():
    assert Licence(("other",), "own", "https://a.org") == Licence(("other",), "own")
    assert Licence(("other",), "own") != Licence(("other",), "another")


def test_the_card_of_a_gguf_file_lies_beside_it(tmp_path):
    (tmp_path / "tiny.gguf").touch()
    (tmp_path / "README.md").write_text("---\nlicense: llama2\n---\n")
    assert read_licences(tmp_path / "tiny.gguf") == (Licence(("llama2",)),)
