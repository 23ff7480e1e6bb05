"""``config.yaml`` of a data directory: where the audio lies and which vocabularies there are."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from reprlib import repr as short  # aliases of yaml unfold to gigabytes
from typing import TYPE_CHECKING, Any

import yaml

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.text.lines import read_text

if TYPE_CHECKING:
    from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

CONFIG_FILE = "config.yaml"
VOCABULARIES = ("target", "source", "ctc")


@dataclass(frozen=True)
class VocabularyFiles:
    """File names of a vocabulary, relative to the data directory."""

    sentencepiece: str
    dictionary: str

    def below(self, folder: Path) -> tuple[Path, Path]:
        """The two files in a folder."""
        return folder / self.sentencepiece, folder / self.dictionary


@dataclass(frozen=True)
class DataConfig:
    """The content of ``config.yaml``.

    ``vocabularies`` has ``target``, and possibly ``source`` (transcripts as tokens, for the translation loss
    from text) and ``ctc`` (a small vocabulary of the transcripts).
    """

    audio_root: str
    vocabularies: dict[str, VocabularyFiles]
    sample_rate: int = SAMPLE_RATE
    folder: Path = field(default=Path(), compare=False)

    @classmethod
    def load(cls, folder) -> "DataConfig":
        """Read and check ``folder/config.yaml``.

        Raises:
            FileNotFoundError: there is no such directory or file.
            ValueError: names the file, the key, and what was found.
        """
        path = Path(folder) / CONFIG_FILE
        if not path.is_file():
            what = "no such file" if Path(folder).is_dir() else f"no such data directory: {folder}"
            raise FileNotFoundError(f"{path}: {what} (data_prep/prep_mustc.py makes one)")
        try:
            content = yaml.load(read_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
            raise ValueError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from None
        content = _mapping(path, "the file", content, {"audio_root", "sample_rate", "vocabularies"})
        if not isinstance(content.get("audio_root"), str):
            raise ValueError(f"{path}: audio_root must be a path, found {short(content.get('audio_root'))}")
        if content.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ValueError(
                f"{path}: sample_rate must be {SAMPLE_RATE}, found {short(content['sample_rate'])}"
            )
        vocabularies = _mapping(path, "vocabularies", content.get("vocabularies"), set(VOCABULARIES))
        if "target" not in vocabularies:
            raise ValueError(f"{path}: vocabularies needs a target")
        files = {}
        for name, entry in vocabularies.items():
            entry = _mapping(path, f"vocabularies.{name}", entry, {"sentencepiece", "dictionary"})
            if len(entry) < 2 or not all(isinstance(value, str) for value in entry.values()):
                raise ValueError(
                    f"{path}: vocabularies.{name} needs sentencepiece and dictionary, found {short(entry)}"
                )
            files[name] = VocabularyFiles(**entry)
        return cls(content["audio_root"], files, folder=Path(folder))

    def save(self, folder) -> None:
        """Write ``folder/config.yaml``."""
        content = {
            "audio_root": self.audio_root,
            "sample_rate": self.sample_rate,
            "vocabularies": {name: asdict(files) for name, files in self.vocabularies.items()},
        }
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (Path(folder) / CONFIG_FILE).write_text(text, encoding="utf-8")

    @property
    def audio_folder(self) -> Path:
        """Where relative audio paths of the manifests start."""
        return self.folder / self.audio_root  # an absolute audio_root replaces the folder

    def manifest(self, split: str) -> Path:
        """The manifest of a split."""
        return self.folder / f"{split}.tsv"

    def load_vocabularies(self) -> "dict[str, SentencePieceVocabulary]":
        """All vocabularies by name; names that share their files share one object."""
        from fairseq_prune.text.sentencepiece import (
            SentencePieceVocabulary,  # imports fairseq, which takes seconds
        )

        loaded = {
            files: SentencePieceVocabulary.load(*files.below(self.folder))
            for files in set(self.vocabularies.values())
        }
        return {name: loaded[files] for name, files in self.vocabularies.items()}


def _mapping(path: Path, what: str, value: Any, known: set) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {what} must map {', '.join(sorted(known))}, found {short(value)}")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise ValueError(
            f"{path}: {what}: unknown key {short(unknown[0])}, known are {', '.join(sorted(known))}"
        )
    return value
