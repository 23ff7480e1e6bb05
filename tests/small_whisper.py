"""A Whisper of random weights in transformers and in this package, and a tokenizer of the published kind."""

import json
from functools import lru_cache

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from fairseq_prune.models.whisper import Whisper
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.modules.whisper.settings import WhisperSettings
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE

SPECIALS = "endoftext startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps".split()
TEXTS = [
    "what is the weather like (tomorrow) in the north",
    "wake me up at nine - in the morning - every day",
    "play the next song by the Beatles [live] in the kitchen",
]
SIZES = {
    "embed_dim": 32,
    "ffn_embed_dim": 48,
    "attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "mel_bins": 80,
    "max_source_positions": 60,
    "max_target_positions": 40,
}


@lru_cache(maxsize=1)
def tokenizer_json() -> str:
    """A byte-level BPE of some 400 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in SPECIALS])
    return json.dumps(json.loads(tokenizer.to_str()))


def small_tokenizer() -> ByteLevelBPE:
    return ByteLevelBPE(tokenizer_json(), name="tokenizer.json")


def huggingface_whisper(tokenizer=None, seed=0, end=10, **changes):
    """transformers' model of `SIZES`, no norm the identity, no bias zero; the higher ``end``, the shorter texts."""
    tokenizer = tokenizer or small_tokenizer()
    sizes = {**SIZES, **changes}
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=sizes["embed_dim"],
        encoder_ffn_dim=sizes["ffn_embed_dim"],
        decoder_ffn_dim=sizes["ffn_embed_dim"],
        encoder_attention_heads=sizes["attention_heads"],
        decoder_attention_heads=sizes["attention_heads"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"],
        num_mel_bins=sizes["mel_bins"],
        max_source_positions=sizes["max_source_positions"],
        max_target_positions=sizes["max_target_positions"],
        bos_token_id=tokenizer.dictionary.eos(),
        eos_token_id=tokenizer.dictionary.eos(),
        pad_token_id=tokenizer.dictionary.eos(),
        decoder_start_token_id=tokenizer.dictionary.bos(),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "model.encoder.embed_positions.weight":
                spread = 2 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
                parameter.add_(torch.randn_like(parameter) * spread)
        # the end is likely everywhere, so that texts have different lengths
        decoder = model.model.decoder
        decoder.embed_tokens.weight[tokenizer.dictionary.eos()] += decoder.layer_norm.bias * end
    return model


def small_whisper(weights=None, tokenizer=None, **options) -> Whisper:
    """Our model of `SIZES`, perhaps with weights under our names."""
    settings = WhisperSettings(**{**SIZES, **options})
    dictionary = (tokenizer or small_tokenizer()).dictionary
    model = Whisper(WhisperEncoder(settings), WhisperDecoder(settings, dictionary)).eval()
    if weights is not None:
        model.load_state_dict(weights)
    return model


def our_names(model):
    """The weights of transformers' model under our names."""
    return {
        name[len("model.") :]: value.clone()
        for name, value in model.state_dict().items()
        if name != "proj_out.weight"
    }


@torch.no_grad()
def clips(*frames, bins=80, seed=1):
    """Features of clips of the given lengths, zero padded (batch, frames, bins), and the lengths (batch,)."""
    torch.manual_seed(seed)
    features = torch.randn(len(frames), max(frames), bins)
    for row, length in zip(features, frames):
        row[length:] = 0
    return features, torch.tensor(frames)
