"""Writes the .pt files of this folder and expected.json, with PyTorch 2.13.0 (CPU).

The numbers are simple ones, so that no seed is needed.
"""

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import numpy
import torch

here = Path(__file__).parent
kinds = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def described(state):
    return {
        name: {"dtype": kinds[t.dtype], "shape": list(t.shape), "data": [float(x) for x in t.detach().reshape(-1)]}
        for name, t in state.items()
    }


module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
with torch.no_grad():
    for i, p in enumerate(module.parameters()):
        p.copy_(torch.arange(p.numel()).reshape(p.shape) / 4 + i)

table = torch.arange(24, dtype=torch.float32).reshape(4, 6)
plain = module.state_dict()  # an OrderedDict with the attribute _metadata
plain["half"] = torch.tensor([1.5, -2.25, 65504.0], dtype=torch.float16)
plain["bfloat"] = torch.tensor([[1.5], [-2.25]], dtype=torch.bfloat16)
plain["long"] = torch.tensor([2**40, -1])
plain["int"] = torch.tensor([7, -8], dtype=torch.int32)
plain["byte"] = torch.tensor([0, 255], dtype=torch.uint8)
plain["bool"] = torch.tensor([True, False, True])
plain["scalar"] = torch.tensor(3.5)
plain["empty"] = torch.zeros(0, 4)
plain["parameter"] = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
plain["table"] = table
plain["turned"] = table.T  # the same storage in another order
plain["cut"] = table[1:3, 2::2]
plain["rows"] = table[2:]
torch.save(plain, here / "plain.pt")
expected = {"plain": described(plain)}

optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
module(torch.ones(1, 3)).sum().backward()
weights = OrderedDict((name, p.clone()) for name, p in module.state_dict().items())
optimizer.step()
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
torch.save(
    {
        "epoch": 3,
        "model_state_dict": weights,
        "optimizer_state_dict": optimizer.state_dict(),
        "lr_scheduler_state_dict": scheduler.state_dict(),
    },
    here / "training.pt",
)

for name, extra in {
    "namespace": argparse.Namespace(lr=1),
    "numpy": numpy.float64(0.5),
    "size": torch.Size([2, 3]),
}.items():
    torch.save({"state_dict": {"w": torch.zeros(2, 3)}, "args": extra}, here / f"extras-{name}.pt")

expected["training"] = described(weights)
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
