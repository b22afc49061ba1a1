from collections import Counter
from dataclasses import replace
from itertools import chain

import pandas as pd
import pytest

from pyterrier_merge import E5Encoder, LoRATraining
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.training.pair_batches import PairBatches, Texts
from pyterrier_merge.training.pairs import pairs_from_frame

BOS, EOS = 1, 2  # of the tiny Mistral's tokenizer
CLS, SEP = 2, 3  # of the tiny BERT's
WORD = 5  # id of the first word of WORDS


def texts_of(folder, *, paper=False, **settings):
    model, contract = load_retriever(folder, str(folder), device="meta", **settings)
    return Texts(model.tokenizer, contract, paper)


def rows_of(batch):
    """Token ids of each text without padding, which is checked to stand behind them."""
    found = []
    for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        length = sum(mask)
        assert mask == [1] * length + [0] * (len(ids) - length)
        found.append(ids[:length])
    return found


def plan(pairs, batches=6, **settings):
    """Batches whose texts nobody reads."""
    return PairBatches(pairs, None, LoRATraining(**settings), batches).batches


def pairs_of(*rows, **options):
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])
    return pairs_from_frame(frame, **options)


@pytest.mark.parametrize("which", ["bert", "mistral"])
def test_token_ids_are_those_of_the_encoder(which, bert_retriever, mistral_retriever, words):
    folder = bert_retriever if which == "bert" else mistral_retriever
    texts = texts_of(folder, query_prompt="the high ", document_prompt="low ", max_length=12)
    some = ["kidney failure", " ".join(words), "fever \ud800 unheardof"]
    encoder = E5Encoder(folder, query_prompt="the high ", document_prompt="low ", max_length=12, device="cpu")
    model = encoder._text_model()
    for prompt, read in (("the high ", texts.queries), ("low ", texts.documents)):
        assert rows_of(read(some)) == model._tokenise(some, prompt)[0]


def test_tokens_by_hand(bert_retriever, mistral_retriever, words):
    number = {word: WORD + place for place, word in enumerate(words)}
    kidney = [number["kidney"], number["failure"]]
    bert = texts_of(bert_retriever, query_prompt="the ")
    assert rows_of(bert.queries(["kidney failure"])) == [[CLS, number["the"], *kidney, SEP]]
    mistral = texts_of(mistral_retriever, query_prompt="the ", max_length=6)
    assert rows_of(mistral.queries(["kidney failure"])) == [[BOS, number["the"], *kidney, EOS]]
    assert rows_of(mistral.documents(["kidney failure"])) == [[BOS, *kidney, EOS]]
    cut = rows_of(mistral.documents([" ".join(words)]))[0]  # the end survives the cut
    assert cut == [BOS, *range(WORD, WORD + 4), EOS]


def test_padding_is_a_multiple_of_eight_and_never_beyond_the_length(mistral_retriever, words):
    texts = texts_of(mistral_retriever, max_length=20)
    for count, width in ((1, 8), (6, 8), (7, 16), (18, 20), (20, 20)):  # words with BOS and EOS
        batch = texts.documents([" ".join(words[:count]), "fever"])
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
        assert batch["input_ids"][1, 3:].eq(3).all()  # <pad>


def test_paper_prompts_are_those_of_the_papers_scripts(mistral_retriever, monkeypatch, words):
    asked = []
    instruction = "Instruct: the fever\nQuery: "
    texts = texts_of(mistral_retriever, paper=True, query_prompt=instruction, max_length=16)
    real = texts.tokenizer.__call__

    class Spy:
        eos_token_id, pad_token_id = EOS, 3

        def __call__(self, prompted, **options):
            asked.extend(prompted)
            return real(prompted, **options)

    ids = rows_of(replace(texts, tokenizer=Spy()).queries(["kidney"]))[0]
    assert asked == ["Instruct: the fever\\nQuery:kidney"]  # a backslash and an n, and no space
    assert ids[-2:] == [EOS, EOS]
    assert ids[-3] != EOS
    assert rows_of(texts.documents(["kidney failure"]))[0][-2:] == [EOS, EOS]
    cut = rows_of(texts.documents([" ".join(words)]))[0]  # both ends count among the 16 tokens, and survive
    assert cut == [BOS, *range(WORD, WORD + 13), EOS, EOS]


def test_a_model_without_end_of_sequence_has_none_in_the_papers_way(bert_retriever):
    ours, papers = texts_of(bert_retriever), texts_of(bert_retriever, paper=True)
    assert rows_of(ours.documents(["fever"])) == rows_of(papers.documents(["fever"]))


def test_queries_that_share_no_batch_leave_the_others_theirs():
    """Three of 26 queries have the same positive: at most one of them is in a batch, with the other 23."""
    rows = [(f"q{n}", f"query {n}", f"d{max(n, 2)}", f"text {max(n, 2)}") for n in range(26)]
    batches = plan(pairs_of(*rows), 80, batch_size=64)
    assert {len(batch) for batch in batches} == {24}
    used = Counter(qid for batch in batches for qid, *_ in batch)
    assert set(used) == {row[0] for row in rows}
    assert max(used.values()) == 80


def test_the_papers_way_doubles_an_end_that_the_tokenizer_writes_itself(mistral_retriever):
    texts = texts_of(mistral_retriever, max_length=8)
    from tokenizers.processors import TemplateProcessing

    ends = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)])
    texts.tokenizer.backend_tokenizer.post_processor = ends
    texts = Texts(texts.tokenizer, replace(texts.contract, appended=()), paper=True)
    assert rows_of(texts.documents(["fever"]))[0][-3:] == [WORD + 14, EOS, EOS]
    assert rows_of(texts.documents(["fever " * 20]))[0] == [BOS, *[WORD + 14] * 5, EOS, EOS]


def test_no_text_is_relevant_to_another_query_of_its_batch():
    shared = [(f"q{n}", f"query {n}", f"d{n % 3}", f"text {n % 3}") for n in range(9)]
    for batch in plan(pairs_of(*shared), batch_size=4):
        assert len({docno for _, docno in batch}) == len(batch) == 3


def test_copies_of_texts_and_of_queries_count_as_one():
    copies = [(f"q{n}", f"query {n}", f"d{n}", f"text {n % 2}") for n in range(6)]
    for batch in plan(pairs_of(*copies), batch_size=6):
        assert sorted(int(docno[1:]) % 2 for _, docno in batch) == [0, 1]
    asked_twice = [("q0", "fever", "d0", "a"), ("q1", "fever", "d1", "b"), ("q2", "pain", "d2", "c")]
    for batch in plan(pairs_of(*asked_twice), batch_size=3):
        assert len({"q0", "q1"} & {qid for qid, _ in batch}) == 1


def test_hard_negatives_are_not_relevant_to_another_query_of_their_batch():
    rows = [(f"q{n}", f"query {n}", f"d{n}", f"text {n}") for n in range(8)]
    pairs = pairs_of(*rows)
    negatives = pd.DataFrame([(f"q{n}", f"d{(n + 1) % 8}") for n in range(8)], columns=["qid", "docno"])
    for batch in plan(replace(pairs, negatives=negatives), batches=20, batch_size=8, negatives=1):
        asked = {qid[1:] for qid, *_ in batch}
        for qid, _, negative in batch:
            assert negative == f"d{(int(qid[1:]) + 1) % 8}"
            assert negative[1:] not in asked


def test_what_is_known_to_be_relevant_counts_too():
    pairs = pairs_of(*[(f"q{n}", f"query {n}", f"d{n}", f"text {n}") for n in range(4)])
    relevant = pd.DataFrame([("q0", "d1"), ("q0", "unread")], columns=["qid", "docno"])
    batches = plan(replace(pairs, relevant=relevant), batches=20, batch_size=4)
    assert not any({"q0", "q1"} <= {qid for qid, _ in batch} for batch in batches)


def test_an_epoch_uses_every_query_once(some_pairs):
    batches = plan(some_pairs, batches=9, batch_size=4)
    epochs = [list(chain(*batches[start : start + 3])) for start in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(qid for qid, _ in epoch) == sorted(some_pairs.queries["qid"])
    assert len({tuple(epoch) for epoch in epochs}) == 3  # each in an order of its own
    uneven = list(chain(*plan(some_pairs, batches=12, batch_size=5)))
    for start in range(0, 60, 12):
        assert len({qid for qid, _ in uneven[start : start + 12]}) == 12


def test_the_seed_decides_the_order(some_pairs):
    assert plan(some_pairs, batch_size=4) == plan(some_pairs, batch_size=4)
    assert plan(some_pairs, batch_size=4) != plan(some_pairs, batch_size=4, seed=1)
    assert plan(some_pairs, batches=9, batch_size=4)[:6] == plan(some_pairs, batches=6, batch_size=4)


def test_few_queries_fill_a_large_batch_once(some_pairs):
    for batch in plan(some_pairs, batches=5, batch_size=64):
        assert sorted(qid for qid, _ in batch) == sorted(some_pairs.queries["qid"])


def test_one_query_needs_negatives(some_pairs):
    one = some_pairs.only(["q3"])
    with pytest.raises(ValueError, match="no two queries can share a batch of 64, and there are no negatives"):
        plan(one)
    negatives = pd.DataFrame([("q3", "other")], columns=["qid", "docno"])
    armed = replace(one, negatives=negatives, texts={**one.texts, "other": "fever"})
    assert plan(armed, batches=2, negatives=1) == [[("q3", "d3", "other")]] * 2


@pytest.mark.parametrize(
    ("rows", "batch_size"),
    [
        ([("q0", "fever", "d0", "a"), ("q1", "pain", "d0", "a")], 64),  # one text for all
        ([("q0", "fever", "d0", "a"), ("q1", "pain", "d1", "b")], 1),
    ],
)
def test_batches_of_one_query_are_refused(rows, batch_size):
    with pytest.raises(ValueError, match=f"no two queries can share a batch of {batch_size}"):
        plan(pairs_of(*rows), batch_size=batch_size)


def test_negatives_that_are_not_there_are_refused(some_pairs):
    with pytest.raises(ValueError, match="has no negatives: call with_negatives"):
        plan(some_pairs, negatives=2)


def test_a_batch_has_a_column_for_each_text(some_pairs, bert_retriever):
    run = pd.DataFrame([(f"q{n}", f"d{m}", 1 / (m + 1)) for n in range(12) for m in range(12)])
    pairs = some_pairs.with_negatives(run.set_axis(["qid", "docno", "score"], axis=1), some_pairs.texts, per_query=3)
    settings = LoRATraining(batch_size=2, negatives=2)
    texts = texts_of(bert_retriever)
    batches = PairBatches(pairs, texts, settings, 3)
    assert len(batches) == 3
    batch = batches[1]
    assert list(batch) == ["query", "positive", "negative_1", "negative_2"]
    qids, *columns = zip(*batches.batches[1], strict=True)
    queries = dict(zip(pairs.queries["qid"], pairs.queries["query"], strict=True))
    assert rows_of(batch["query"]) == rows_of(texts.queries([queries[qid] for qid in qids]))
    for name, docnos in zip(("positive", "negative_1", "negative_2"), columns, strict=True):
        assert rows_of(batch[name]) == rows_of(texts.documents([pairs.texts[docno] for docno in docnos]))
