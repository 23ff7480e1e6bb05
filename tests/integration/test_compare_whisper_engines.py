"""examples/whisper: whisper.cpp beside the other engines, where its library is installed and where it is not."""

import runpy
import struct
import sys

import numpy as np
import pytest
from command_lines import ROOT

from fairseq_prune.data.manifest import Utterance, write_manifest

EXAMPLE = ROOT / "examples" / "whisper"
TOKENS, ENGLISH, DIM, MEL_BINS = 50257, 51864, 64, 80
POSITIONS, TEXT_POSITIONS, HEADS = 1500, 448, 2


@pytest.fixture
def engines(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield __import__("engines")
    for name in ("engines", "report"):
        sys.modules.pop(name, None)


def block(name, crosses):
    """Names and shapes of a layer's weights."""
    attentions = ("attn", "cross_attn") if crosses else ("attn",)
    for attention in attentions:
        for part in ("query", "key", "value", "out"):
            yield f"{name}.{attention}.{part}.weight", (DIM, DIM)
            if part != "key":
                yield f"{name}.{attention}.{part}.bias", (DIM,)
    for norm in (*(f"{attention}_ln" for attention in attentions), "mlp_ln"):
        yield f"{name}.{norm}.weight", (DIM,)
        yield f"{name}.{norm}.bias", (DIM,)
    yield f"{name}.mlp.0.weight", (4 * DIM, DIM)
    yield f"{name}.mlp.0.bias", (4 * DIM,)
    yield f"{name}.mlp.2.weight", (DIM, 4 * DIM)
    yield f"{name}.mlp.2.bias", (DIM,)


def weights():
    for conv, channels in (("conv1", MEL_BINS), ("conv2", DIM)):
        yield f"encoder.{conv}.weight", (DIM, channels, 3)
        yield f"encoder.{conv}.bias", (DIM, 1)
    yield "encoder.positional_embedding", (POSITIONS, DIM)
    yield from block("encoder.blocks.0", crosses=False)
    yield "decoder.positional_embedding", (TEXT_POSITIONS, DIM)
    yield "decoder.token_embedding.weight", (ENGLISH, DIM)
    yield from block("decoder.blocks.0", crosses=True)
    for norm in ("encoder.ln_post", "decoder.ln"):
        yield f"{norm}.weight", (DIM,)
        yield f"{norm}.bias", (DIM,)


def write_ggml(path):
    """An English Whisper of random weights in whisper.cpp's format; every token is a word."""
    draw = np.random.default_rng(1)
    with path.open("wb") as file:
        sizes = (ENGLISH, POSITIONS, DIM, HEADS, 1, TEXT_POSITIONS, DIM, HEADS, 1, MEL_BINS)
        file.write(struct.pack("12i", 0x67676D6C, *sizes, 1))  # the last: matrices have 16 bits
        file.write(struct.pack("2i", MEL_BINS, 201))
        file.write(draw.random((MEL_BINS, 201), dtype=np.float32).tobytes())
        file.write(struct.pack("i", TOKENS))
        for number in range(TOKENS):
            word = f" w{number}".encode() if number else b" "  # which it looks up
            file.write(struct.pack("i", len(word)) + word)
        for name, shape in weights():
            half = len(shape) > 1 and not name.endswith(("bias", "positional_embedding"))
            values = 0.2 * draw.standard_normal(shape)
            file.write(struct.pack("3i", len(shape), len(name), half))
            file.write(struct.pack(f"{len(shape)}i", *reversed(shape)) + name.encode())
            file.write(values.astype(np.float16 if half else np.float32).tobytes())
    return path


def test_whisper_cpp_writes_greedily_and_hears_as_much_as_it_is_told(engines, tmp_path):
    pytest.importorskip("pywhispercpp", reason="built by hand, see examples/whisper/README.md")
    file = write_ggml(tmp_path / "ggml.bin")
    waveform = 0.1 * np.random.default_rng(2).standard_normal(32000).astype(np.float32)
    seconds = {}
    for options in ("", ",audio_context=clip+1", ",audio_context=clip,flash_attn=0"):
        engine = engines.build(f"whisper-cpp:{file}{options}", engines.Settings())
        text = engine.run(waveform)
        assert 0 < len(text.split()) <= engines.MAX_TOKENS
        assert engine.run(waveform) == text
        seconds[options] = engine.encoder_seconds[0]
    assert (
        0
        < 2 * max(seconds[",audio_context=clip+1"], seconds[",audio_context=clip,flash_attn=0"])
        < seconds[""]
    )
    with pytest.raises(ValueError, match="found threads, expected audio_context or flash_attn"):
        engines.build(f"whisper-cpp:{file},threads=2", engines.Settings())
    with pytest.raises(FileNotFoundError):
        engines.build("whisper-cpp:tiny.en", engines.Settings())
    (tmp_path / "other.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="other.bin: found another kind of file, expected ggml weights"):
        engines.build(f"whisper-cpp:{tmp_path / 'other.bin'}", engines.Settings())


def test_a_library_that_is_not_installed_is_one_line(engines, tmp_path, monkeypatch):
    write_manifest(tmp_path / "test.tsv", [Utterance("u", "u.wav", 0, 16000, "play the song", "x", "s")])
    arguments = (
        f"--manifest {tmp_path / 'test.tsv'} --out {tmp_path / 'out'} --engine cpp=whisper-cpp:ggml.bin"
    )
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments.split()])
    for name in ("pywhispercpp", "pywhispercpp.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE / "compare.py"), run_name="__main__")
    said = str(ended.value)
    assert said.startswith("error: whisper-cpp:ggml.bin: ") and "pywhispercpp" in said and "\n" not in said
    assert said.endswith("(examples/whisper/README.md: how to install)")
    assert not (tmp_path / "out").exists()
