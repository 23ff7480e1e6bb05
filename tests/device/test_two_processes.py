"""Several processes under fairseq's default backend and the legacy one: every task, with the options it ships.

torch's DistributedDataParallel stops at a parameter that gets no gradient; the legacy one does not.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretrained_recogniser import save_hubert, save_wav2vec, write_corpus
from slu_corpus import small_whisper
from slu_corpus import write_data as write_commands

from fairseq_prune.data.waveform_manifest import write_waveform_manifest

from tones import write_hubert, write_tones  # isort: skip

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMON = "--optimizer adam --lr 1e-3 --train-subset train --clip-norm 10 --weight-decay 0.1 --max-tokens 100000".split()
TRANSLATION = (
    "--task speech_translation --arch hubert_deltalm_tiny --criterion speech_translation"
    " --hubert-layers 2 --hubert-embed-dim 32 --hubert-ffn-embed-dim 48 --hubert-conv-pos-groups 4"
    " --hubert-conv-layers [(16,10,5),(16,8,4),(16,8,4),(16,8,4)] --deltalm-embed-dim 32 --deltalm-ffn-embed-dim 48"
    " --dropout 0 --hubert-dropout 0 --hubert-attention-dropout 0"
)
DISTILLATION = (
    "--task ssl_distillation --arch dphubert --criterion distill_prune --distill-layers 0|1,2 --min-sample-size 1000"
    " --max-sample-size 9000 --sparsity-warmup-updates 4 --dropout 0 --attention-dropout 0 --input-dropout 0"
)
RECOGNITION = (
    "--task audio_finetuning --labels ltr --criterion ctc --prune-sparsity 0.5 --prune-interval 2 --max-update 4"
    " --dropout 0 --attention-dropout 0 --activation-dropout 0 --dropout-input 0 --final-dropout 0"
)
UNDERSTANDING = (
    "--task spoken_language_understanding --arch whisper_tiny --criterion slu_distillation --ce-weight 1"
)
# options beside those above; "drawn": where chance has a part, so that one process does not do the same
CASES = {
    "translation": f"{TRANSLATION} --token-keep-ratio 0.7",
    "translation with CTC and text": f"{TRANSLATION} --ctc-text source --ctc-weight 1 --text-encoder"
    " --mt-loss-weight 0.5 --deltalm-encoder-layers 1",
    "translation that may not use all": f"{TRANSLATION} --text-encoder --mt-loss-weight 0.5 --find-unused-parameters",
    "a text encoder without loss": f"{TRANSLATION} --text-encoder --deltalm-encoder-layers 1",
    "a CTC text without loss": f"{TRANSLATION} --ctc-text source",
    "a frozen HuBERT": f"{TRANSLATION} --freeze-hubert-updates 1",
    "a decoder frozen in parts": f"{TRANSLATION} --freeze-decoder-except cross --freeze-hubert-updates -1",
    "drawn layers": f"{TRANSLATION} --hubert-layerdrop 0.6 --deltalm-layerdrop 0.6 --mask-prob 0.3",
    "distillation": f"{DISTILLATION} --prune none",
    "distillation with padding in one process": f"{DISTILLATION} --prune none --batch-lengths pad",
    "distillation with drawn gates": f"{DISTILLATION} --batch-lengths pad --optimizer adam_with_gates",
    "drawn layers of wav2vec 2.0": f"{RECOGNITION} --arch wav2vec_ctc_parp --w2v-path w2v.pt --layerdrop 0.6"
    " --feature-grad-mult 0",
    "a frozen wav2vec 2.0": f"{RECOGNITION} --arch wav2vec_ctc_parp --w2v-path w2v.pt --freeze-finetune-updates 1",
    "HuBERT with CTC": f"{RECOGNITION} --arch hubert_ctc_parp --w2v-path hubert.pt --feature-grad-mult 0",
    "understanding": f"{UNDERSTANDING} --kl-weight 0 --contrastive-weight 0 --whisper-path whisper.pt",
    "understanding from a teacher": f"{UNDERSTANDING} --teacher-path whisper.pt --prune-sparsity 0.5 --max-update 4"
    " --embed-dim 16 --ffn-embed-dim 24 --attention-heads 2 --encoder-layers 1 --decoder-layers 1"
    " --audio-context clip --max-source-positions 100 --max-target-positions 48",
}
QUICK = (
    "translation with CTC and text",
    "distillation with padding in one process",
    "a frozen wav2vec 2.0",
    "understanding from a teacher",
)
SLOW = tuple(name for name in CASES if name not in QUICK)
DATA = {
    "speech_translation": "translation",
    "ssl_distillation": "audio",
    "audio_finetuning": "words",
    "spoken_language_understanding": "commands",
}


@pytest.fixture(scope="module")
def quick(prepared_data, tmp_path_factory):
    """What `two_processes` found of the quick cases."""
    return run_cases(QUICK, prepared_data, tmp_path_factory.mktemp("quick"), timeout=900)


@pytest.fixture(scope="module")
def slow(prepared_data, tmp_path_factory):
    """What `two_processes` found of the slow cases."""
    return run_cases(SLOW, prepared_data, tmp_path_factory.mktemp("slow"), timeout=3600)


def start(folder):
    """`two_processes` on the cases of a folder."""
    command = [sys.executable, HERE / "two_processes.py", "cases.json", "found.json", folder / "meeting"]
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_cases(names, prepared_data, folder, timeout):
    (folder / "translation").symlink_to(prepared_data)
    lengths = [6400, 8000, 7000, 7000]
    (folder / "audio").mkdir()
    audio = write_tones(folder / "audio", lengths)
    write_waveform_manifest(folder / "audio" / "train.tsv", folder / "audio", audio, lengths)
    write_corpus(folder / "words")
    write_commands(folder / "commands")
    write_hubert(folder / "teacher.pt")
    save_wav2vec(folder / "w2v.pt")
    save_hubert(folder / "hubert.pt")
    small_whisper(folder / "whisper.pt")
    cases = {}
    for name in names:
        words = CASES[name].split()
        task = words[words.index("--task") + 1]
        more = {"ssl_distillation": ["--teacher-path", "teacher.pt"]}.get(task, [])
        if task == "spoken_language_understanding":
            more = ["--bpe-tokenizer", folder / "commands" / "tokenizer.json"]
        arguments = [folder / DATA[task], "--user-dir", ROOT / "fairseq_prune", *COMMON, *more, *words]
        cases[name] = [str(word) for word in arguments]
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    with start(folder) as running:
        output, _ = running.communicate(timeout=timeout)
    assert running.returncode == 0, output[-5000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


BACKENDS = pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])


def test_the_second_process_ends_with_the_first(tmp_path):
    os.mkfifo(tmp_path / "cases.json")  # nobody writes to it: both wait for what to do
    with start(tmp_path) as running:
        while not (tmp_path / "meeting").exists():
            time.sleep(0.1)
        running.kill()
        running.communicate(timeout=30)  # until no process holds the other end of the pipe


@BACKENDS
@pytest.mark.parametrize("name", QUICK)
def test_two_processes_agree_and_do_what_one_does(quick, name, backend):
    check(quick[name], name, backend)


@pytest.mark.slow
@BACKENDS
@pytest.mark.parametrize("name", SLOW)
def test_two_processes_agree_with_every_option(slow, name, backend):
    check(slow[name], name, backend)


def check(found, name, backend):
    result, alone = found[backend], found["alone"]
    assert isinstance(result, dict), result
    assert isinstance(alone, dict), alone
    assert result["same parameters"] and result["finite"] and result["largest"] > 0
    assert result["difference"] == 0
    if "drawn" not in name:
        assert alone["without gradient"] == []
        torch.testing.assert_close(result["losses"], alone["losses"], rtol=2e-3, atol=2e-3)
