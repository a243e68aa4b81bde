"""A Llama with random weights for tests and overhead benchmarks: the real code paths, no knowledge.

8 layers, hidden 256, 8 heads, 4 KV heads: divisible by four stages of two tensor ranks. The same bytes on
every machine with the same versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.engine.models.cache import Progress

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20240423
VOCABULARY = 1024
# Enough for a few hundred merges; what it says does not matter.
_CORPUS = [
    "The gateway takes a lease from the scheduler and streams the engine's tokens to the client.",
    "A request that cannot keep its promise is refused at once, with the time to come back.",
    "Pipeline stages hold layers; tensor ranks share each of them; a bundle holds one rank.",
    "def serve(request): return engine.generate(request.prompt, max_tokens=request.max_tokens)",
]
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make(folder: Path, progress: Progress) -> None:
    """Writes weights, tokenizer and configurations into `folder`."""
    progress("Training a byte-level tokenizer and drawing random weights")
    _tokenizer().save_pretrained(folder)
    _model().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=_CHAT_TEMPLATE,
    )


def _model() -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return LlamaForCausalLM(config).float()
