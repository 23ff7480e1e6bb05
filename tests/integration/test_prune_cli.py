"""prune_vocab.py and prune_layers.py as programs: what they write works on, and bad input is one line."""

import json
import shutil

import pytest
import torch
from command_lines import ROOT, run
from slu_corpus import LABELS, PARSES, small_whisper, tokenizer, write_data

from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Whisper without labels, data, a list of labels, and a DeltaLM of the published layout."""
    from deltalm_files import published_weights

    folder = tmp_path_factory.mktemp("prune")
    small_whisper(folder / "whisper.pt", decoder_layers=3, of=tokenizer(()))
    write_data(folder / "data", PARSES[:2])
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    (folder / "empty.txt").write_text("\n  \n", encoding="utf-8")
    lines = ["laufen und spielen", "laufen auf der wiese im schnee", "spielen auf der wiese"]
    (folder / "train.de").write_text("\n".join(lines), encoding="utf-8")
    (folder / "val.de").write_text("laufen", encoding="utf-8")
    vocabulary = SentencePieceVocabulary.train(lines, 25)
    vocabulary.save(folder / "spm.model", folder / "dict.txt")
    torch.save({"weights": published_weights(len(vocabulary) + 103)}, folder / "deltalm.pt")
    torch.save({"weights": published_weights(len(vocabulary) - 1)}, folder / "other.pt")
    return folder


@pytest.fixture
def prune_vocab(forks, folder):
    return lambda *arguments: forks.run(SCRIPTS / "prune_vocab.py", *arguments, cwd=folder)


@pytest.fixture
def prune_layers(forks, folder):
    return lambda *arguments: forks.run(SCRIPTS / "prune_layers.py", *arguments, cwd=folder)


WHISPER = "--checkpoint whisper.pt --text data/train.tsv --labels labels.txt".split()
DELTALM = "--checkpoint deltalm.pt --spm-model spm.model --dict dict.txt --text val.de".split()


@pytest.fixture(scope="module")
def cut(forks, folder):
    """What the two commands print that make a student.pt with fewer tokens, layers, units and heads."""
    vocabulary = forks.run(
        SCRIPTS / "prune_vocab.py", *WHISPER, "--heldout", "data/dev.tsv", "--out", "small", cwd=folder
    )
    assert vocabulary[0] == 0, vocabulary[2]
    layers = forks.run(
        SCRIPTS / "prune_layers.py",
        *"--checkpoint small/whisper.pt --keep-decoder 2 --by loss --data data --split dev".split(),
        *"--units 20 --heads 1 --out student.pt".split(),
        cwd=folder,
    )
    assert layers[0] == 0, layers[2]
    return vocabulary[1], layers[1]


def test_a_whisper_with_fewer_tokens_and_layers_understands(cut, forks, folder):
    report = json.loads((folder / "small" / "report.json").read_text())
    found = ByteLevelBPE.load(folder / "small" / "tokenizer.json")
    assert report["after"]["tokens"] == len(found) < report["before"]["tokens"]
    gone = report["before"]["tokens"] - report["after"]["tokens"]
    assert report["before"]["parameters"] - report["after"]["parameters"] == 16 * gone
    assert f"| parameters | {report['before']['parameters']:,} |" in cut[0]
    assert [found.decode(found.encode(text)) for text in PARSES] == PARSES
    assert set(LABELS) <= set(found.dictionary.symbols)
    assert "| step 1 |" in cut[1] and "without 3" in cut[1]
    code, output, errors = forks.run(
        *(SCRIPTS / "understand.py", "--checkpoint", "student.pt", "data/audio/1.wav"), cwd=folder
    )
    assert code == 0, errors
    assert "intent" in json.loads(output)


def test_what_was_cut_trains_and_generates_with_dropped_frames_thinned_silence_and_beams(
    cut, folder, tmp_path
):
    task = [folder / "data", "--user-dir", ROOT / "fairseq_prune", "--task", "spoken_language_understanding"]
    frames = "--audio-context clip+1 --silence-stride 4 --token-keep-ratio 0.5 --token-keep-start-layer 1"
    training = (
        "--arch whisper --criterion slu_distillation --kl-weight 0 --contrastive-weight 0 --optimizer adam --lr 1e-3"
        " --batch-size 2 --max-update 2 --train-subset train --valid-subset dev --no-epoch-checkpoints --save-dir out"
    )
    tokenizer_file = folder / "small" / "tokenizer.json"
    start = (
        "--whisper-path",
        folder / "student.pt",
        "--bpe-tokenizer",
        tokenizer_file,
        *frames.split(),
        *training.split(),
    )
    code, output = run("fairseq-train", *task, *start, cwd=tmp_path)
    assert code == 0, output[-3000:]
    generation = "--path out/checkpoint_best.pt --gen-subset test --beam 3 --batch-size 4 --max-len-b 12"
    texts = []
    for more in ([], ["--batch-size", "1"], ["--model-overrides", "{'token_keep_ratio': 1.0}"]):
        code, output = run("fairseq-generate", *task, *generation.split(), *more, cwd=tmp_path)
        assert code == 0, output[-3000:]
        texts.append(sorted(line for line in output.splitlines() if line.startswith("H-")))
    assert len(texts[0]) == 2
    assert [line.split("\t")[2] for line in texts[0]] == [line.split("\t")[2] for line in texts[1]]
    assert texts[0] != texts[2]  # scores at least: other frames were heard


def test_the_scan_by_influence_prints_each_layer_and_the_checkpoint_counts_what_is_left(prune_layers, folder):
    code, output, errors = prune_layers(
        *"--checkpoint whisper.pt --encoder 1 --keep-decoder 1 --data data --report scan.json --out one.pt".split()
    )
    assert code == 0, errors
    influences = json.loads((folder / "scan.json").read_text())["decoder"]
    assert len(influences) == 3 and output.count("dropped") == 2
    best = max(range(3), key=influences.__getitem__)
    assert f"| {best + 1} | {influences[best]:.4f} | kept |" in output
    state = torch.load(folder / "one.pt", weights_only=True)
    assert state["cfg"]["model"]["decoder_layers"] == 1 == state["cfg"]["model"]["encoder_layers"]
    whole = torch.load(folder / "whisper.pt", weights_only=True)["model"]
    name = "decoder.layers.{}.fc1.weight"
    assert torch.equal(state["model"][name.format(0)], whole[name.format(best)])
    assert name.format(1) not in state["model"]


def test_layers_merge_into_their_mean(prune_layers, folder):
    code, output, errors = prune_layers(
        "--checkpoint", "whisper.pt", "--decoder", "1, 2+3", "--out", "merged.pt"
    )
    assert code == 0, errors
    assert "decoder: layers 1, 2+3 of 3" in output
    before, after = (
        torch.load(folder / name, weights_only=True)["model"] for name in ("whisper.pt", "merged.pt")
    )
    name = "decoder.layers.{}.fc2.weight"
    torch.testing.assert_close(after[name.format(1)], (before[name.format(1)] + before[name.format(2)]) / 2)
    assert name.format(2) not in after


def test_transcripts_are_covered_in_the_form_in_which_the_model_writes(prune_vocab, folder):
    (folder / "spoken.txt").write_text("WAKE ME UP AT NINE IN THE MORNING\n", encoding="utf-8")
    options = "--checkpoint whisper.pt --text spoken.txt --heldout spoken.txt".split()
    for forms, kept in (("written", True), ("given", False)):
        asked = ["--forms", "given"] if forms == "given" else []
        code, output, errors = prune_vocab(*options, *asked, "--out", forms)
        assert code == 0, errors
        found = ByteLevelBPE.load(folder / forms / "tokenizer.json")
        whole = tokenizer(())
        for text in (" Wake me up at nine in the morning.", " wake me up at nine in the morning"):
            pieces = whole.encode_pieces(text)
            assert (found.encode_pieces(text) == pieces) == kept
        assert ("held out as the model writes: texts 1; tokens that stay 1.0000" in output) == kept


def test_a_deltalm_is_cut_with_its_dictionary(prune_vocab, folder):
    code, _, errors = prune_vocab(*DELTALM, "--heldout", "train.de", "--out", "de")
    assert code == 0, errors
    small = SentencePieceVocabulary.load(folder / "de" / "spm.model", folder / "de" / "dict.txt")
    weights = torch.load(folder / "de" / "deltalm.pt", weights_only=True)["weights"]
    assert len(weights["tgt_embedding.embed_tokens.weight"]) == len(small) < 25
    assert small.decode(small.encode("laufen")) == "laufen"
    report = json.loads((folder / "de" / "report.json").read_text())
    assert report["corpus"]["texts whose tokens all stay"] == 1 > report["held out"]["tokens that stay"] > 0


def test_a_trained_translation_model_translates_with_the_vocabulary_of_its_corpus(
    prune_vocab, forks, trained, prepared_data, folder
):
    """Greedy search gives the same translations; the vocabulary in the checkpoint is the small one."""
    shutil.copy(trained, folder / "st.pt")
    code, _, errors = prune_vocab(
        "--checkpoint", "st.pt", "--text", prepared_data / "train.tsv", "--out", "st-small"
    )
    assert code == 0, errors
    audio = sorted((prepared_data.parent).rglob("*.wav")) or sorted(folder.rglob("*.wav"))
    outputs = [
        forks.run(
            *(SCRIPTS / "translate.py", "--beam", 1, "--checkpoint", checkpoint, *audio[:3]), cwd=folder
        )
        for checkpoint in ("st.pt", "st-small/st.pt")
    ]
    assert outputs[0][0] == outputs[1][0] == 0, outputs
    assert outputs[0][1] == outputs[1][1]


BAD = {
    "vocab: no text": ("vocab", [*WHISPER, "--text", "empty.txt"], "empty.txt: the corpus has no text"),
    "vocab: no file": ("vocab", [*WHISPER, "--text", "none.txt"], "none.txt: no such file"),
    "vocab: no column": (
        "vocab",
        [*WHISPER, "--columns", "text"],
        "data/train.tsv: expected a column text, found id, audio",
    ),
    "vocab: other weights": (
        "vocab",
        [*DELTALM, "--checkpoint", "other.pt"],
        "other.pt: weights and tokenizer do not fit: src_embedding.embed_tokens.weight has 24 rows",
    ),
    "vocab: no vocabulary": (
        "vocab",
        ["--checkpoint", "deltalm.pt", "--text", "val.de"],
        "deltalm.pt: holds no vocabulary, expected --spm-model and --dict",
    ),
    "vocab: two vocabularies": (
        "vocab",
        [*WHISPER, "--spm-model", "spm.model", "--dict", "dict.txt"],
        "whisper.pt: holds its vocabulary",
    ),
    "layers: out of range": ("layers", ["--decoder", "2,4"], "--decoder: found layer 4, expected"),
    "layers: no layer 0": ("layers", ["--decoder", "0"], "--decoder: found layer 0, expected"),
    "layers: twice": ("layers", ["--decoder", "2,2"], "--decoder: found '2,2', expected"),
    "layers: twice in a merge": ("layers", ["--decoder", "1+1"], "--decoder: found '1+1', expected"),
    "layers: a merge of nothing": ("layers", ["--decoder", "1+"], "--decoder: found '1+', expected layers"),
    "layers: no numbers": (
        "layers",
        ["--encoder", "last"],
        "--encoder: found 'last', expected layers such as",
    ),
    "layers: too many": (
        "layers",
        ["--keep-decoder", "4"],
        "--keep-decoder: found 4, expected at most its 3",
    ),
    "layers: no data": ("layers", ["--keep-decoder", "2"], "--keep-decoder needs --data"),
    "layers: nothing to do": (
        "layers",
        [],
        "expected --encoder, --decoder, --keep-encoder, --keep-decoder, --units or --heads",
    ),
    "layers: too many heads": ("layers", ["--heads", "3"], "attention heads: found 3, expected 1 to 2"),
    "layers: too many units": ("layers", ["--units", "25"], "feed-forward units: found 25, expected 1 to 24"),
    "layers: units of a DeltaLM": (
        "layers",
        ["--checkpoint", "deltalm.pt", "--units", "5"],
        "expected whisper, hubert_deltalm or deltalm",
    ),
    "layers: no fairseq model": (
        "layers",
        ["--checkpoint", "deltalm.pt", "--decoder", "1"],
        "expected whisper, hubert_deltalm or deltalm",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, prune_vocab, prune_layers, folder):
    script, arguments, message = BAD[case]
    if script == "vocab":
        code, output, errors = prune_vocab(*arguments, "--out", "bad")
    else:
        code, output, errors = prune_layers("--checkpoint", "whisper.pt", *arguments, "--out", "bad")
    assert code == 2 and output == "" and errors.count("\n") == 1
    assert errors.startswith("error: ") and message in errors
    assert not list(folder.glob("*bad*"))
