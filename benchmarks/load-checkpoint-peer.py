"""Takes the measurements of load-checkpoint with Hugging Face transformers on PyTorch and prints one line of JSON.

    load-checkpoint-peer.py FOLDER float32|bfloat16|int8 TOKENS THREADS

int8 uses PyTorch's dynamic quantization of linear layers (weights and activations).
"""
import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder, freeze, tokens, threads):
    torch.set_num_threads(threads)
    idle = peak_mib()
    started = time.perf_counter()
    dtype = torch.bfloat16 if freeze == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if freeze == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    load_seconds = time.perf_counter() - started
    loaded = peak_mib()
    times = []
    with torch.inference_mode():
        ids = torch.tensor([PROMPT])
        cache = None
        for _ in range(tokens):
            started = time.perf_counter()
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = out.logits[:, -1:].argmax(-1)
            times.append(time.perf_counter() - started)
    first, rest = times[0], sorted(times[1:])
    report = {
        "backend": f"PyTorch {torch.__version__}",
        "idleMiB": idle,
        "loadSeconds": load_seconds,
        "loadedMiB": loaded,
        "firstSeconds": first,
        "tokenSeconds": rest[len(rest) // 2],
        "peakMiB": peak_mib(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
