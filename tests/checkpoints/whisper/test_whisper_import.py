import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_whisper import SIZES, huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.checkpoints.whisper.ctranslate2 import read_ctranslate2
from fairseq_prune.checkpoints.whisper.importing import import_whisper
from fairseq_prune.checkpoints.whisper.own import read_whisper

TOKENIZER = small_tokenizer()


@pytest.fixture(scope="module")
def model():
    return huggingface_whisper()


@pytest.fixture
def folder(model, tmp_path):
    """A Hugging Face folder with its tokenizer."""
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/tokenizer.json").write_text(TOKENIZER.to_json())
    return tmp_path / "hf"


def openai_state(weights):
    """Weights as OpenAI's code names them."""
    named = {}
    for name, value in weights.items():
        name = name.replace(".layers.", ".blocks.")
        for ours, theirs in (
            ("self_attn_layer_norm", "attn_ln"),
            ("encoder_attn_layer_norm", "cross_attn_ln"),
            ("final_layer_norm", "mlp_ln"),
            ("encoder_attn", "cross_attn"),
            ("self_attn", "attn"),
            ("q_proj", "query"),
            ("k_proj", "key"),
            ("v_proj", "value"),
            ("out_proj", "out"),
            ("fc1", "mlp.0"),
            ("fc2", "mlp.2"),
            ("encoder.layer_norm", "encoder.ln_post"),
            ("decoder.layer_norm", "decoder.ln"),
            ("embed_tokens", "token_embedding"),
            ("embed_positions.weight", "positional_embedding"),
        ):
            name = name.replace(ours, theirs)
        named[name] = value.half()
    return named


def openai_dims(rows):
    return {
        "n_mels": 80,
        "n_vocab": rows,
        "n_audio_ctx": SIZES["max_source_positions"],
        "n_audio_state": SIZES["embed_dim"],
        "n_audio_head": SIZES["attention_heads"],
        "n_audio_layer": SIZES["encoder_layers"],
        "n_text_ctx": SIZES["max_target_positions"],
        "n_text_state": SIZES["embed_dim"],
        "n_text_head": SIZES["attention_heads"],
        "n_text_layer": SIZES["decoder_layers"],
    }


def convert(folder, out, quantization):
    converters = pytest.importorskip(
        "ctranslate2.converters", reason="in the test extra of the current stack"
    )
    converters.TransformersConverter(str(folder)).convert(str(out), quantization=quantization)
    return out


@pytest.fixture
def converted(folder, tmp_path):
    """The folder in CTranslate2's form, of a type."""
    import transformers

    end = "<|endoftext|>"
    options = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end)
    transformers.WhisperTokenizerFast(tokenizer_object=TOKENIZER.tokenizer, **options).save_pretrained(folder)
    return lambda quantization: convert(folder, tmp_path / quantization, quantization)


def assert_same_weights(checkpoint, model, half=False):
    expected = {name: value.half().float() if half else value for name, value in our_names(model).items()}
    assert checkpoint.sizes == SIZES
    assert {name: value.dtype for name, value in checkpoint.state_dict.items()} == dict.fromkeys(
        expected, torch.float32
    )
    for name, value in expected.items():
        assert torch.equal(checkpoint.state_dict[name], value), name


def test_a_folder_of_hugging_face(folder, model):
    checkpoint, says = import_whisper(folder)
    assert_same_weights(checkpoint, model)
    assert says == {"multilingual": None, "suppressed": None, "alignment_heads": None}


def test_what_the_generation_config_says(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"is_multilingual": True, "suppress_tokens": [1, 2]})
    )
    assert import_whisper(folder)[1] == {"multilingual": True, "suppressed": [1, 2], "alignment_heads": None}


@pytest.mark.parametrize(("rows", "multilingual"), [(51864, False), (51865, True)])
def test_a_file_of_openai(tmp_path, model, rows, multilingual):
    content = {"dims": openai_dims(rows), "model_state_dict": openai_state(our_names(model))}
    torch.save(content, tmp_path / "tiny.pt")
    checkpoint, says = import_whisper(tmp_path / "tiny.pt")
    assert_same_weights(checkpoint, model, half=True)
    assert says["multilingual"] is multilingual


@pytest.mark.parametrize("quantization", ["float32", "float16"])
def test_a_folder_of_ctranslate2(converted, model, quantization):
    checkpoint, _ = import_whisper(converted(quantization))
    assert_same_weights(checkpoint, model, half=quantization == "float16")


@pytest.mark.parametrize("quantization", ["int8", "int8_float16", "int16"])
def test_a_quantized_model_of_ctranslate2_is_refused(converted, quantization):
    with pytest.raises(
        ValueError, match=r"model.bin: found weights quantized to torch.int\d+ .*expected float16 or"
    ):
        import_whisper(converted(quantization))


def test_our_checkpoint_comes_back(tmp_path, folder, model):
    checkpoint, _ = import_whisper(folder)
    checkpoint.tokenizer, checkpoint.task = TOKENIZER.to_json(), {"language": "en", "suppress_tokens": "none"}
    torch.save(checkpoint.to_fairseq(), tmp_path / "whisper.pt")
    found = read_whisper(tmp_path / "whisper.pt")
    assert_same_weights(found, model)
    assert (found.tokenizer, found.task["language"], found.rows) == (
        TOKENIZER.to_json(),
        "en",
        len(TOKENIZER),
    )
    small_whisper(found.state_dict)  # loads strictly


def test_a_broken_model_of_ctranslate2_is_told(converted):
    path = converted("float16") / "model.bin"
    whole = path.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "broken or cut off"),
        (b"\x09\0\0\0" + whole[4:], "found version 9 of CTranslate2's layout, expected 6"),
        (b"\x06\0", "not a model of CTranslate2"),
        (whole[:4] + b"\xff\xff" + whole[6:40], "broken or cut off"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: .*{message}"):
            read_ctranslate2(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2', expected 'whisper'"),
        ({"activation_function": "relu"}, "activation_function is 'relu', expected 'gelu'"),
        ({"decoder_attention_heads": 8}, r"found \[4, 8\] attention heads, expected as many"),
    ],
)
def test_what_our_modules_cannot_express_is_refused(folder, changes, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        import_whisper(folder)


def test_what_is_no_whisper_is_refused(tmp_path, folder):
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"expected OpenAI's Whisper .*, found \['model'\]"):
        import_whisper(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of a model whisper .* found model None"):
        read_whisper(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such checkpoint"):
        import_whisper(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no model.safetensors or pytorch_model.bin"):
        import_whisper(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="expected a folder of Hugging Face or CTranslate2"):
        import_whisper(folder)


def test_a_projection_that_is_not_the_embedding_is_refused(tmp_path, folder):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = safetensors.load_file(folder / "model.safetensors")
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"] + 1
    safetensors.save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"proj_out.weight is not the embedding"):
        import_whisper(folder)


def shards(folder, kind, weights):
    """The weights in two files and their index, as transformers writes large models."""
    save = save_file if kind == "safetensors" else torch.save
    name = "model" if kind == "safetensors" else "pytorch_model"
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{name}-{number:05}-of-00002.{kind}"
        save({key: weights[key].clone() for key in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = folder / f"{name}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def named_weights(model):
    return {name: value for name, value in model.state_dict().items() if name != "proj_out.weight"}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_of_shards(folder, model, kind):
    shards(folder, kind, named_weights(model))
    assert_same_weights(import_whisper(folder)[0], model)


def test_a_folder_with_pytorch_model_bin(folder, model):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert_same_weights(import_whisper(folder)[0], model)


def lose_a_shard(folder, index):
    next(folder.glob("*-00002-of-*")).unlink()


def change_map(**changes):
    def change(folder, index):
        content = json.loads(index.read_text())
        content["weight_map"].update(changes)
        index.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_shard, r"no such shard: model-00002-of-00002.safetensors \(1 of 2 are missing\)"),
        (change_map(other="model-00001-of-00002.safetensors"), "weight 'other' is not in the file"),
        (change_map(other="../secret.safetensors"), "expected the name of a file in this folder"),
        (lambda folder, index: index.write_text("{}"), "expected weight_map"),
    ],
)
def test_shards_that_do_not_fit_their_index_are_refused(folder, model, damage, message):
    index = shards(folder, "safetensors", named_weights(model))
    damage(folder, index)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        import_whisper(folder)
