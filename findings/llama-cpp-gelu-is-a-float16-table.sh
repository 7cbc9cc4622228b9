#!/bin/sh
# llama.cpp (xllamacpp 2026.10.11549): on a CPU, GELU comes from a table in float16, also for a float32 GPT-2.
#
# Expected: log-probabilities of a float32 file, with a float32 cache and without flash attention, agree with float32
# arithmetic to about 1e-6, as they do for Llama's SwiGLU.
# Seen: they agree to 1e-6 only with a GELU whose input and output are rounded to float16, and are about 1e-4 off else.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0 xllamacpp==2026.10.11549 numpy
"$folder/venv/bin/python" - "$folder/model.gguf" <<'PYTHON'
import sys

import gguf
import numpy as np
import xllamacpp

PATH, WIDTH, VOCAB, TOKEN = sys.argv[1], 32, 259, 97
draw = np.random.default_rng(1)


def random(*shape):
    return draw.normal(0, 0.5, shape).astype(np.float32)


weights = {"token_embd.weight": random(VOCAB, WIDTH), "position_embd.weight": random(16, WIDTH)}
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    weights |= {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}
sizes = {"attn_qkv": (3 * WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_up": (4 * WIDTH, WIDTH)}
for name, shape in (sizes | {"ffn_down": (WIDTH, 4 * WIDTH)}).items():
    weights |= {f"blk.0.{name}.weight": random(*shape), f"blk.0.{name}.bias": random(shape[0])}

writer = gguf.GGUFWriter(PATH, "gpt2")
writer.add_context_length(16)
writer.add_embedding_length(WIDTH)
writer.add_feed_forward_length(4 * WIDTH)
writer.add_block_count(1)
writer.add_head_count(2)
writer.add_layer_norm_eps(1e-5)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list([f"<{row}>" if row != TOKEN else "a" for row in range(VOCAB)])
writer.add_token_merges(["aa a"])
for name, value in weights.items():
    writer.add_tensor(name, value)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = PATH, 16, 1, 0, 0
params.warmup = params.fit_params = False
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
request = {"prompt": [TOKEN], "n_predict": 1, "n_probs": VOCAB, "temperature": 0, "logit_bias": [[TOKEN, 1000.0]]}
answer = xllamacpp.Server(params).handle_completions(request)
entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
theirs = np.array([{entry["id"]: entry["logprob"] for entry in entries}[row] for row in range(VOCAB)])


def exact(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def table(x):
    return np.where(np.abs(x) < 10, exact(x.astype(np.float16).astype(float)).astype(np.float16), np.maximum(x, 0))


def norm(x, name):
    normal = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, name):
    return weights[f"blk.0.{name}.weight"].astype(float) @ x + weights[f"blk.0.{name}.bias"]


def log_probabilities(gelu):  # of the token after a single one, whose attention is its own value
    x = weights["token_embd.weight"][TOKEN].astype(float) + weights["position_embd.weight"][0]
    x = x + linear(linear(norm(x, "blk.0.attn_norm"), "attn_qkv")[2 * WIDTH :], "attn_output")
    x = x + linear(gelu(linear(norm(x, "blk.0.ffn_norm"), "ffn_up")), "ffn_down")
    logits = weights["token_embd.weight"].astype(float) @ norm(x, "output_norm")
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


off = {gelu.__name__: float(np.abs(theirs - log_probabilities(gelu)).max()) for gelu in (exact, table)}
print(f"largest difference of a log-probability: exact GELU {off['exact']:.1e}, table in float16 {off['table']:.1e}")
sys.exit(not (off["table"] < 1e-5 < 5e-5 < off["exact"]))
PYTHON
