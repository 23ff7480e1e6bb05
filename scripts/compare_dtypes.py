#!/usr/bin/env python
"""What bfloat16 and int8 change: the encoder's output, and the translations of a split.

    python scripts/compare_dtypes.py --checkpoint C --data data --split tst-COMMON

The distance is the relative L2 distance of the encoder's output to that in float32, the median over utterances;
where layers drop frames it is taken without pruning. Same frames are those that leave the encoder in both.
"""

from dataclasses import replace

from _cli import PlainParser, positive, run

import numpy as np
import sacrebleu
import torch
from tqdm import tqdm

from fairseq_prune.benchmarks.converting import ConvertedTranslator
from fairseq_prune.benchmarks.report import table
from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest


@torch.inference_mode()
def frames_of(hubert, waveform):
    """Frames that leave the encoder, and its output without pruning (frames, dim)."""
    source, lengths = waveform.unsqueeze(0), [len(waveform)]
    kept = hubert(source, lengths).positions[0]
    pruning = hubert.pruning
    hubert.pruning = replace(pruning, keep_ratios=[1.0] * len(pruning.keep_ratios))
    output = hubert(source, lengths).x[0].float()
    hubert.pruning = pruning
    return kept, output


def main(args):
    config = DataConfig.load(args.data)
    utterances = read_manifest(config.manifest(args.split))[: args.max_utterances]
    check_audio(utterances, config.audio_folder)
    waveforms = [
        torch.from_numpy(read_audio(config.audio_folder / u.audio, u.offset, u.n_frames)) for u in utterances
    ]
    references = [u.tgt_text for u in utterances]
    rows, exact = [], None
    for dtype in ("float32", *args.dtypes):
        translator = ConvertedTranslator(args.checkpoint, dtype, beam=args.beam)
        frames = [
            frames_of(translator.hubert, waveform) for waveform in tqdm(waveforms, desc=f"{dtype}: encoding")
        ]
        texts = translator.translate(waveforms, args.batch_size, progress=f"{dtype}: translating")
        if exact is None:
            exact = frames, texts
        distances = [float((a - b).norm() / b.norm()) for (_, a), (_, b) in zip(frames, exact[0])]
        same = [np.isin(a, b).mean() for (a, _), (b, _) in zip(frames, exact[0])]
        rows.append(
            {
                "dtype": dtype,
                "distance of the encoder's output": f"{np.median(distances):.2g}",
                "same frames kept %": f"{100 * np.mean(same):.1f}",
                "same translations %": f"{100 * np.mean([a == b for a, b in zip(texts, exact[1])]):.1f}",
                "BLEU": f"{sacrebleu.corpus_bleu(texts, [references]).score:.1f}",
                "exact %": f"{100 * np.mean([a == b for a, b in zip(texts, references)]):.1f}",
            }
        )
    print(table(rows))
    print(f"{len(utterances)} utterances of {args.split}, beam {args.beam}.")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="of the task speech_translation")
    add("--data", required=True, help="data directory (of data_prep/prep_mustc.py)")
    add("--split", default="tst-COMMON", help="to translate (default: tst-COMMON)")
    add(
        "--dtypes",
        nargs="+",
        choices=["bfloat16", "int8"],
        default=["bfloat16", "int8"],
        help="beside float32 (default: bfloat16 int8)",
    )
    add("--max-utterances", type=positive(int), help="use only the first utterances of the split")
    add("--beam", type=positive(int), default=5, help="beam size (default: 5)")
    add("--batch-size", type=positive(int), default=8, help="utterances at a time (default: 8)")
    run(main, parser)
