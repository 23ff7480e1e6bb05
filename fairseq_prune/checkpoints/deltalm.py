"""Loading DeltaLM: the published checkpoints, and those that our model `deltalm` saves."""

import logging
import re

import torch
from fairseq.modules import LayerNorm

from fairseq_prune.checkpoints.loading import load_checkpoint_file, load_state_dict_strictly
from fairseq_prune.modules.deltalm.model import vocabulary_checksum
from fairseq_prune.text.dictionaries import read_dictionary

logger = logging.getLogger(__name__)

# Reported of the published files (github.com/microsoft/unilm, issues 392 and 881): 250,104 embedding rows for the
# 249,997 pieces of dict.txt and fairseq's four special symbols; the last rows are the sentinels of span corruption.
PUBLISHED_EXTRA_ROWS = 103
EMBEDDING_NORM = "layernorm_embedding"  # of fairseq's modules

# names of the published files -> names of fairseq's modules
PUBLISHED_NAMES = (
    (re.compile(r"^src_embedding\."), "encoder."),
    (re.compile(r"^tgt_embedding\."), "decoder."),
    (re.compile(r"\.emb_layer_norm\."), ".layernorm_embedding."),
    (re.compile(r"\.ffn_1\.fc1\."), ".fc3."),  # the decoder's feed-forward before cross-attention
    (re.compile(r"\.ffn_1\.fc2\."), ".fc4."),
    (re.compile(r"\.ffn(_2)?\.(fc[12])\."), r".\2."),
)


def load_deltalm(path, encoder=None, decoder=None, dictionary=None):
    """Put the weights of a DeltaLM checkpoint into an encoder, a decoder, or both, in place.

    The file is a published one (`{"weights": ...}`) or one that fairseq saved of a model `deltalm`
    (`{"model": ..., "cfg": ...}`). An embedding row goes to the row of the same symbol; symbols that the file
    has not start near the mean embedding. Positions that the model has not are left out.

    Whether the embeddings have a layer norm is the file's to say: the modules are changed to it.

    Args:
        path: the checkpoint.
        encoder: a DeltaLMEncoder or None; after `keep_layers` it takes only its layers from the file.
        decoder: a DeltaLMDecoder or None. Nothing of a side that is None is looked at.
        dictionary: fairseq Dictionary of the file, or the path of its dict.txt, where it is not that of
            encoder and decoder.

    Raises:
        FileNotFoundError: no such checkpoint or dictionary.
        ValueError: the file is no DeltaLM, or its keys, shapes, layers or dictionary do not fit.
    """
    if isinstance(dictionary, str):
        dictionary = read_dictionary(dictionary)
    weights, published, attention_heads = _read(path)
    states = {side: _take_side(weights, side) for side in ("encoder", "decoder")}
    if weights:
        raise ValueError(f"{path} is not a DeltaLM checkpoint: unknown keys {_some(weights)}")
    _fit_embedding_norms(states, encoder, decoder, path)
    modules = {"encoder": encoder, "decoder": decoder}
    if encoder is not None and decoder is not None and encoder.embed_tokens is decoder.embed_tokens:
        _share_table(states, path)
    for side, module in modules.items():
        if module is not None:
            source = f"{path} ({side})"
            _fit_layers(states[side], module, attention_heads, source)
            if module.embed_tokens is not None:
                _fit_symbols(states[side], module, dictionary, published, source)
                _fit_positions(states[side], module, source)
    for side, module in modules.items():
        if module is not None:
            load_state_dict_strictly(module, states.pop(side), f"{path} ({side})")
            logger.info("%s: %s loaded", path, side)


def _read(path):
    """Weights under fairseq's names; whether the file is a published one; attention heads, if it says."""
    checkpoint = load_checkpoint_file(path, mmap=True)  # the weights are copied once, into the model
    if "weights" in checkpoint:
        return {_fairseq_name(name): value for name, value in checkpoint["weights"].items()}, True, None
    if "model" not in checkpoint:
        raise ValueError(
            f"{path} is not a DeltaLM checkpoint: expected 'weights' (published) or 'model' (fairseq), "
            f"found {_some(checkpoint)}"
        )
    model_cfg = (checkpoint.get("cfg") or {}).get("model") or {}
    return dict(checkpoint["model"]), False, model_cfg.get("attention_heads")


def _fairseq_name(name):
    for pattern, replacement in PUBLISHED_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _take_side(weights, side):
    """Move the keys of one side out of `weights`, without their prefix."""
    prefix = f"{side}."
    return {key[len(prefix) :]: weights.pop(key) for key in list(weights) if key.startswith(prefix)}


def _fit_layers(state, module, attention_heads, source):
    """Check number and heads of the layers; drop what `keep_layers` has dropped from an encoder."""
    below = getattr(module, "layers_below", 0)
    found = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    asked = below + len(module.layers)
    if found != asked:
        raise ValueError(f"{source} has {found} layers, but the model asks for {asked}")
    if attention_heads is not None and len(module.layers):
        asked = module.layers[0].self_attn.num_heads
        if attention_heads != asked:
            raise ValueError(
                f"{source} has {attention_heads} attention heads, but the model asks for {asked}"
            )
    if ("layer_norm.weight" in state) != (module.layer_norm is not None):
        kinds = ("pre-norm", "post-norm") if module.layer_norm is None else ("post-norm", "pre-norm")
        raise ValueError(
            f"{source} is {kinds[0]}, but the model asks for {kinds[1]} layers (--normalize-before, --deltalm-norm)"
        )
    if module.embed_tokens is None:
        for key in [key for key in state if key.startswith(("embed_", f"{EMBEDDING_NORM}."))]:
            del state[key]
    for key in [key for key in state if key.startswith("layers.")]:
        value = state.pop(key)
        _, index, name = key.split(".", 2)
        if int(index) >= below:
            state[f"layers.{int(index) - below}.{name}"] = value
    state["version"] = module.version  # of fairseq's code, not of the weights
    if module.embed_tokens is None:
        state["vocabulary_version"] = module.vocabulary_version


def _fit_embedding_norms(states, encoder, decoder, path):
    """Embeddings get a layer norm where the file has one (deltalm-base), and lose it where not (deltalm-large)."""
    sides = [
        (states[side], module)
        for side, module in (("encoder", encoder), ("decoder", decoder))
        if module is not None and module.embed_tokens is not None
    ]
    found = {f"{EMBEDDING_NORM}.weight" in state for state, _ in sides}
    if len(found) > 1:
        raise ValueError(f"{path}: has {EMBEDDING_NORM} in one of encoder and decoder, expected both or none")
    for _, module in sides:
        if found == {False}:
            module.layernorm_embedding = None
        elif module.layernorm_embedding is None:
            module.layernorm_embedding = LayerNorm(module.embed_tokens.embedding_dim)


def _share_table(states, path):
    """The model has one embedding table for both sides; published files hold it twice."""
    tables = [state.get("embed_tokens.weight") for state in states.values()]
    if None in tables:
        return  # reported with the other missing keys
    if not torch.equal(*tables):
        logger.warning("%s has an embedding table for each side, the model one: the decoder's is taken", path)
    states["encoder"]["embed_tokens.weight"] = states["decoder"]["embed_tokens.weight"]


def _fit_symbols(state, module, dictionary, published, source):
    """Bring the rows for symbols into the order of the module's dictionary; `dictionary` is the file's."""
    stamp = state.pop("vocabulary_version", None)
    state["vocabulary_version"] = module.vocabulary_version
    table = state.get("embed_tokens.weight")
    if table is None:
        return  # reported with the other missing keys
    if dictionary is None or (stamp is not None and int(stamp) == int(module.vocabulary_version)):
        dictionary = module.dictionary
    extra = len(table) - len(dictionary)
    if not 0 <= extra <= (PUBLISHED_EXTRA_ROWS if published else 0):
        found = f"has {len(table)} embeddings"
    elif stamp is not None and int(stamp) != vocabulary_checksum(dictionary):
        found = "was trained with other symbols"
    else:
        found = None
    if found is not None:
        raise ValueError(
            f"{source} {found}, and does not fit a dictionary of {len(dictionary)} symbols: "
            "name its own dict.txt (--deltalm-dict)"
        )
    rows = _rows_by_symbol(dictionary, module.dictionary, source)
    state["embed_tokens.weight"] = _take_rows(table, rows)
    if hasattr(module, "output_projection"):
        tied = module.output_projection.weight is module.embed_tokens.weight
        output = state.get("output_projection.weight", table)  # published files have one table for both
        same = output is table or torch.equal(output, table)
        if tied and not same:
            raise ValueError(
                f"{source} has an output projection beside its embedding, the model one table for both "
                "(--share-embeddings, --deltalm-share-embeddings)"
            )
        state["output_projection.weight"] = state["embed_tokens.weight"] if same else _take_rows(output, rows)


def _rows_by_symbol(old, new, source):
    """Rows (symbols of `new`,) of the same symbols in `old`, -1 where `old` has none."""
    if old.symbols == new.symbols:
        return torch.arange(len(new))
    rows = torch.tensor([old.indices.get(symbol, -1) for symbol in new.symbols])
    found = int((rows >= 0).sum())
    if found <= new.nspecial:
        raise ValueError(
            f"{source}: its dictionary of {len(old)} symbols has none of the {len(new)} that are asked for"
        )
    logger.info(
        "%s: %d of %d symbols have an embedding, the others start near the mean", source, found, len(new)
    )
    return rows


def _take_rows(table, rows):
    """Rows (symbols,) of a table (rows, dim); where the row is -1, the mean row and a little noise."""
    if torch.equal(rows, torch.arange(len(rows))):
        return table[: len(rows)]  # a view, since this may be most of the model
    taken = table[rows.clamp(min=0)]
    missing = rows < 0
    if missing.any():
        deviation, mean = torch.std_mean(table.float(), dim=0)
        noise = torch.randn(int(missing.sum()), table.size(1))
        taken[missing] = (mean + 0.1 * deviation * noise).to(taken)
    return taken


def _fit_positions(state, module, source):
    """Leave out the last positions; file and model both count from fairseq's padding index + 1."""
    table = state.get("embed_positions.weight")
    asked = module.embed_positions.num_embeddings
    if table is None:
        return  # reported with the other missing keys
    if len(table) < asked:
        reserved = asked - module.embed_positions.max_positions
        raise ValueError(
            f"{source} has {len(table) - reserved} positions, but the model asks for {asked - reserved} "
            "(--max-source-positions, --max-target-positions)"
        )
    state["embed_positions.weight"] = table[:asked]


def _some(keys, limit=5):
    names = sorted(str(key) for key in keys)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
