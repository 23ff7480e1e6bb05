"""Picovoice's coffee orders as manifests, and the training sentences as texts."""

import json

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.preparation import picovoice
from fairseq_prune.preparation.layouts.slu_texts import read_texts
from fairseq_prune.text.meanings import parse

SLOTS = {"sugarAmount": " brown sugar", "coffeeDrink": "iced mocha", "size": "twelve ounce"}
PARSE = "[IN:orderDrink [SL:size twelve ounce ] [SL:coffeeDrink iced mocha ] [SL:sugarAmount brown sugar ] ]"


def entry(**slots):
    return {"intent": "orderDrink", "slots": slots}


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "coffee"
    (root / "audio").mkdir(parents=True)
    labels = {f"{number:03d}.flac": entry(**SLOTS) for number in range(40)}
    for name in labels:
        soundfile.write(root / "audio" / name, np.full(1600, 0.1), 16000)
    (root / "labels.json").write_text(json.dumps(labels))
    drinks = picovoice.SLOTS["coffeeDrink"]
    sentences = [f"can I get a {size} {drink}" for size in picovoice.SLOTS["size"] for drink in drinks]
    (root / "training_sentences.txt").write_text("\n".join(sentences) + "\n")
    return root


def prepare(corpus, *options):
    return picovoice.main(["--corpus", str(corpus), "--out", str(corpus.parent / "out"), *options])


def test_each_recording_is_in_one_split_with_its_parse(corpus):
    assert prepare(corpus) == 0
    out = corpus.parent / "out"
    rows = {split: read_manifest(out / f"{split}.tsv") for split in ("train", "dev", "test")}
    names = [row.id for split in rows.values() for row in split]
    assert sorted(names) == [f"{number:03d}.flac" for number in range(40)]
    assert {row.tgt_text for split in rows.values() for row in split} == {PARSE}
    check_audio(rows["train"], out)
    assert (out / "labels.txt").read_text().splitlines() == [
        "[IN:orderDrink",
        " [SL:coffeeDrink",
        " [SL:size",
        " [SL:sugarAmount",
    ]


def test_the_split_of_a_name_never_changes():
    names = ["0075d273-51bb-47cb-b323-4437bd0de029", "05ae073e-842f-4492-9fdc-e8a5bba5ace0", "a", "b"]
    found = [picovoice.split_of(name, picovoice.SHARES) for name in names]
    assert found == ["train", "dev", "test", "train"]
    many = [picovoice.split_of(str(number), picovoice.SHARES) for number in range(10_000)]
    assert [many.count(split) / 10_000 for split in picovoice.SHARES] == pytest.approx(
        [0.6, 0.1, 0.3], abs=0.02
    )


def test_sentences_become_texts_with_variations_of_the_training_part(corpus):
    assert prepare(corpus, "--text-only", "--variations", "3") == 0
    texts = {
        split: read_texts(corpus.parent / "out" / f"{split}.texts.tsv") for split in ("train", "dev", "test")
    }
    plain = [text for text in texts["train"] if text.id.endswith("-0")]
    assert len(texts["train"]) == 4 * len(plain) and len(plain) + len(texts["dev"] + texts["test"]) == 70
    for text in texts["train"]:
        slots = {slot["slot"]: slot["value"] for slot in parse(text.tgt_text).to_dict()["slots"]}
        said = text.src_text.removeprefix("can I get a ")
        assert said.endswith(slots["coffeeDrink"]) and all(value in said for value in slots.values())
        assert len(said) == len(" ".join(slots.values()))
    numbers = {text.tgt_text.count("[SL:") for text in texts["train"]}
    assert numbers == {1, 2, 3, 4}


def test_a_variation_keeps_what_stands_around_the_slots():
    sentence = "may I have a large dark roast iced mocha with some cream and sugar"
    drawn = [picovoice.vary(sentence, np.random.default_rng(seed)) for seed in range(100)]
    shapes = {picovoice.VALUE.sub(lambda found: picovoice.SLOT_OF[found.group()], text) for text in drawn}
    rest = "coffeeDrink with milkAmount and sugarAmount"
    assert {"may I have a roast size " + rest, "may I have a size roast " + rest} <= shapes
    assert all(shape.startswith("may I have a ") and shape.endswith(rest) for shape in shapes)
    assert len(set(drawn)) > 90


@pytest.mark.parametrize(
    "sentence, slots",
    [
        (
            "make me a medium medium roast latte",
            {"size": "medium", "roast": "medium roast", "coffeeDrink": "latte"},
        ),
        (
            "iced coffee with a little bit of brown sugar and cream",
            {
                "coffeeDrink": "iced coffee",
                "sugarAmount": "a little bit of brown sugar",
                "milkAmount": "cream",
            },
        ),
    ],
)
def test_the_longest_value_wins(sentence, slots):
    assert picovoice.read_slots(sentence) == slots


@pytest.mark.parametrize(
    "bad, message",
    [
        (entry(coffeeDrink="tea"), "coffeeDrink 'tea': not a value of the benchmark's context"),
        (entry(cup="large"), "slot 'cup': expected one of size, roast"),
        (entry(), "expected at least one slot, found none"),
        ({"intent": "orderTea", "slots": {}}, "intent 'orderTea': expected 'orderDrink'"),
        ([], "expected an object with intent and slots"),
        (entry(size=3), "size 3: not a value"),
    ],
)
def test_a_bad_entry_is_named_or_left_out(corpus, capsys, bad, message):
    labels = json.loads((corpus / "labels.json").read_text())
    labels["007.flac"] = bad
    (corpus / "labels.json").write_text(json.dumps(labels))
    assert prepare(corpus) == 2
    error = capsys.readouterr().err
    assert f"labels.json, entry 007.flac: {message}" in error and error.count("\n") == 1
    assert not (corpus.parent / "out").exists()
    assert prepare(corpus, "--skip-bad") == 0
    assert "007.flac" in (corpus.parent / "out" / "skipped.tsv").read_text()


def test_a_missing_recording_is_named(corpus, capsys):
    (corpus / "audio" / "011.flac").unlink()
    assert prepare(corpus) == 2
    assert "entry 011.flac: no recording" in capsys.readouterr().err


@pytest.mark.parametrize(
    "sentence, message",
    [("a large mocha and a latte", "coffeeDrink twice, 'mocha' and 'latte'"), ("with milk", "no drink in")],
)
def test_a_bad_sentence_is_named(corpus, capsys, sentence, message):
    with open(corpus / "training_sentences.txt", "a") as file:
        file.write(sentence + "\n")
    assert prepare(corpus, "--text-only") == 2
    assert f"training_sentences.txt, line 71: {message}" in capsys.readouterr().err
