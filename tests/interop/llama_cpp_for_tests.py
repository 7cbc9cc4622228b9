"""The real llama.cpp (the wheel xllamacpp) on a GGUF file: float32 cache, flash attention off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
import xllamacpp
from torch import Tensor


class LlamaCpp:
    """A server in this process. `ascii_id` is a token of whole characters: llama.cpp reports no probabilities where it
    samples a part of one, so that this one is forced after they are computed."""

    def __init__(self, path: Path, context: int, ascii_id: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = 1
        params.warmup = params.fit_params = False
        params.verbosity = 0
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)
        self.ascii_id = ascii_id

    def complete(self, prompt: list[int], **settings: Any) -> dict[str, Any]:
        choice: dict[str, Any] = self.server.handle_completions({"prompt": prompt, "temperature": 0} | settings)
        return dict(choice["choices"][0])

    def log_probabilities(self, prompt: list[int], rows: int) -> Tensor:
        """Of every token after `prompt`: float32 (rows,)."""
        forced = {"n_predict": 1, "n_probs": rows, "logit_bias": [[self.ascii_id, 1000.0]]}
        listed = self.complete(prompt, **forced)["logprobs"]["content"][0]["top_logprobs"]
        values = torch.full((rows,), torch.nan)
        for entry in listed:
            values[entry["id"]] = entry["logprob"]
        return values

    def greedy_text(self, prompt: list[int], count: int, without: list[int]) -> str:
        banned = [[token_id, False] for token_id in without]
        return str(self.complete(prompt, n_predict=count, logit_bias=banned, ignore_eos=True)["text"])

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        request = Request(f"{self.server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return list(json.load(answer)["tokens"])
