"""Small encoders in the files that fairseq and this package write."""

import json

import torch
from fairseq.data import Dictionary
from fairseq.models.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

from fairseq_prune.modules.hubert.architecture import architecture_of
from fairseq_prune.modules.hubert.gated import GatedHubert

CONV = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(12, 2, 2)] * 2
BASE = {
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
}
LARGE = {
    **BASE,
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "conv_bias": True,
    "encoder_layers": 3,
}
# of transformers
HF_BASE = {
    "conv_dim": [16] * 5 + [12] * 2,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
HF_LARGE = {**HF_BASE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def random_weights(module):
    """So that no norm is the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


def pretrained(options, classes=5, **others):
    """fairseq's HubertModel with all its pretraining heads."""
    dictionary = Dictionary()
    for symbol in range(classes):
        dictionary.add_symbol(str(symbol))
    config = HubertConfig(label_rate=50.0, **{"final_dim": 6, "target_glu": True, **options, **others})
    return random_weights(HubertModel(config, HubertPretrainingConfig(), [dictionary])), config, dictionary


def sections(config, normalize=False):
    task = HubertPretrainingConfig(normalize=normalize)
    return {
        "model": {**vars(config), "_name": "hubert"},
        "task": {**vars(task), "_name": "hubert_pretraining"},
    }


def save(path, model, cfg=None, args=None, **others):
    """As fairseq's Trainer lays a checkpoint out."""
    state = {
        "args": args,
        "cfg": cfg,
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 2}],
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 3.5},
        **others,
    }
    torch.save(state, path)
    return path


def make_gated(options, gating=None):
    """Some channels, heads and units of each stage closed, and whole blocks."""
    torch.manual_seed(0)
    gated = random_weights(
        GatedHubert(HubertConfig(label_rate=50, **options), gating, normalize=options is LARGE)
    )
    for kind, gates in gated.gates.items():
        for index, gate in gates.items():
            values = 2 * torch.randn(len(gate.log_alpha)) + 1
            values[0] = 6.0 if kind != "attention_blocks" or index != "1" else -9.0
            gate.log_alpha.data = values
    return gated


def save_dphubert(path, encoder, **options):
    """As fairseq's trainer lays a checkpoint of the model dphubert out."""
    model = {"_name": "dphubert", "student_config": json.dumps(architecture_of(encoder)), **options}
    weights = {f"student.{name}": value for name, value in encoder.state_dict().items()}
    torch.save(
        {"cfg": {"model": model, "task": {}}, "model": {**weights, "maps.0.weight": torch.ones(2)}}, path
    )
    return path
