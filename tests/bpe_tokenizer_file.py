"""A `tokenizer.json` in the form of Whisper's: byte-level BPE, special tokens, timestamps, a template."""

import json
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS = (
    "<|endoftext|> <|startoftranscript|> <|en|> <|transcribe|> <|startoflm|> <|startofprev|> <|notimestamps|>"
)
TIMESTAMPS = ["<|0.00|>", "<|1.02|>"]
LABELS = [" [IN:create_alarm", " [SL:time"]
TEXTS = """
wake me up at nine in the morning and again at nineteen past ten
play the wings of the evening by the new opening band in the kitchen
are the windows in the living room open or is the heating winning
what is the weather going to be like next week in the north of england
remind me to call the dentist about the appointment on wednesday evening
""".split("\n")


@lru_cache(maxsize=1)
def bpe_tokenizer_json(size=500):
    """The text of the file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIALS.split()]
    )
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in TIMESTAMPS])
    ids = [(name, tokenizer.token_to_id(name)) for name in SPECIALS.split()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>",
        special_tokens=[
            pair for pair in ids if pair[0] in ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
        ],
    )
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)
