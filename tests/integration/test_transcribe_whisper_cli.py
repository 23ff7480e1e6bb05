"""transcribe.py with Whispers of random weights: what it writes, what it scores, and how it refuses bad input."""

import json

import numpy as np
import pytest
import soundfile
import torch
from command_lines import ROOT
from whisper_files import write_checkpoint, write_recordings

from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.evaluation.transcripts import recognition_scores, translation_scores
from fairseq_prune.inference.whisper.transcriber import WhisperTranscriber

TRANSCRIBE = ROOT / "scripts" / "transcribe.py"
SECONDS = (2.5, 0.7, 1.1)
FAST = ("--temperature", "0", "--no-speech-threshold", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_checkpoint(folder / "whisper.pt")
    write_checkpoint(folder / "english.pt", language=None)
    write_recordings(folder / "audio", *SECONDS)
    return folder


@pytest.fixture
def transcribe(forks, folder, tmp_path):
    """Exit status, stdout and stderr of transcribe.py."""

    def call(checkpoint, *words):
        return forks.run(TRANSCRIBE, "--checkpoint", folder / checkpoint, *words, cwd=tmp_path)

    return call


def expected(folder, **options):
    given = {"temperatures": (0.0,), "no_speech_threshold": 1.0, "language": "en", **options}
    transcriber = WhisperTranscriber(folder / "whisper.pt", **given)
    return transcriber.transcribe([folder / "audio" / f"{number}.wav" for number in range(len(SECONDS))])


def files(folder):
    return sorted((folder / "audio").glob("*.wav"))


@pytest.mark.parametrize("long_form", ["sequential", "batched"])
def test_texts_are_printed_a_line_a_file(transcribe, folder, long_form):
    status, out, err = transcribe(
        "whisper.pt", *files(folder), "--language", "en", "--long-form", long_form, *FAST
    )
    assert status == 0, err
    texts = [transcript.text for transcript in expected(folder, long_form=long_form)]
    printed = out.replace("\r", "\n")
    assert all(f"{path}\t{text}" in printed for path, text in zip(files(folder), texts)) and any(texts)


def test_the_language_is_detected_and_said(transcribe, folder):
    status, _, err = transcribe("whisper.pt", files(folder)[0], *FAST)
    assert status == 0, err
    assert "0.wav: language " in err
    status, _, err = transcribe("english.pt", files(folder)[0], *FAST)
    assert status == 0 and "language" not in err


def test_files_of_every_format_are_written_once(transcribe, folder, tmp_path):
    words = (
        files(folder)[0],
        "--language",
        "en",
        "--format",
        "txt,tsv,srt,vtt,json",
        "--word-timestamps",
        *FAST,
        "--out",
        "out",
    )
    status, _, err = transcribe("whisper.pt", *words)
    assert status == 0, err
    [whole, *_] = expected(folder, word_timestamps=True)
    content = json.loads((tmp_path / "out" / "0.json").read_text())
    assert content["text"] == whole.text and content["language"] == "en"
    for segment in content["segments"]:
        assert {"id", "seek", "start", "end", "tokens", "temperature", "avg_logprob"} <= set(segment)
        assert "".join(word["word"] for word in segment["words"]) == segment["text"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"0.{kind}" for kind in ("json", "srt", "tsv", "txt", "vtt")
    ]
    status, _, err = transcribe("whisper.pt", *words)
    assert status == 2 and "0.txt already exists: choose another --out, or give --overwrite" in err
    assert transcribe("whisper.pt", *words, "--overwrite")[0] == 0


def test_a_manifest_is_scored(transcribe, folder, tmp_path):
    texts = ["play the song", "wake me up", "What is the weather like?"]
    rows = [
        Utterance(f"u{i}", f"audio/{i}.wav", 0, round(seconds * 16000), text, f"translated {text}", "s")
        for i, (seconds, text) in enumerate(zip(SECONDS, texts))
    ]
    write_manifest(folder / "test.tsv", rows)
    status, out, err = transcribe(
        "whisper.pt", "--manifest", folder, "--language", "en", "--out", "asr", *FAST
    )
    assert status == 0, err
    report = json.loads((tmp_path / "asr" / "report.json").read_text())
    hypotheses = [transcript.text for transcript in expected(folder)]
    for name, score in recognition_scores(texts, hypotheses, "english").items():
        assert report[name] == score
    assert report["normalizer"] == "english" and report["real_time_factor"] > 0
    assert f"WER {report['WER']['score']:.2f} (" in out
    status, out, err = transcribe(
        "whisper.pt", "--manifest", folder, "--language", "de", "--task", "translate", "--out", "st", *FAST
    )
    assert status == 0, err
    report = json.loads((tmp_path / "st" / "report.json").read_text())
    hypotheses = [transcript.text for transcript in expected(folder, language="de", task="translate")]
    hypotheses = [" ".join(text.split()) for text in hypotheses]
    assert report["BLEU"] == translation_scores([f"translated {text}" for text in texts], hypotheses)["BLEU"]


def test_silence_gives_no_text(transcribe, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(40000), 16000)
    status, out, err = transcribe("english.pt", "silence.wav", *FAST)
    assert status == 0 and "silence.wav\t\n" in out, err


def test_bad_input_is_one_line(transcribe, folder, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    other = torch.load(folder / "whisper.pt", weights_only=False)
    other["cfg"]["task"]["_name"] = "speech_translation"
    torch.save(other, folder / "other.pt")
    first, second = files(folder)[:2]
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / first.name).write_bytes(second.read_bytes())
    cases = [
        (
            "whisper.pt",
            (first, "--language", "xx"),
            "no language 'xx', expected one of the 2 that it has",
        ),
        ("english.pt", (first, "--task", "translate"), "an English-only model, which cannot translate"),
        ("english.pt", (first, "--language", "de"), "an English-only model, found language 'de'"),
        ("whisper.pt", ("empty.wav",), "empty.wav: expected audio, found a file of 0 samples"),
        ("whisper.pt", ("none.wav",), "none.wav: no such audio file"),
        (
            "whisper.pt",
            (first, "--long-form", "off"),
            "0.wav: 2.5 s of audio, expected at most 1.2 s where",
        ),
        ("other.pt", (first,), "of task speech_translation; expected one of wav2vec_ctc"),
        ("none.pt", (first,), "none.pt: no such checkpoint"),
        ("whisper.pt", (first, "--lm", "x.arpa"), "--lm: found with"),
        ("whisper.pt", (first, "--format", "doc"), "found 'doc', expected some of txt, tsv, srt, vtt, json"),
        ("whisper.pt", (first, "twin/0.wav", "--format", "srt", "--out", "o"), "0.srt: found"),
        ("whisper.pt", (first, "--audio-context", "1 minute"), "audio"),
        ("whisper.pt", (first, "--model-overrides", "{'depth': 3}"), "depth"),
    ]
    for checkpoint, words, message in cases:
        status, out, err = transcribe(checkpoint, *words)
        last = err.splitlines()[-1]
        assert status == 2 and out == "" and last.startswith("error: ") and message in last, (words, err)


def test_what_a_whisper_keeps_is_drawn_with_its_words(forks, folder, tmp_path):
    overrides = "{'silence_stride': 8, 'token_keep_ratio': 0.5, 'token_keep_start_layer': 2}"
    status, out, err = forks.run(
        *(ROOT / "scripts" / "show_pruning.py", "--checkpoint", folder / "english.pt", files(folder)[1]),
        *("--out", "kept.png", "--model-overrides", overrides),
        cwd=tmp_path,
    )
    assert status == 0, err
    assert "frames reach the decoder" in out and (tmp_path / "kept.png").stat().st_size > 10_000
