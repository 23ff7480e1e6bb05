"""transcribe.py on checkpoints that fairseq-train wrote: what it reports, and how it refuses bad input."""

import csv
import json

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from command_lines import BIN, ROOT
from fairseq import checkpoint_utils
from pretrained_recogniser import save_hubert, save_wav2vec, write_corpus

from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.labelled_audio import read_split
from fairseq_prune.evaluation.error_rates import phone_error_rate
from fairseq_prune.inference.recognition import Recognizer

TRANSCRIBE = ROOT / "scripts" / "transcribe.py"
PHONES = {"|": "h#", "A": "ix", "B": "ih", "C": "tcl"}
TRAIN = (
    "--task audio_finetuning --criterion ctc --optimizer adam --lr 1e-4 --max-tokens 64000 --max-update 2 --cpu"
    " --train-subset train --disable-validation --no-epoch-checkpoints --log-format simple"
).split()


def train(forks, folder, arch, labels="ltr", *options):
    """A checkpoint after two updates."""
    pretrained = folder / ("wav2vec.pt" if arch.startswith("wav2vec") else "hubert.pt")
    out = folder / f"{arch}-{labels}"
    words = [
        "data",
        "--user-dir",
        ROOT / "fairseq_prune",
        "--arch",
        arch,
        "--w2v-path",
        pretrained,
        "--save-dir",
        out,
    ]
    code, _, errors = forks.run(
        BIN / "fairseq-train", *words, "--labels", labels, *TRAIN, *options, cwd=folder
    )
    assert code == 0, errors
    return out / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data with letters and with phones, and pretrained models."""
    folder = tmp_path_factory.mktemp("recogniser")
    data = write_corpus(folder / "data", utterances=6)
    for file in ("train.ltr", "valid.ltr", "dict.ltr.txt"):
        letters = (data / file).read_text()
        (data / file.replace("ltr", "phn")).write_text(
            "".join(PHONES.get(letter, letter) for letter in letters)
        )
    save_wav2vec(folder / "wav2vec.pt")
    save_hubert(folder / "hubert.pt")
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder, forks):
    return train(forks, folder, "wav2vec_ctc")


@pytest.fixture
def transcribe(forks, folder, tmp_path):
    """Exit status, stdout and stderr of transcribe.py."""

    def call(checkpoint, *words):
        return forks.run(TRANSCRIBE, "--checkpoint", checkpoint, *words, cwd=tmp_path)

    return call


def rows(out):
    with open(out / "hypotheses.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_report_scores_the_hypotheses_and_batches_do_not_matter(transcribe, checkpoint, folder, tmp_path):
    data = folder / "data"
    found = []
    for seconds in (60, 0.1):
        words = (
            "--manifest",
            data,
            "--subset",
            "valid",
            "--out",
            f"out{seconds}",
            "--batch-seconds",
            seconds,
        )
        code, output, errors = transcribe(checkpoint, *words)
        assert code == 0, errors
        found.append(rows(tmp_path / f"out{seconds}"))
    assert found[0] == found[1]
    references = (data / "valid.wrd").read_text().splitlines()
    hypotheses = [row["hypothesis"] for row in found[0]]
    assert [row["reference"] for row in found[0]] == references and any(hypotheses)
    report = json.loads((tmp_path / "out60" / "report.json").read_text())
    assert report["WER"] == round(100 * jiwer.wer(references, hypotheses), 2)
    assert report["CER"] == round(100 * jiwer.cer(references, hypotheses), 2)
    assert f"WER {report['WER']:.2f} %" in output


def test_an_utterance_alone_is_as_in_fairseq(checkpoint, folder):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    audio, _ = read_split(folder / "data", "valid")
    wave = torch.from_numpy(read_audio(audio.root / audio.paths[0]))
    with torch.no_grad():
        out = models[0].eval()(source=wave[None], padding_mask=torch.zeros(1, len(wave), dtype=torch.bool))
        expected = models[0].get_normalized_probs(out, log_probs=True)[:, 0]
    recognizer = Recognizer(str(checkpoint))
    other = torch.from_numpy(read_audio(audio.root / audio.paths[1]))
    for batch in ([wave], [wave, torch.cat([other, other])]):
        found, frames = recognizer.log_probs(batch)
        assert frames[0] == len(expected)
        torch.testing.assert_close(found[0, : frames[0]], expected, rtol=1e-4, atol=1e-4)
    symbols = task.target_dictionary.string(expected.argmax(-1).unique_consecutive())
    assert recognizer.greedy(found, frames)[0] == " ".join(s for s in symbols.split() if "<" not in s)


@pytest.mark.parametrize("arch", ["wav2vec_ctc_parp", "hubert_ctc_parp", "hubert_ctc"])
def test_further_models_are_read(arch, transcribe, folder, forks, tmp_path):
    sparse = ("--prune-sparsity", 0.5, "--prune-method", "mpi") if arch.endswith("parp") else ()
    trained = train(forks, folder, arch, "ltr", *sparse)
    assert transcribe(trained, "--manifest", folder / "data", "--subset", "valid", "--out", "out")[0] == 0
    assert any(row["hypothesis"] for row in rows(tmp_path / "out"))


def test_phones_of_timit_are_scored_on_39_classes(transcribe, folder, forks, tmp_path):
    phones = train(forks, folder, "wav2vec_ctc", "phn")
    code, output, errors = transcribe(
        phones, "--manifest", folder / "data", "--subset", "valid", "--out", "out"
    )
    assert code == 0, errors
    found = rows(tmp_path / "out")
    rate = phone_error_rate([row["reference"] for row in found], [row["hypothesis"] for row in found])
    assert f"PER {rate.percent:.2f} % ({rate.errors}/{rate.tokens})" in output and "WER" not in output


def test_files_of_any_format_are_recognised(transcribe, checkpoint, folder, tmp_path):
    data = folder / "data"
    files = [data / f"v{i}.wav" for i in range(6)]
    for i, file in enumerate(files):
        wave, _ = soundfile.read(file)
        soundfile.write(tmp_path / f"same{i}.flac", wave, 16000)
    soundfile.write(tmp_path / "scrap.wav", wave[:100], 16000)
    code, output, errors = transcribe(checkpoint, *files, *(f"same{i}.flac" for i in range(6)), "scrap.wav")
    assert code == 0, errors
    texts = [line.split("\t")[1] for line in output.splitlines()]
    assert texts[:6] == texts[6:12] and any(texts[:6]) and texts[12] == ""


def test_a_checkpoint_without_dictionary_takes_that_of_the_data(transcribe, checkpoint, folder, tmp_path):
    state = torch.load(checkpoint, weights_only=False)
    state["task_state"] = {}
    torch.save(state, tmp_path / "bare.pt")
    assert transcribe("bare.pt", "--manifest", folder / "data", "--subset", "valid")[0] == 0
    code, _, errors = transcribe("bare.pt", folder / "data" / "v0.wav")
    assert code == 2 and "bare.pt: holds no dictionary; give the one of its training (--dict)" in errors


def spoil(folder, copy):
    """The data with a letter that the model does not know, or an audio file without samples."""
    copy.mkdir()
    for file in ("valid.tsv", "valid.ltr"):
        (copy / file).write_text((folder / "data" / file).read_text())
    return copy


def test_bad_input_is_one_line(transcribe, checkpoint, folder, tmp_path):
    letter = spoil(folder, tmp_path / "letter")
    lines = (letter / "valid.ltr").read_text().splitlines()
    (letter / "valid.ltr").write_text("\n".join([*lines[:-1], "A X |"]) + "\n")
    empty = spoil(folder, tmp_path / "empty")
    soundfile.write(empty / "none.wav", np.zeros(0), 16000)
    (empty / "valid.tsv").write_text(f"{empty}\nnone.wav\t4800\n")
    (empty / "valid.ltr").write_text("A |\n")
    data = folder / "data"
    cases = [
        ((), "expected either --manifest or audio files"),
        (("--manifest", data), "test.tsv: no such manifest"),
        (
            ("--manifest", letter, "--subset", "valid"),
            "valid.ltr, line 6: label 'X' is not in the dictionary",
        ),
        (("--manifest", empty, "--subset", "valid"), "none.wav: expected audio, found a file of 0 samples"),
        (("none.wav",), "none.wav: no such audio file"),
        (("--lm", "none.arpa", data / "v0.wav"), "fairseq_prune[lm]"),
    ]
    for words, message in cases:
        code, output, errors = transcribe(checkpoint, *words)
        last = errors.splitlines()[-1]
        if "--lm" in words and "none.arpa: no such language model" in last:
            continue  # the extra is installed
        assert code == 2 and output == "" and last.startswith("error: ") and message in last, (words, last)
    code, _, errors = transcribe(folder / "wav2vec.pt", data / "v0.wav")
    assert code == 2 and "a model wav2vec2 of task audio_pretraining; expected one of wav2vec_ctc" in errors
