"""Decoders that are timed: that all write as many tokens, and what is read and shown."""

import pytest
import torch

from fairseq_prune.benchmarks.generation import Task, Written, generation_table, measure_generation
from fairseq_prune.benchmarks.generation_kinds import build_generator
from fairseq_prune.benchmarks.specs import TINY, Spec
from fairseq_prune.compat import HAS_HALF_PRODUCTS

WHISPER = dict(embed_dim=32, ffn_embed_dim=48, attention_heads=4, encoder_layers=1, decoder_layers=2)
WHISPER.update(max_source_positions=30, max_target_positions=40)
TOKENS = 6


def generator(text, sizes=TINY):
    return build_generator(Spec.parse(text), sizes)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("hubert_deltalm,vocabulary=60", TINY),
        ("hubert_deltalm,vocabulary=60,dtype=int8", TINY),
        ("hubert_deltalm,vocabulary=60,dtype=float16", TINY),
        ("hubert_deltalm,vocabulary=60,preview=8", TINY),
        ("whisper_tiny,preview=8,dtype=int8", WHISPER),
        ("whisper_tiny", WHISPER),
        ("whisper_base,dtype=int8", WHISPER),
        ("whisper_base,dtype=float16", WHISPER),
    ],
)
def test_ours_write_as_many_tokens_and_an_end(text, sizes, beam):
    ours = generator(text, sizes)
    for sentence in ours.write(ours.encode(2, 0.5), TOKENS, beam):
        assert len(sentence) == beam and all(
            len(hypothesis["tokens"]) == TOKENS + 1 for hypothesis in sentence
        )


def test_transformers_writes_as_many():
    pytest.importorskip("transformers")
    theirs = generator("transformers_mbart,vocabulary=60")
    assert theirs.write(theirs.encode(2, 0.5), TOKENS, 2).shape == (2, 1 + TOKENS + 1)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_ctranslate2_writes_as_many(dtype):
    pytest.importorskip("ctranslate2")
    theirs = generator(f"ctranslate2_mbart,vocabulary=60,dtype={dtype}")
    for sentence in theirs.write(theirs.encode(2, 0.5), TOKENS, 2):
        assert len(sentence.hypotheses[0]) == TOKENS + 1


def test_transformers_decoder_reads_as_many_weights_as_ours():
    pytest.importorskip("transformers")
    from fairseq_prune.benchmarks.generation_kinds import mbart_model

    ours = generator("hubert_deltalm,vocabulary=60").bytes
    model = mbart_model(60, TINY)
    once = ("encoder_attn.k_proj", "encoder_attn.v_proj")
    linear = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    read = (part for name, part in linear.items() if "encoder.layers" not in name and not name.endswith(once))
    assert ours == sum(4 * part.weight.numel() for part in read)


def test_8_bits_are_a_quarter_of_the_bytes():
    whole, small = (generator(f"hubert_deltalm,vocabulary=60{more}").bytes for more in ("", ",dtype=int8"))
    assert whole == 4 * small


@pytest.mark.skipif(not HAS_HALF_PRODUCTS, reason="this processor has no products by 16 bits")
def test_16_bits_are_half_of_the_bytes():
    whole, half = (generator(f"hubert_deltalm,vocabulary=60{more}").bytes for more in ("", ",dtype=float16"))
    assert whole == 2 * half


def test_steps_are_timed_in_turns_and_by_stage(monkeypatch):
    specs = [
        Spec.parse("hubert_deltalm,vocabulary=60"),
        Spec.parse("hubert_deltalm,vocabulary=60,dtype=int8"),
    ]
    task = Task(seconds=0.5, batch=1, beam=2, tokens=4)
    ((first, second),) = measure_generation(specs, [task], rounds=2, sizes=TINY)
    assert len(first.seconds) == 2 and first.speedups == [1, 1]
    assert second.speedups == [a / b for a, b in zip(first.seconds, second.seconds)]
    expected = {
        "self-attention",
        "cross-attention",
        "feed-forward",
        "output projection",
        "rest of the decoder",
    }
    assert set(first.stages) == {*expected, "beam search"} and min(first.stages.values()) > 0


def test_a_row_by_hand():
    task = Task(seconds=3, batch=1, beam=5, tokens=19)
    stages = {"self-attention": 0.02, "beam search": 0.1}
    row = Written("x", task, [0.4, 0.4], [1.5, 1.7], stages, encoder=0.25, bytes=100_000_000)
    cells = [
        cell.strip() for cell in generation_table([[row]], bandwidth=2e10).splitlines()[2].split("|")[1:-1]
    ]
    assert cells == [
        "x",
        "5",
        "1",
        "20.0",
        "1.60",
        "1.0",
        "",
        "",
        "",
        "",
        "5.0",
        "100",
        "25 %",
        "0.250",
        "0.650",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fairseq", "generation: found 'fairseq', expected some of hubert_deltalm, "),
        ("hubert_deltalm,dtype=bfloat16", "found dtype bfloat16, expected float32 or int8 or float16"),
        ("transformers_mbart,dtype=int8", "found dtype int8, expected float32"),
        ("transformers_mbart,preview=8", "found preview, which is an option of our decoders"),
    ],
)
def test_what_is_no_generator_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        generator(text)
