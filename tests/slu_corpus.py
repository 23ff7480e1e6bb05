"""A tiny corpus of spoken commands with a tokenizer, for the tests of spoken language understanding."""

import json

import numpy as np
import soundfile
import torch
from bpe_tokenizer_file import bpe_tokenizer_json
from omegaconf import OmegaConf

from fairseq_prune.checkpoints.whisper.own import WhisperCheckpoint
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.modules.whisper.settings import WhisperSettings
from fairseq_prune.tasks.spoken_language_understanding import (
    SpokenLanguageUnderstandingConfig,
    SpokenLanguageUnderstandingTask,
)
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE

PARSES = [
    "[IN:alarm_set [SL:time nine ] ]",
    "[IN:play_music ]",
    "[IN:weather_query [SL:place_name north of england ] [SL:date next week ] ]",
    "[IN:alarm_set [SL:date wednesday ] [SL:time ten ] ]",
]
LABELS = ["[IN:alarm_set", "[IN:play_music", "[IN:weather_query", "[SL:date", "[SL:place_name", "[SL:time"]
SMALL = (
    "--embed-dim 16 --ffn-embed-dim 24 --attention-heads 2 --encoder-layers 1 --decoder-layers 2"
    " --audio-context clip --max-source-positions 100 --max-target-positions 48"
).split()


def tokenizer(labels=LABELS):
    """A byte-level BPE with label tokens."""
    return ByteLevelBPE(bpe_tokenizer_json()).with_tokens(labels)


def write_data(folder, parses=PARSES):
    """A data folder: manifests of tones of 0.3 to 0.6 s, one a parse, and the tokenizer."""
    (folder / "audio").mkdir(parents=True)
    rows = []
    for i, text in enumerate(parses):
        samples = 4800 + 1600 * (i % 4)
        wave = 0.3 * np.sin(2 * np.pi * 220 * (1 + i % 4) / 16000 * np.arange(samples))
        soundfile.write(str(folder / "audio" / f"{i}.wav"), wave, 16000)
        rows.append(Utterance(f"u{i}", f"audio/{i}.wav", 0, samples, "words", text, "tone"))
    for split in ("train", "dev", "test"):
        write_manifest(folder / f"{split}.tsv", rows)
    (folder / "tokenizer.json").write_text(tokenizer().to_json(), encoding="utf-8")
    return folder


def slurp_row(slurp_id, words, scenario, action, entities=(), files=()):
    """An entry of SLURP's jsonl files; entities are (type, first token, last token)."""
    return {
        "slurp_id": slurp_id,
        "sentence": words,
        "scenario": scenario,
        "action": action,
        "tokens": [{"surface": word} for word in words.split()],
        "entities": [{"type": kind, "span": list(range(a, b + 1))} for kind, a, b in entities],
        "recordings": [{"file": name} for name in files],
    }


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_task(data=None, **options):
    """The task on a data folder, with its tokenizer."""
    path = data and str(data / "tokenizer.json")
    given = {"data": data and str(data), "bpe_tokenizer": path, "train_subset": "train", "seed": 1}
    return SpokenLanguageUnderstandingTask(
        OmegaConf.merge(SpokenLanguageUnderstandingConfig(), {**given, **options})
    )


def small_whisper(path=None, decoder_layers=2, of=None):
    """The content of a checkpoint of random weights, which is written to ``path`` too."""
    of = of or tokenizer()
    sizes = dict(
        embed_dim=16,
        ffn_embed_dim=24,
        attention_heads=2,
        encoder_layers=1,
        decoder_layers=decoder_layers,
        mel_bins=80,
        max_source_positions=100,
        max_target_positions=48,
    )
    settings = OmegaConf.merge(WhisperSettings(), {**sizes, "audio_context": "clip"})
    torch.manual_seed(0)
    parts = {"encoder": WhisperEncoder(settings), "decoder": WhisperDecoder(settings, of.dictionary)}
    weights = {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }
    state = WhisperCheckpoint("test", sizes, weights, of.to_json()).to_fairseq()
    state["cfg"]["model"]["audio_context"] = "clip"
    if path is not None:
        torch.save(state, path)
    return state
