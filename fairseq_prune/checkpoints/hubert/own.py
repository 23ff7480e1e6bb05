"""Our own checkpoints of encoders: with the gates that training left, and compressed."""

import json
import re

from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    load_state_dict_strictly,
    model_and_task_options,
)
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.cutting import cut_gates
from fairseq_prune.modules.hubert.encoder import SAMPLE_RATE
from fairseq_prune.modules.hubert.gated import GatedHubert, Gating

# {model: (option that holds the encoder's architecture as JSON, prefix of the encoder's weights)}
OUR_MODELS = {
    "pruned_hubert": ("hubert_config", ""),
    "wavlm": ("hubert_config", ""),
    "dphubert": ("student_config", "student."),
}
# options for training on, under the names of fairseq's HuBERT: fairseq's CTC models override what is in the file
REGULARISATION = {
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "feature_grad_mult": 1.0,
    "mask_prob": 0.0,
    "mask_length": 10,
    "mask_channel_prob": 0.0,
    "mask_channel_length": 64,
}
GATE = re.compile(r"gates\.(\w+)\.\d+\.log_alpha")


def encoder_in(name, options, weights, path):
    """The encoder in a checkpoint of one of OUR_MODELS.

    Args:
        name: of the model. options, weights: of the checkpoint.
        path: where they come from, for errors.

    Returns:
        (architecture, weights under the names of fairseq's HubertModel, and of gates)

    Raises:
        ValueError: it holds no architecture.
    """
    option, prefix = OUR_MODELS[name]
    try:
        architecture = json.loads(options[option])
    except (KeyError, TypeError, ValueError):
        architecture = None
    if not isinstance(architecture, dict) or "normalize" not in architecture:
        raise ValueError(f"{path}: option {option} of the model {name} holds no architecture")
    weights = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    return architecture, weights


def read_student(path):
    """Read the encoder of a checkpoint of `dphubert` or `pruned_hubert`.

    Returns:
        GatedHubert if it has gates, else TokenPrunedHubert; in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, of another model, or weights that do not fit.
    """
    checkpoint = load_checkpoint_file(path, mmap=True)
    options, _ = model_and_task_options(checkpoint, path)
    name = options.get("_name") or options.get("arch")
    if name not in OUR_MODELS or not isinstance(checkpoint.get("model"), dict):
        raise ValueError(f"{path}: a checkpoint of model {name!r}, expected {' or '.join(OUR_MODELS)}")
    architecture, weights = encoder_in(name, options, checkpoint["model"], path)
    gated = {match.group(1) for match in map(GATE.fullmatch, weights) if match}
    unknown = gated - set(Gating.__dataclass_fields__)
    if unknown:
        raise ValueError(f"{path}: has gates of an unknown kind: {', '.join(sorted(unknown))}")
    # the drop probability is only what training began with
    gating = Gating(**{kind: 0.5 if kind in gated else None for kind in Gating.__dataclass_fields__})
    encoder = build_encoder(architecture, gating=gating if gated else None)
    load_state_dict_strictly(encoder, weights, path)
    return encoder.eval()


def materialise(gated):
    """Cut out of a `GatedHubert` what its gates close.

    Returns:
        (TokenPrunedHubert with the outputs of ``gated`` in evaluation, the architecture that it is built from)

    Raises:
        ValueError: the gates close a whole stage.
    """
    small = cut_gates(gated)
    return small, architecture_of(small)


def save_pruned_hubert(encoder, path):
    """Write an encoder without gates as a checkpoint of fairseq's layout, of the model `pruned_hubert`.

    It says by itself what it is: `read_hubert` reads it, and fairseq loads it with this package as --user-dir.

    Raises:
        ValueError: the encoder has gates.
    """
    if isinstance(encoder, GatedHubert):
        raise ValueError("an encoder with gates: expected what materialise makes of it")
    architecture = architecture_of(encoder)
    options = {
        "_name": "pruned_hubert",
        "hubert_path": None,
        "hubert_config": json.dumps(architecture),
        "encoder_embed_dim": architecture["encoder_embed_dim"],
        **REGULARISATION,
    }
    task = {
        "_name": "audio_pretraining",
        "data": "",
        "sample_rate": SAMPLE_RATE,
        "normalize": architecture["normalize"],
    }
    checkpoint = {
        "args": None,
        "cfg": {"model": options, "task": task},
        "model": {name: value.detach().float().cpu() for name, value in encoder.state_dict().items()},
        # what fairseq asks of every checkpoint
        "optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": {},
    }
    save(checkpoint, path)
