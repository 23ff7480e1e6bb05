"""Files that transcribe.py writes."""

import json
from pathlib import Path

from _cli import complete

from fairseq_prune.text.subtitles import FORMATS, Transcript, split_into_captions

CAPTIONS = ("srt", "vtt")


class Writer:
    """Prints the transcripts of ``args.audio`` in their order, or writes each in the formats asked for.

    Raises:
        FileExistsError: a file is there already, and --overwrite is off.
        ValueError: two recordings would be written to one file.
    """

    def __init__(self, args):
        self.args, self.waiting, self.next = args, {}, 0
        taken = {}
        for number, audio in enumerate(args.audio):
            for path in self.paths(number).values():
                if path in taken:
                    raise ValueError(
                        f"{path}: found {taken[path]} and {audio}, expected one recording a file"
                    )
                taken[path] = audio
                if path.exists() and not args.overwrite:
                    raise FileExistsError(f"{path} already exists: choose another --out, or give --overwrite")

    def paths(self, number: int) -> dict:
        """By format, where the transcript of a recording goes."""
        audio = Path(self.args.audio[number])
        folder = self.args.out or audio.parent
        return {kind: folder / f"{audio.stem}.{kind}" for kind in self.args.format or ()}

    def write(self, number: int, transcript: Transcript) -> None:
        """Write the transcript of a recording now, or print it when it is its turn."""
        for kind, path in self.paths(number).items():
            shown = transcript
            if kind in CAPTIONS:
                parts = [part for segment in transcript.segments for part in split_into_captions(segment)]
                shown = Transcript(parts, transcript.language, transcript.seconds)
            with complete(path, self.args.overwrite) as written:
                written.write_text(FORMATS[kind](shown), encoding="utf-8")
        self.waiting[number] = transcript.text
        while self.next in self.waiting:
            audio, text = self.args.audio[self.next], self.waiting.pop(self.next)
            where = self.paths(self.next)
            print(f"{audio}\t{', '.join(map(str, where.values())) if where else text}", flush=True)
            self.next += 1


def write_report(args, report: dict, names, references, hypotheses) -> None:
    """A folder --out with report.json and hypotheses.tsv; nothing where it is not given."""
    if not args.out:
        return
    with complete(args.out, args.overwrite) as folder:
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        rows = ["audio\treference\thypothesis\n"]
        rows += ["\t".join(row) + "\n" for row in zip(names, references, hypotheses)]
        (folder / "hypotheses.tsv").write_text("".join(rows), encoding="utf-8")
