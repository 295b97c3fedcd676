#!/usr/bin/env python3
"""Times PyTorch on the workloads of flamingo bench and prints one JSON line for each, with the keys of flamingo bench --json.

`npm run compare` runs it. It requires a Python with PyTorch: python3 -m venv DIR && DIR/bin/pip install torch timm einops
The resampler and gated cross-attention are OpenFlamingo's own, from a checkout open_flamingo/ in the folder that --ref or
FLAMINGO_PEER_REF names. The frozen language model is a plain PyTorch GPT-2 defined here. The vision encoders are timm's.
The same folder may also contain the checkouts pytorch-image-models/ (timm) and einops/.

With --compiled, PyTorch is used as a current program would: torch.compile, scaled_dot_product_attention, and weights held in
bfloat16 for inference in bfloat16.

  torch_peer.py [--ref DIR] [--seconds 10] [--threads 2] [--dtype float32|bfloat16] [--compiled] [--specs FILE] NAME...
"""
import argparse, importlib, importlib.util, json, os, resource, sys, time, types


def need(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"torch_peer: {sys.executable} cannot import {name}: {error}. To fix this: {sys.executable} -m pip install torch timm einops, "
                 "or pass another Python with --python FILE or FLAMINGO_PEER_PYTHON.")


torch = need("torch")
from torch import nn
import torch.nn.functional as F


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def open_flamingo_helpers(ref):
    helpers = os.path.join(ref, "open_flamingo", "open_flamingo", "src", "helpers.py")
    if not os.path.exists(helpers):
        sys.exit(f"torch_peer: there is no OpenFlamingo at {helpers}. To fix this: git clone https://github.com/mlfoundations/open_flamingo "
                 "DIR/open_flamingo, and pass DIR with --ref DIR or FLAMINGO_PEER_REF.")
    sys.path.insert(0, os.path.join(ref, "einops"))
    einops = need("einops")
    if "einops_exts" not in sys.modules:
        exts = types.ModuleType("einops_exts")
        exts.rearrange_many = lambda ts, p, **k: [einops.rearrange(t, p, **k) for t in ts]
        exts.repeat_many = lambda ts, p, **k: [einops.repeat(t, p, **k) for t in ts]
        sys.modules["einops_exts"] = exts
    return load_module("of_helpers", helpers)


class Block(nn.Module):
    def __init__(self, d, heads, compiled):
        super().__init__()
        self.heads, self.compiled = heads, compiled
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x, past=None):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(d, dim=-1)
        q, k, v = (u.view(b, t, self.heads, d // self.heads).transpose(1, 2) for u in (q, k, v))
        if past is not None and past.get("k") is not None:
            k, v = torch.cat((past["k"], k), 2), torch.cat((past["v"], v), 2)
        if past is not None:
            past["k"], past["v"] = k, v
        if self.compiled:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        else:
            s = (q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5
            if t > 1:
                n = k.shape[2]
                s = s.masked_fill(torch.ones(t, n, dtype=torch.bool).triu(n - t + 1), float("-inf"))
            y = s.softmax(-1) @ v
        y = y.transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))


class Peer(nn.Module):
    def __init__(self, s, helpers, compiled):
        super().__init__()
        lm, xa, rs, vi = s["lm"], s["xattn"], s["resampler"], s["vision"]
        self.wte, self.wpe = nn.Embedding(lm["vocab"], lm["hidden"]), nn.Embedding(lm["positions"], lm["hidden"])
        self.blocks = nn.ModuleList(Block(lm["hidden"], lm["heads"], compiled) for _ in range(lm["layers"]))
        self.lnf = nn.LayerNorm(lm["hidden"])
        for p in self.parameters():
            p.requires_grad_(False)
        self.resampler = helpers.PerceiverResampler(dim=vi["dim"], depth=rs["depth"], dim_head=rs["head_dim"], heads=rs["heads"],
                                                    num_latents=rs["latents"], ff_mult=rs["ff_mult"])
        self.every = xa["every"]
        self.xattn = nn.ModuleDict({str(i): helpers.GatedCrossAttentionBlock(dim=lm["hidden"], dim_visual=vi["dim"], dim_head=xa["head_dim"],
                                    heads=xa["heads"], ff_mult=xa["ff_mult"]) for i in range(lm["layers"]) if (i + 1) % xa["every"] == 0})
        for g in self.xattn.values():
            nn.init.constant_(g.attn_gate, 0.5); nn.init.constant_(g.ff_gate, 0.5)

    def hidden(self, ids, latents, media, offset=0, past=None, cached=False):
        x = self.wte(ids) + self.wpe(torch.arange(offset, offset + ids.shape[1]))
        for i, block in enumerate(self.blocks):
            if str(i) in self.xattn:
                x = self.xattn[str(i)](x, latents, media_locations=media, use_cached_media=cached)
            x = block(x, None if past is None else past[i])
        return self.lnf(x)


def inputs(s):
    lm, vi = s["lm"], s["vision"]
    ids = torch.randint(0, lm["vocab"], (s["batch"], s["tokens"]))
    media = torch.zeros(s["batch"], s["tokens"], dtype=torch.bool)
    media[:, torch.arange(s["images"]) * (s["tokens"] // s["images"])] = True
    feats = torch.randn(s["batch"], s["images"], vi["frames"], vi["positions"], vi["dim"])
    return ids, media, feats


def repeat(step, seconds):
    step(); step()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        t = time.perf_counter(); step(); times.append(time.perf_counter() - t)
    return sorted(times)[len(times) // 2], len(times)


def train(s, a):
    model = Peer(s, open_flamingo_helpers(a.ref), a.compiled); ids, media, feats = inputs(s)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.1)
    labels = ids.masked_fill(media, -100)

    def forward():
        return model.hidden(ids, model.resampler(feats), media)

    if a.compiled:
        forward = torch.compile(forward)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bfloat16"):
            h = forward()
            logits = h @ model.wte.weight.t()
            loss = F.cross_entropy(logits[:, :-1].float().reshape(-1, s["lm"]["vocab"]), labels[:, 1:].reshape(-1))
        opt.zero_grad(set_to_none=True); loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0); opt.step()

    dt, n = repeat(step, a.seconds)
    return dict(metric="tokens_per_second", value=s["batch"] * s["tokens"] / dt, step_seconds=dt, runs=n)


@torch.no_grad()
def decode(s, a):
    model = Peer(s, open_flamingo_helpers(a.ref), a.compiled).eval(); ids, media, feats = inputs(s)
    if a.compiled and a.dtype == "bfloat16":
        model, feats = model.bfloat16(), feats.bfloat16()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bfloat16"):
            latents = model.resampler(feats); past = [dict() for _ in model.blocks]
            h = model.hidden(ids, latents, media, past=past); out = (h[:, -1:] @ model.wte.weight.t()).argmax(-1)
            for i in range(s["new_tokens"] - 1):
                h = model.hidden(out, latents, media, offset=s["tokens"] + i, past=past, cached=True)
                out = (h[:, -1:] @ model.wte.weight.t()).argmax(-1)

    dt, n = repeat(step, a.seconds)
    return dict(metric="new_tokens_per_second", value=s["batch"] * s["new_tokens"] / dt, step_seconds=dt, runs=n)


@torch.no_grad()
def vision(s, a):
    sys.path.insert(0, os.path.join(a.ref, "pytorch-image-models"))
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # missing, or its native part does not load; the encoders do not use it
        from unittest.mock import MagicMock
        for name in ("", ".datasets", ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".transforms", ".transforms.functional"):
            sys.modules["torchvision" + name] = MagicMock()
    timm = need("timm")
    names = {"nfnet-f0": "dm_nfnet_f0", "clip-vit-b16": "vit_base_patch16_224"}
    model = timm.create_model(names[s["model"]], pretrained=False).eval()
    x = torch.randn(s["batch"], 3, s["size"], s["size"])
    run = torch.compile(model.forward_features) if a.compiled else model.forward_features
    if a.compiled and a.dtype == "bfloat16":
        model, x = model.bfloat16(), x.bfloat16()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bfloat16" and not a.compiled):
            run(x)

    dt, n = repeat(step, a.seconds)
    return dict(metric="images_per_second", value=s["batch"] / dt, step_seconds=dt, runs=n)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("names", nargs="+")
    ap.add_argument("--ref", default=os.environ.get("FLAMINGO_PEER_REF", "."))
    ap.add_argument("--seconds", type=float, default=10)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    ap.add_argument("--compiled", action="store_true", help="torch.compile, fused attention, bfloat16 weights for inference")
    ap.add_argument("--specs", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../apps/trainer/configs/bench.json"))
    a = ap.parse_args()
    torch.set_num_threads(a.threads); torch.manual_seed(0)
    specs = json.load(open(a.specs))
    for name in a.names:
        r = dict(train=train, decode=decode, vision=vision)[specs[name]["kind"]](specs[name], a)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(dict(peer=f"pytorch-{torch.__version__}", workload=name, dtype=a.dtype, threads=a.threads, peak_rss_mib=round(peak), **r)), flush=True)


if __name__ == "__main__":
    main()
