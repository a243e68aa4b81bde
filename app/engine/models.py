from pathlib import Path


def prepare(source, *, cache=None, progress=print):
    return "/tmp/sc/tiny"


def tokenizer_file(source):
    return Path(prepare(source)) / "tokenizer.json"
