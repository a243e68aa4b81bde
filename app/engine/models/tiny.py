"""A Llama with random weights: the whole path of a request, with next to no arithmetic.

It starts in seconds, divides by TP 2 and PP 4, and says nonsense: each token is visible ASCII text and
none ends the answer, so that the length of an answer is what the client asked for. The same bytes on
every machine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from app.engine.models.cache import Progress, Recipe
from app.engine.models.corpus import CORPUS
from app.engine.models.tokenizer import write_json, write_tokenizer

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

SEED = 20260
VOCABULARY = 1024
LAYERS = 8
HIDDEN = 256
INTERMEDIATE = 688
HEADS = 8
KV_HEADS = 4
HEAD_DIM = 32
CONTEXT_TOKENS = 4096

EOS = "<|end|>"
SPECIAL_TOKENS = [EOS, "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Printable ASCII as byte-level BPE spells it: space is Ġ.
_VISIBLE = frozenset(chr(code) for code in range(0x21, 0x7F)) | {"Ġ"}

# Residual dimension 0 is constant, since no layer writes to it: with it a row of the output layer can
# state a bias, which Llama has none of.
_CONSTANT_DIMENSION = 0
_CONSTANT = 4.0
_FORBIDDING_WEIGHT = -100.0
# Spreads the logits over a standard deviation of about 3: greedy choices are clear of rounding errors.
_OUTPUT_STD = 0.2


def build(folder: Path, progress: Progress) -> None:
    tokenizer = train_tokenizer()
    write_tokenizer(
        folder,
        tokenizer,
        eos_token=EOS,
        bos_token=None,
        chat_template=CHAT_TEMPLATE,
        max_tokens=CONTEXT_TOKENS,
    )
    write_json(folder / "config.json", _config(SPECIAL_TOKENS.index(EOS)))
    _write_weights(folder, invisible_tokens(tokenizer))


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE of exactly VOCABULARY tokens: every text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"corpus: makes {tokenizer.get_vocab_size()} tokens instead of {VOCABULARY}")
    return tokenizer


def invisible_tokens(tokenizer: Tokenizer) -> list[int]:
    """Special tokens, control characters and parts of characters: what a stream would show nothing for."""
    return [
        token_id
        for token_id in range(VOCABULARY)
        if token_id < len(SPECIAL_TOKENS) or not _VISIBLE.issuperset(tokenizer.id_to_token(token_id) or "")
    ]


def _config(eos_token_id: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT_TOKENS,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
        "dtype": "float32",
    }


def _write_weights(folder: Path, forbidden: list[int]) -> None:
    from safetensors.torch import save_file

    # Transformers refuses a file that does not say that it was made for PyTorch.
    save_file(_weights(forbidden), folder / "model.safetensors", metadata={"format": "pt"})


def _weights(forbidden: list[int]) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(SEED)

    def random(rows: int, columns: int, std: float) -> torch.Tensor:
        # Uniform, not normal: PyTorch's normal uses other instructions, and rounds otherwise, on other CPUs.
        bound = std * math.sqrt(3)
        return (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound

    def into(rows: int, columns: int) -> torch.Tensor:
        return random(rows, columns, columns**-0.5)

    def onto_residual(columns: int) -> torch.Tensor:
        weight = into(HIDDEN, columns)
        weight[_CONSTANT_DIMENSION] = 0.0
        return weight

    weights = {"model.embed_tokens.weight": random(VOCABULARY, HIDDEN, 1.0)}
    weights["model.embed_tokens.weight"][:, _CONSTANT_DIMENSION] = _CONSTANT
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.input_layernorm.weight": torch.ones(HIDDEN),
            f"{prefix}.self_attn.q_proj.weight": into(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": into(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": into(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": onto_residual(HEADS * HEAD_DIM),
            f"{prefix}.post_attention_layernorm.weight": torch.ones(HIDDEN),
            f"{prefix}.mlp.gate_proj.weight": into(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": into(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": onto_residual(INTERMEDIATE),
        }
    weights["model.norm.weight"] = torch.ones(HIDDEN)
    output = random(VOCABULARY, HIDDEN, _OUTPUT_STD)
    output[forbidden] = 0.0
    output[:, _CONSTANT_DIMENSION] = 0.0
    output[forbidden, _CONSTANT_DIMENSION] = _FORBIDDING_WEIGHT
    weights["lm_head.weight"] = output
    return weights


RECIPE = Recipe("tiny-llama", f"1 seed {SEED}", build)
