"""Reading HuBERT and wav2vec 2.0, which have one architecture: files of fairseq, of Hugging Face, and our own.

fairseq's checkpoints may be pretrained or fine-tuned with CTC.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_prune.checkpoints.hubert.dphubert import read_dphubert_file
from fairseq_prune.checkpoints.hubert.huggingface import read_huggingface_hubert
from fairseq_prune.checkpoints.hubert.own import OUR_MODELS, encoder_in
from fairseq_prune.checkpoints.huggingface_folder import pruning_options, read_json
from fairseq_prune.checkpoints.loading import load_checkpoint_file, model_and_task_options, usable
from fairseq_prune.modules.hubert.architecture import check_architecture

KNOWN_KEY = re.compile(
    r"mask_emb|(post_extract_proj|layer_norm|feature_extractor\.conv_layers\.\d+\.(0|2|2\.1|scale)"
    r"|encoder\.(layer_norm|pos_conv\.[01]|layers\.\d+\.(self_attn\.[qkv]_proj|self_attn\.out_proj"
    r"|self_attn_layer_norm|fc1|fc2|final_layer_norm)))"
    r"\.(weight|bias|weight_g|weight_v|running_mean|running_var|num_batches_tracked)"
    r"|relative_position\.(table\.weight|layers\.\d+\.(linear\.(weight|bias)|scale|heads))"
)


@dataclass(frozen=True)
class EncoderFamily:
    """A model of fairseq whose encoder is one of HuBERT's kind.

    head: weights that pretraining alone needs; they are dropped.
    fixed: options that would change the encoder, and HuBERT does not have: {option: what HuBERT does}.
    """

    head: re.Pattern
    fixed: dict[str, Any] = field(default_factory=dict)


# by the name of the model; another family is another row
FAMILIES = {
    "hubert": EncoderFamily(re.compile(r"label_embs_concat|(final_proj|target_glu\.0)\.(weight|bias)")),
    "wav2vec2": EncoderFamily(
        re.compile(
            r"quantizer\.(vars|weight_proj(\.\d+)*\.(weight|bias))|(project_q|final_proj|target_glu\.0)\.(weight|bias)"
        ),
        {"quantize_input": False, "pos_conv_depth": 1, "crop_seq_to_multiple": 1},
    ),
}
CTC_HEAD = re.compile(r"w2v_encoder\.proj\.(weight|bias)|magnitude_pruning")  # dropped, with PARP's state
CTC_PREFIX = "w2v_encoder.w2v_model."


@dataclass
class HubertCheckpoint:
    """A HuBERT or wav2vec 2.0 without pretraining heads.

    config: the ARCHITECTURE fields of fairseq's HubertConfig, as JSON can hold them; of a compressed one, "pruned"
        says in what its layers differ.
    normalize: whether it was trained on waveforms of zero mean and unit variance.
    state_dict: float32 tensors under the names of fairseq's HubertModel.
    pruning: options that say which frames are dropped (`models.token_pruning`), where the source says it.
    """

    config: dict[str, Any]
    normalize: bool
    state_dict: dict[str, Tensor]
    pruning: dict[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> dict[str, Any]:
        """For `build_encoder`, and for our checkpoints to keep."""
        return {"normalize": self.normalize, **self.config}


def read_hubert(path):
    """Read a HuBERT or wav2vec 2.0.

    Args:
        path: checkpoint of fairseq, compressed encoder of ours (`pruned_hubert`, or `dphubert` without gates), file
            of the published DPHuBERT, or a folder that `save_pretrained` of transformers wrote.

    Returns:
        HubertCheckpoint

    Raises:
        FileNotFoundError: no such file, or the folder lacks `config.json` or weights.
        ValueError: unreadable, no such model, one that fairseq's HubertModel cannot express, or one with gates.
    """
    path = Path(path)
    with usable(path):
        if not path.is_dir():
            return _checked(*_read_fairseq(path), path)
        checkpoint = _checked(*read_huggingface_hubert(path), path)
        config = path / "config.json"
        checkpoint.pruning = pruning_options(read_json(config), checkpoint.config["encoder_layers"], config)
        return checkpoint


def hubert_in(options, normalize, weights, source):
    """A HuBERT or wav2vec 2.0 without pretraining heads, of a model of fairseq.

    Args:
        options: of the model. weights: under the names of fairseq's HubertModel.
        normalize: whether it was trained on waveforms of zero mean and unit variance.
        source: where they come from, for errors.

    Returns:
        HubertCheckpoint

    Raises:
        ValueError: as `read_hubert`.
    """
    return _checked(*_without_head(options, normalize, weights, source), source)


def _checked(config, normalize, weights, path):
    for key, value in weights.items():
        if not (KNOWN_KEY.fullmatch(key) and isinstance(value, Tensor)):
            raise ValueError(f"{path}: unknown weight {key!r}, expected those of a HuBERT")
    if not isinstance(normalize, bool):
        raise ValueError(f"{path}: normalize is {normalize!r}, expected true or false")
    try:
        config = check_architecture(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return HubertCheckpoint(config, normalize, {key: _own_float32(value) for key, value in weights.items()})


def _read_fairseq(path):
    checkpoint = load_checkpoint_file(path, mmap=True)
    if isinstance(checkpoint.get("config"), dict) and isinstance(checkpoint.get("state_dict"), dict):
        return read_dphubert_file(checkpoint, path)
    weights = checkpoint.get("model")
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: not a fairseq checkpoint: found {list(checkpoint)[:5]}, expected 'model'")
    model, task = model_and_task_options(checkpoint, path)
    normalize = task.get("normalize", False)
    if "w2v_path" in model:
        model = _pretrained_model(model, path)
        weights = {key: value for key, value in weights.items() if not CTC_HEAD.fullmatch(key)}
        other = [key for key in weights if not key.startswith(CTC_PREFIX)]
        if other:
            raise ValueError(
                f"{path}: unknown weight {other[0]!r}, expected those of an encoder with a CTC head"
            )
        weights = {key[len(CTC_PREFIX) :]: value for key, value in weights.items()}
    return _without_head(model, normalize, weights, path)


def _without_head(model, normalize, weights, path):
    name = model.get("_name") or model.get("arch")
    if name in OUR_MODELS:
        config, weights = encoder_in(name, model, weights, path)
        if any(key.startswith("gates.") for key in weights):
            raise ValueError(f"{path}: still has gates, expected what scripts/compress_hubert.py makes of it")
        return config, config.pop("normalize"), weights
    if name not in FAMILIES:
        known = ", ".join((*FAMILIES, *OUR_MODELS))
        raise ValueError(
            f"{path}: a checkpoint of model {name!r}, expected one of {known}, or with CTC on top"
        )
    family = FAMILIES[name]
    for option, fixed in family.fixed.items():
        if model.get(option, fixed) != fixed:
            raise ValueError(f"{path}: {option} is {model[option]!r}, but fairseq's HuBERT has {fixed!r}")
    weights = {key: value for key, value in weights.items() if not family.head.fullmatch(key)}
    return model, normalize, weights


def _pretrained_model(fine_tuned, path):
    """Options of the encoder in a fine-tuned model, from `w2v_args` or else from the file it began with."""
    if fine_tuned.get("w2v_args") is not None:
        return model_and_task_options({"cfg": fine_tuned["w2v_args"]}, path)[0]
    pretrained = fine_tuned["w2v_path"]
    if not Path(pretrained).is_file():
        raise ValueError(
            f"{path}: fine-tuned, without the architecture (w2v_args), and the checkpoint that it began with "
            f"is not here: {pretrained}"
        )
    return model_and_task_options(load_checkpoint_file(pretrained, mmap=True), pretrained)[0]


def _own_float32(tensor):
    """A copy, so that nothing hangs on a mapped file; half-precision checkpoints become float32."""
    return tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
