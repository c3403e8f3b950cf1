"""Write a tiny model of random weights as GGUF: real enough for llama.cpp to load and to chat with.

`TINY` is 0.4 MB, loads in a tenth of a second and answers readable gibberish. `SLOW` has hundreds
of narrow layers: 60 MB, a second to load, 60 tokens a second, for what has to happen meanwhile.
The same seed gives the same file. Also a program: `python -m rolemesh.builtin.tiny_model FILE`.

The vocabulary is GPT-2's kind: a token for every byte, a few merges, three control tokens. Only the
output rows of letters, digits and punctuation are random; all others are zero, which the default
sampling (top_k 40) never picks, so answers are text and run until `max_tokens`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?-'"
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@frozen
class Shape:
    """A llama architecture's dimensions. `stops`: may end an answer before `max_tokens`."""

    layers: int = 2
    dim: int = 64
    feed_forward: int = 128
    heads: int = 4
    kv_heads: int = 2
    context: int = 2048
    stops: bool = False

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


TINY = Shape()
SLOW = Shape(layers=400)


def write(path: Path, *, name: str = "tiny", seed: int = 1, shape: Shape = TINY) -> None:
    """Write the model to `path`, which may exist."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_chat_template(_TEMPLATE)
    tokens = _Vocabulary()
    tokens.describe(writer)
    _describe(writer, shape, len(tokens.texts))
    _add_tensors(writer, shape, tokens, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Vocabulary:
    """Every byte, what the merges make of them, and the control tokens, in this order."""

    def __init__(self) -> None:
        printable = _printable_bytes()
        space = printable[ord(" ")]
        self.merges = ["t h", "th e", f"{space} the", "i n", "e r", f"{space} a"]
        merged = [merge.replace(" ", "") for merge in self.merges]
        self.texts = [printable[byte] for byte in range(256)] + merged + list(_CONTROL)
        self.end_of_text, self.start, self.end = range(len(self.texts) - 3, len(self.texts))

    def describe(self, writer: gguf.GGUFWriter) -> None:
        control = len(_CONTROL)
        types = [gguf.TokenType.NORMAL] * (len(self.texts) - control)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(self.texts)
        writer.add_token_types(types + [gguf.TokenType.CONTROL] * control)
        writer.add_token_merges(self.merges)
        writer.add_bos_token_id(self.end_of_text)
        writer.add_eos_token_id(self.end)
        writer.add_eot_token_id(self.end)
        writer.add_add_bos_token(False)

    def spoken(self, shape: Shape) -> list[int]:
        """The tokens that the model may say."""
        stops = [self.end_of_text, self.end] if shape.stops else []
        return [*_TEXT, *range(256, self.end_of_text), *stops]


def _printable_bytes() -> dict[int, str]:
    """GPT-2's stand-ins for the 256 bytes: themselves where printable, else from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    stand_ins = {byte: chr(byte) for byte in plain}
    stand_ins.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return stand_ins


def _describe(writer: gguf.GGUFWriter, shape: Shape, vocabulary: int) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_pooling_type(gguf.PoolingType.MEAN)  # without one there is no /v1/embeddings


def _add_tensors(
    writer: gguf.GGUFWriter, shape: Shape, tokens: _Vocabulary, chance: np.random.Generator
) -> None:
    vocabulary, dim = len(tokens.texts), shape.dim
    kv_dim = shape.head_dim * shape.kv_heads
    ones = np.ones(dim, np.float32)

    def random(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return chance.standard_normal((rows, columns), np.float32) * np.float32(scale)

    def add(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random(rows, columns, 0.6 / columns**0.5))

    writer.add_tensor("token_embd.weight", random(vocabulary, dim, 1.0))
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        writer.add_tensor(block + "ffn_norm.weight", ones)
        add(block + "attn_q.weight", dim, dim)
        add(block + "attn_k.weight", kv_dim, dim)
        add(block + "attn_v.weight", kv_dim, dim)
        add(block + "attn_output.weight", dim, dim)
        add(block + "ffn_gate.weight", shape.feed_forward, dim)
        add(block + "ffn_up.weight", shape.feed_forward, dim)
        add(block + "ffn_down.weight", dim, shape.feed_forward)
    writer.add_tensor("output_norm.weight", ones)
    output = random(vocabulary, dim, 0.5)
    spoken = np.zeros((vocabulary, 1), np.float32)
    spoken[tokens.spoken(shape)] = 1
    writer.add_tensor("output.weight", output * spoken)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rolemesh.builtin.tiny_model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", action="store_true", help="60 MB, and few tokens a second")
    values = parser.parse_args()
    shape = SLOW if values.slow else TINY
    write(values.file, name=values.name, seed=values.seed, shape=shape)


if __name__ == "__main__":
    main()
