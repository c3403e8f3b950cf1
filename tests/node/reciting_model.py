"""A tiny model that recites a fixed text, for what a model of random weights never says: reasoning,
tool calls, characters cut in halves between two tokens.

Every piece of the text is a token of its own, and the most likely next one after the piece before;
after any other token (the end of a prompt) the text begins. Attention and the rest are zero. So a
grammar is free to let it say anything else, one byte a token.
"""

from __future__ import annotations

from pathlib import Path

PIECE_BYTES = 5
_CERTAIN = 8.0  # times the root of the width: nothing else is ever picked

# Reasoning and tools in the manner of Qwen's templates, which llama.cpp reads its formats out of.
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}
{{- '\\n</tools>\\nAnswer with:\\n<tool_call>\\n{"name": <function-name>, "arguments": ' }}
{{- '<args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role != 'assistant' %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>assistant' }}
{%- if message.reasoning_content %}
{{- '\\n<think>\\n' + message.reasoning_content + '\\n</think>\\n' }}
{%- endif %}
{%- if message.content %}{{ '\\n' + message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def pieces(text: str) -> list[bytes]:
    """The text in bytes, cut so that no two pieces are the same and none is a single byte."""
    rest, found = text.encode(), []
    while rest:
        size = PIECE_BYTES
        while rest[:size] in found or len(rest) - size == 1:
            size += 1
        found.append(rest[:size])
        rest = rest[size:]
    return found


def write(path: Path, text: str) -> None:
    """Write the model that recites `text`, and then ends its answer."""
    # Here, as in tests/llama.py: this module must load without the extra, to be skipped.
    import gguf
    import numpy as np

    from rolemesh.builtin.tiny_model import _printable_bytes

    stand_ins = _printable_bytes()
    recited = pieces(text)
    texts = [stand_ins[byte] for byte in range(256)] + ["th", "<|im_start|>", "<|im_end|>"]
    first, end = len(texts), len(texts) - 1
    texts += ["".join(stand_ins[byte] for byte in piece) for piece in recited]
    dim = -(-(len(recited) + 2) // 32) * 32

    control = {end - 1, end}
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    embedding = np.zeros((len(texts), dim), np.float32)
    output = np.zeros((len(texts), dim), np.float32)
    embedding[:first, 0] = 1
    following = [*range(first, len(texts)), end]
    for place, token in enumerate(following):
        output[token, place] = _CERTAIN
        embedding[token, place + 1] = 1
    embedding[end, -1] = 0

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("reciting")
    writer.add_chat_template(TEMPLATE)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types([kinds[token in control] for token in range(len(texts))])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_vocab_size(len(texts))
    writer.add_context_length(2048)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(dim // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(dim, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((dim, dim), np.float32))
    for name, shape in (("gate", (32, dim)), ("up", (32, dim)), ("down", (dim, 32))):
        writer.add_tensor(f"blk.0.ffn_{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
