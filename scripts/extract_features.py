#!/usr/bin/env python
"""Write the hidden states of every layer of an encoder for audio files, as features for other models.

    python scripts/extract_features.py --checkpoint dphubert.pt --out features a.wav b.flac
    python scripts/extract_features.py --checkpoint hubert_base_ls960.pt --out valid.safetensors --manifest valid.tsv

A folder gets NAME.npy for each file, (layers + 1, frames, dim); a .safetensors file holds all of them, by path. A
frame is 20 ms. Layer 0 is what enters the first layer of the transformer: the output of the positional convolution is
added already, as in transformers. (Layer 0 of torchaudio and of the published DPHuBERT code is the input of that
convolution.)
"""

from collections import Counter
from pathlib import Path

from _cli import PlainParser, complete, positive, run

import numpy as np
import safetensors.torch
import torch
from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, read_audio
from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.inference.base import batches_by_length
from fairseq_prune.inference.features import FeatureExtractor


def audio_files(args):
    """{name in the output: path}."""
    if args.manifest is None:
        files = {str(path): Path(path) for path in args.audio}
    else:
        manifest = read_waveform_manifest(args.manifest)
        files = {name: manifest.root / name for name in manifest.paths}
    if not files:
        raise ValueError("no audio files: name some, or give --manifest")
    return files


def npy_names(names):
    """{name: file in the folder}: a relative path keeps its folders, another one only its last part."""
    found = {}
    for name in names:
        path = Path(name).with_suffix(".npy")
        found[name] = Path(path.name) if path.is_absolute() or ".." in path.parts else path
    twice = [str(path) for path, count in Counter(found.values()).items() if count > 1]
    if twice:
        raise ValueError(f"two audio files would be written to {sorted(twice)[0]}; use a .safetensors file")
    return found


def main(args):
    extractor = FeatureExtractor.load(args.checkpoint, args.device)
    layers = extractor.check_layers(args.layers, "--layers")
    files = audio_files(args)
    names = list(files)
    in_one_file = args.out.suffix == ".safetensors"
    outputs = {} if in_one_file else npy_names(names)
    lengths = [audio_info(path).n_samples for path in files.values()]
    found = {}
    with complete(args.out, args.overwrite) as written, tqdm(total=len(files), unit="file") as progress:
        for indices in batches_by_length(
            lengths, max_samples=round(args.batch_seconds * SAMPLE_RATE), shortest=0
        ):
            waveforms = [torch.from_numpy(read_audio(files[names[i]])) for i in indices]
            for i, rows in zip(indices, extractor.features(waveforms, layers)):
                if in_one_file:
                    found[names[i]] = rows.contiguous()
                else:
                    target = written / outputs[names[i]]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    np.save(target, rows.numpy())
            progress.update(len(indices))
        if in_one_file:
            safetensors.torch.save_file(found, written, {"layers": ",".join(map(str, layers))})
    print(f"{args.out}: {len(layers)} layers of {len(files)} files")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("audio", nargs="*", help="audio files of any format and rate")
    add("--manifest", type=Path, help="manifest in wav2vec's form instead (data_prep/prep_audio.py)")
    add(
        "--checkpoint",
        required=True,
        help="HuBERT, wav2vec 2.0, WavLM or a compressed encoder; file or folder",
    )
    add("--out", type=Path, required=True, help="folder for .npy files, or a .safetensors file")
    add("--layers", type=int, nargs="+", help="layers to write (default: all)")
    add("--batch-seconds", type=positive(float), default=60.0, help="audio at a time (default: 60)")
    add("--device", default="cpu", help="cpu (default), cuda, ...")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
