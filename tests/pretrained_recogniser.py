"""A corpus of tones with letters in fairseq's layout, and small pretrained models as fairseq's trainer writes them."""

import numpy as np
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

LETTERS = "|ABC"
SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16,10,5),(16,8,4),(16,8,4),(16,8,4)]",
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "final_dim": 16,
}
# of the pruned set in the small models: per layer four projections and the feed-forward block, with biases
SMALL_WEIGHTS = 2 * (4 * (32 * 32 + 32) + 2 * 32 * 48 + 32 + 48)


def write_corpus(folder, utterances=12, seed=0):
    """dict.ltr.txt, and train and valid with .tsv, .ltr and .wrd: words of tones, 0.3 s a letter."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 10\n" for letter in LETTERS))
    for split in ("train", "valid"):
        rows, letters, words = [str(folder)], [], []
        for i in range(utterances):
            word = "".join(random.choice(list("ABC"), size=random.integers(2, 5)))
            time = np.arange(4800) / 16000
            tones = [np.sin(2 * np.pi * 200 * (1 + "ABC".index(letter)) * time) for letter in word]
            audio = np.concatenate(tones) * 0.3 + random.normal(size=4800 * len(word)) * 0.01
            soundfile.write(folder / f"{split[0]}{i}.wav", audio, 16000)
            rows.append(f"{split[0]}{i}.wav\t{len(audio)}")
            letters.append(" ".join(word) + " |")
            words.append(word)
        for kind, lines in (("tsv", rows), ("ltr", letters), ("wrd", words)):
            (folder / f"{split}.{kind}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def _sections(model, model_config, task, task_config):
    config = OmegaConf.structured(FairseqConfig())
    config = OmegaConf.to_container(config, enum_to_str=True)
    config["model"] = {**OmegaConf.to_container(OmegaConf.structured(model_config), enum_to_str=True)}
    config["model"]["_name"] = model
    config["task"] = {**OmegaConf.to_container(OmegaConf.structured(task_config), enum_to_str=True)}
    config["task"]["_name"] = task
    return config


def _save(path, model, config, task_state):
    state = {
        "args": None,
        "cfg": config,
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": 1, "lr_scheduler_state": {"best": None}}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": task_state,
    }
    torch.save(state, path)


def save_wav2vec(path, seed=0, **changes):
    """A pretrained wav2vec 2.0 of random weights."""
    torch.manual_seed(seed)
    config = Wav2Vec2Config(**{**SMALL, **changes})
    task = AudioPretrainingConfig(data=str(path.parent))
    _save(path, Wav2Vec2Model(config), _sections("wav2vec2", config, "audio_pretraining", task), {})
    return path


def save_hubert(path, seed=0, **changes):
    """A pretrained HuBERT of random weights."""
    torch.manual_seed(seed)
    config = HubertConfig(label_rate=50, **{**SMALL, **changes})
    task = HubertPretrainingConfig(data=str(path.parent), labels=["km"], label_rate=50)
    dictionary = Dictionary()
    for unit in range(8):
        dictionary.add_symbol(str(unit))
    model = HubertModel(config, task, [dictionary])
    _save(
        path, model, _sections("hubert", config, "hubert_pretraining", task), {"dictionaries": [dictionary]}
    )
    return path
