"""How fuzz.py damages a file: a table of changes for each kind.

A change takes the path and a `random.Random`. With it stands whether a command has to refuse the file: damage may hit
nothing, and an option may not matter.

Over 300 lines: tables, a row a change.
"""

import datetime
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import soundfile
import torch

EXTREMES = [
    10**7,
    2**24,
    -1,
    0,
    10**30,
    float("nan"),
    float("inf"),
    -1e308,
    "x",
    "",
    None,
    [],
    {},
    [1] * 10**5,
]
EXTREMES += [
    "[(512,10,5)]*1000000",
    "[(16777216,1000000,1)]",
    "(" * 5000,
    "open('ran','w')",
    "1e400",
    "2026-11-27",
]
DEEP = b"[" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)


class Opens:
    """A pickle that runs code: it makes the file `ran`."""

    def __reduce__(self):
        return open, ("ran", "w")


def of_bytes(change):
    """A change of a file's content."""
    return lambda path, random: path.write_bytes(change(path.read_bytes(), random))


def at_random(put):
    """A change of up to 64 bytes somewhere; ``put`` makes the new ones of the old."""

    def change(content, random):
        place, size = random.randrange(len(content)), random.choice((1, 16, 64))
        return content[:place] + put(content[place : place + size], random) + content[place + size :]

    return of_bytes(change)


def become_folder(path, random):
    path.unlink()
    path.mkdir()


def become_pipe(path, random):
    path.unlink()
    os.mkfifo(path)


def become_zip(path, random):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"text")


BYTES = {
    "changed": (at_random(lambda old, random: bytes(byte ^ 0x55 for byte in old)), False),
    "zeroed": (at_random(lambda old, random: bytes(len(old))), False),
    "inserted": (at_random(lambda old, random: random.randbytes(8) + old), False),
    "cut": (of_bytes(lambda content, random: content[: random.randrange(1, len(content) * 9 // 10)]), False),
    "empty": (of_bytes(lambda content, random: b""), True),
    "zeros": (of_bytes(lambda content, random: bytes(4096)), True),
    "noise": (of_bytes(lambda content, random: random.randbytes(5000)), True),
    "a folder": (become_folder, True),
    "missing": (lambda path, random: path.unlink(), True),
}


def of_checkpoint(change):
    """A change of what is in a checkpoint; ``change`` may return another content."""

    def write(path, random):
        from fairseq_prune.checkpoints.loading import load_checkpoint_file

        checkpoint = load_checkpoint_file(path)
        changed = change(checkpoint, random)
        torch.save(checkpoint if changed is None else changed, path)

    return write


def tensor_of(checkpoint, random):
    names = sorted(name for name, value in checkpoint["model"].items() if torch.is_tensor(value))
    return random.choice(names)


def other_shape(checkpoint, random):
    checkpoint["model"][tensor_of(checkpoint, random)] = torch.ones(3, 1, 7)


def no_tensor(checkpoint, random):
    checkpoint["model"][tensor_of(checkpoint, random)] = "text"


def without(checkpoint, random):
    del checkpoint["model"][tensor_of(checkpoint, random)]


def with_another(checkpoint, random):
    checkpoint["model"]["unheard.of"] = torch.ones(3)


CHECKPOINT = {
    **BYTES,
    "text": (of_bytes(lambda content, random: b"<html>not found</html>\n"), True),
    "a zip": (become_zip, True),
    "deep pickle": (of_bytes(lambda content, random: b"\x80\x02" + b"(" * 99_999), True),
    "code": (
        of_bytes(lambda content, random: pickle.dumps({"model": Opens(), "cfg": None, "args": None})),
        True,
    ),
    "code in a zip": (of_checkpoint(lambda checkpoint, random: {**checkpoint, "more": Opens()}), True),
    "a list": (of_checkpoint(lambda checkpoint, random: [1, 2]), True),
    "a tensor": (of_checkpoint(lambda checkpoint, random: torch.ones(3)), True),
    "an empty dict": (of_checkpoint(lambda checkpoint, random: {}), True),
    "weights alone": (of_checkpoint(lambda checkpoint, random: checkpoint["model"]), False),
    "a model that is a list": (of_checkpoint(lambda checkpoint, random: {**checkpoint, "model": [1]}), True),
    "an empty model": (of_checkpoint(lambda checkpoint, random: {**checkpoint, "model": {}}), True),
    "no configuration": (of_checkpoint(lambda checkpoint, random: {**checkpoint, "cfg": None}), False),
    "text for a configuration": (of_checkpoint(lambda checkpoint, random: {**checkpoint, "cfg": "x"}), False),
    "tensor of another shape": (of_checkpoint(other_shape), False),
    "text for a tensor": (of_checkpoint(no_tensor), False),
    "tensor missing": (of_checkpoint(without), False),
    "tensor too many": (of_checkpoint(with_another), False),
}


def an_option(section):
    """A change of one option: its value becomes an extreme."""

    def change(checkpoint, random):
        options = checkpoint["cfg"][section]
        telling = "dim layers heads conv kernel groups ratio config positions context name units".split()
        names = sorted(
            str(name) for name in options if random.random() < 0.05 or any(part in name for part in telling)
        )
        options[random.choice(names or sorted(options))] = random.choice(
            [*EXTREMES, datetime.date(2026, 11, 27)]
        )

    return of_checkpoint(change)


def in_state(checkpoint, random):
    state = checkpoint.get("task_state") or checkpoint
    state[random.choice(sorted(state))] = random.choice(EXTREMES)


OPTIONS = {
    **{f"an option of the model, {number}": (an_option("model"), False) for number in range(1, 9)},
    **{f"an option of the task, {number}": (an_option("task"), False) for number in range(1, 4)},
    "the state of the task": (of_checkpoint(in_state), False),
}


def of_json(path, random):
    content = json.loads(path.read_text(encoding="utf-8"))
    content[random.choice(sorted(content))] = random.choice(EXTREMES)
    path.write_text(json.dumps(content))


def key_missing(path, random):
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[random.choice(sorted(content))]
    path.write_text(json.dumps(content))


JSON = {
    **{f"a value, {number}": (of_json, False) for number in range(1, 9)},
    **{f"a key missing, {number}": (key_missing, False) for number in range(1, 5)},
    "deep": (of_bytes(lambda content, random: DEEP), True),
    "a list": (of_bytes(lambda content, random: b"[1]"), True),
    "a key in a key": (of_bytes(lambda content, random: b'{"a":' * 5000 + b"1" + b"}" * 5000), True),
}


def a_value(value):
    """A change of YAML: the value of a line becomes another; keys stay."""

    def change(content, random):
        lines = content.decode().splitlines()
        place = random.choice([number for number, line in enumerate(lines) if ": " in line])
        new = value if value is not None else json.dumps(random.choice(EXTREMES))
        lines[place] = f"{lines[place].partition(': ')[0]}: {new}"
        return "\n".join(lines).encode()

    return of_bytes(change)


YAML = {
    **{f"a value, {number}": (a_value(None), False) for number in range(1, 9)},
    "a date": (a_value("2026-11-27"), False),
    "a tag that runs code": (a_value("!!python/object/apply:os.mkdir [ran]"), True),
    "aliases that unfold": (of_bytes(lambda content, random: BOMB.encode() + content), False),
    "an alias of itself": (of_bytes(lambda content, random: b"zz: &z [*z]\n" + content), False),
    "a loop for a value": (a_value("&z {y: *z}"), False),
    "deep": (of_bytes(lambda content, random: DEEP), True),
    "indentation": (of_bytes(lambda content, random: b"a:\n\t- b\n  c" + content), True),
}


def put(piece):
    """A change of text: ``piece`` in the middle of a line, after the first."""

    def change(content, random):
        ends = [place for place, byte in enumerate(content) if byte == 10][:-1] or [0]
        place = random.choice(ends) + random.randrange(1, 6)
        return content[:place] + piece + content[place:]

    return of_bytes(change)


TEXT = {
    **{
        name: (put(piece), False)
        for name, piece in {
            "not UTF-8": b"\xff\xfe",
            "half a letter": b"\xc3",
            "U+2028": "\u2028".encode(),
            "NEL": "\x85".encode(),
            "VT and FS": b"\x0b\x1c",
            "a lone CR": b"\r",
            "NUL": b"\0",
            "a quote": b'"',
            "a tab and a comma": b"\t,",
            "an empty line": b"\n\n",
            "a surrogate": b"\xed\xa0\x80",
            "a long line": b"x" * 2_000_000,
        }.items()
    },
    "byte order mark": (of_bytes(lambda content, random: b"\xef\xbb\xbf" + content), False),
    "UTF-16": (of_bytes(lambda content, random: content.decode().encode("utf-16")), True),
    "CRLF": (of_bytes(lambda content, random: content.replace(b"\n", b"\r\n")), False),
    "no header": (of_bytes(lambda content, random: content.partition(b"\n")[2]), False),
    "cut": (of_bytes(lambda content, random: content[: random.randrange(1, len(content))]), False),
    "a line twice": (of_bytes(lambda content, random: content + content.splitlines(True)[-1]), False),
    "extreme numbers": (
        of_bytes(lambda content, random: content.replace(b"0", random.choice((b"1e400", b"-", b"9" * 30)))),
        False,
    ),
    "empty": BYTES["empty"],
    "a folder": BYTES["a folder"],
    "missing": BYTES["missing"],
}


def waveform(change, subtype="FLOAT", rate=16000):
    """A change of samples; ``change`` takes and returns float32 (samples,)."""

    def write(path, random):
        samples, _ = soundfile.read(path, dtype="float32")
        soundfile.write(path, change(samples), rate, subtype=subtype, format="WAV")

    return write


def with_value(value):
    def change(samples):
        samples[len(samples) // 2] = value
        return samples

    return waveform(change)


def promise(count):
    """A change of the header of a WAV: its data has ``count`` bytes."""
    return of_bytes(
        lambda content, random: (
            content[:4]
            + struct.pack("<I", min(count + 36, 2**32 - 1))
            + content[8:40]
            + struct.pack("<I", count)
            + content[44:]
        )
    )


def false_flac(path, random):
    """A FLAC whose header promises 2^36 - 1 samples."""
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples, rate, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


AUDIO = {
    "NaN": (with_value(np.nan), True),
    "infinity": (with_value(-np.inf), True),
    "16-bit scale": (waveform(lambda samples: samples * 32768), True),
    "silence": (waveform(np.zeros_like), False),
    "channels that cancel out": (waveform(lambda samples: np.stack([samples, -samples], 1)), False),
    "one sample": (waveform(lambda samples: samples[:1]), False),
    "no samples": (waveform(lambda samples: samples[:0]), True),
    "another rate": (waveform(lambda samples: samples, "PCM_16", 44101), False),
    "a rate of 1 Hz": (waveform(lambda samples: samples, "PCM_16", 1), True),
    "512 channels": (waveform(lambda samples: np.tile(samples[:100, None], 512)), False),
    "long header": (promise(2**31), False),
    "header of 4 GiB": (promise(2**32 - 1), False),
    "false FLAC": (false_flac, True),
    "a pipe": (become_pipe, True),
    "text": (of_bytes(lambda content, random: b"RIFF is what I say\n" * 40), True),
    **BYTES,
    "a folder": (become_folder, False),  # prep_audio.py looks in folders, whatever their name
}

MUTATIONS = {
    "checkpoint": CHECKPOINT,
    "options": OPTIONS,
    "json": JSON,
    "yaml": YAML,
    "text": TEXT,
    "bytes": BYTES,
    "audio": AUDIO,
}
