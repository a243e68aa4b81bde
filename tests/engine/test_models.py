from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from app.engine.models import model_file, prepare, smollm2, tiny
from app.engine.models.cache import MANIFEST, Recipe, make_once, sha256

TINY = "embedded:tiny-llama"
SMOLLM2 = "embedded:smollm2-135m-instruct"


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(prepare(TINY, cache=tmp_path_factory.mktemp("cache"), progress=silent))


def text_recipe(text: str, *, version: str = "1", during: Callable[[], None] = lambda: None) -> Recipe:
    def build(folder: Path, progress: Callable[[str], None]) -> None:
        (folder / "model.txt").write_text(text)
        during()

    return Recipe("story", version, build)


def test_a_hugging_face_id_and_a_folder_are_returned_as_they_are(tmp_path: Path) -> None:
    assert prepare("meta-llama/Llama-3.1-8B-Instruct", cache=tmp_path) == "meta-llama/Llama-3.1-8B-Instruct"
    assert prepare(str(tmp_path), cache=tmp_path) == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_folder_that_is_not_here_can_not_be_had(tmp_path: Path) -> None:
    """As on a gateway's node, where only the engines' have the model."""
    with pytest.raises(FileNotFoundError, match="no folder here"):
        model_file(str(tmp_path / "models" / "llama"), "tokenizer.json")


def test_an_unknown_embedded_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'embedded:gpt5' is not one of .*smollm2.*, embedded:tiny-llama"):
        prepare("embedded:gpt5", cache=tmp_path)


def test_tiny_llama_is_the_same_to_the_byte_each_time(tiny_folder: Path, tmp_path: Path) -> None:
    again = Path(prepare(TINY, cache=tmp_path, progress=silent))
    assert {path.name: sha256(path) for path in tiny_folder.iterdir()} == {
        path.name: sha256(path) for path in again.iterdir()
    }


def test_tiny_llama_encodes_any_text_and_forbids_what_a_stream_would_not_show(tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model_file(TINY, "tokenizer.json", cache=tiny_folder.parent)))
    text = "Was kostet das? 東京 🚆\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    invisible = set(tiny.invisible_tokens(tokenizer))
    assert tokenizer.token_to_id(tiny.EOS) in invisible
    visible = set(range(tiny.VOCABULARY)) - invisible
    assert len(visible) > tiny.VOCABULARY / 2
    assert all(tokenizer.decode([token_id]).isprintable() for token_id in visible)


def test_tiny_llama_divides_by_two_tensor_ranks_and_four_stages(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] % 4 == 0
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        assert config[name] % 2 == 0, name


def test_a_whole_folder_is_not_made_again(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = make_once(text_recipe("one"), tmp_path, verify=False, progress=lines.append)
    made = len(lines)
    assert make_once(text_recipe("two"), tmp_path, verify=True, progress=lines.append) == folder
    assert (folder / "model.txt").read_text() == "one"
    assert len(lines) == made


@pytest.mark.parametrize("file", ["model.txt", MANIFEST])
@pytest.mark.parametrize("damage", [lambda path: path.write_text("o"), lambda path: path.unlink()])
def test_a_damaged_folder_is_made_again(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    folder = make_once(text_recipe("one"), tmp_path, verify=False, progress=silent)
    damage(folder / file)
    make_once(text_recipe("two"), tmp_path, verify=False, progress=silent)
    assert (folder / "model.txt").read_text() == "two"


def test_a_changed_byte_is_noticed_by_verify(tmp_path: Path) -> None:
    folder = make_once(text_recipe("one"), tmp_path, verify=False, progress=silent)
    (folder / "model.txt").write_text("0ne")
    make_once(text_recipe("two"), tmp_path, verify=False, progress=silent)
    assert (folder / "model.txt").read_text() == "0ne"
    make_once(text_recipe("two"), tmp_path, verify=True, progress=silent)
    assert (folder / "model.txt").read_text() == "two"


def test_another_version_of_the_recipe_makes_it_again(tmp_path: Path) -> None:
    make_once(text_recipe("one"), tmp_path, verify=False, progress=silent)
    folder = make_once(text_recipe("two", version="2"), tmp_path, verify=False, progress=silent)
    assert (folder / "model.txt").read_text() == "two"


def test_a_build_that_fails_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(text_recipe("half", during=fail), tmp_path, verify=False, progress=silent)
    assert not (tmp_path / "story").exists()
    folder = make_once(text_recipe("whole"), tmp_path, verify=False, progress=silent)
    assert (folder / "model.txt").read_text() == "whole"


def test_a_second_caller_waits_for_the_first_and_uses_its_work(tmp_path: Path) -> None:
    building, waiting = threading.Event(), threading.Event()

    def until_the_second_waits() -> None:
        building.set()
        assert waiting.wait(timeout=30)

    def note(line: str) -> None:
        if "another process" in line:
            waiting.set()

    first = text_recipe("first", during=until_the_second_waits)
    thread = threading.Thread(
        target=make_once, args=(first, tmp_path), kwargs={"verify": False, "progress": silent}
    )
    thread.start()
    assert building.wait(timeout=30)
    folder = make_once(text_recipe("second"), tmp_path, verify=False, progress=note)
    thread.join()
    assert (folder / "model.txt").read_text() == "first"


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    code = "import pathlib, sys; from app.engine.models import prepare; "
    code += "prepare(sys.argv[1], cache=pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, TINY, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert output.count("making it once") == 1


def test_another_gguf_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / smollm2.GGUF_NAME
    file.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=smollm2.GGUF_SHA256) as error:
        smollm2.check_gguf(file)
    assert str(file) in str(error.value)
    assert sha256(file) in str(error.value)


def assert_smollm2(folder: Path) -> None:
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert "<|im_start|>assistant" in config["chat_template"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id("<|im_end|>") == 2
    assert tokenizer.decode(tokenizer.encode("Hello, 42 worlds!").ids) == "Hello, 42 worlds!"
    assert (folder / "model.safetensors").stat().st_size == 269_060_552


@pytest.mark.engine
def test_smollm2_has_chatml_and_its_end_token() -> None:
    """As this machine keeps it: unpacked by this, or by whoever needed it first."""
    assert_smollm2(Path(prepare(SMOLLM2, verify=True, progress=silent)))


@pytest.mark.engine
@pytest.mark.long
def test_smollm2_is_unpacked_into_an_empty_cache(tmp_path: Path) -> None:
    assert_smollm2(Path(prepare(SMOLLM2, cache=tmp_path, progress=silent)))
