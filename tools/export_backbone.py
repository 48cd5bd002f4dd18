#!/usr/bin/env python
"""Take the trained trunk out of a run: torchvision names, and inside the file all one needs to use it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_loc.checkpoint import export_backbone, load_backbone
from ssl_loc.utils.cli import run_tool

EPILOG = """\
examples
  tools/export_backbone.py runs/cast --out cast_R50.pth                       the run's last checkpoint
  tools/export_backbone.py runs/cast/checkpoints/iter_0010000.pth --out cast_10k.pth

use it anywhere torchvision is:
  net = torchvision.models.resnet50()
  net.load_state_dict(torch.load("cast_R50.pth")["model"], strict=False)      only fc stays random
  torch.load("cast_R50.pth")["meta"] tells pixel mean and std (0..255), channel order, method, data, masks, config.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Export the trunk of a pretraining run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="checkpoint of a run (.pth), or the run's folder (OUTPUT_DIR)"
    )
    parser.add_argument("--out", required=True, metavar="F", help="file to write")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    export_backbone(args.checkpoint, args.out)
    # Read back: what is reported is what is on disk.
    file = load_backbone(args.out)
    meta = file.meta
    numbers = sum(t.numel() for t in file.model.values()) / 1e6
    kwargs = ", ".join(f"{k}={v!r}" for k, v in meta["backbone"]["kwargs"].items())
    labels = ", made with labels" if meta["uses_labels"] else ""
    size = Path(args.out).stat().st_size / 1e6
    print(f"wrote {args.out}: {len(file.model)} tensors, {numbers:.2f}M numbers, {size:.1f} MB")
    print(f"  trunk    {meta['backbone']['name']}({kwargs}), torchvision names, {meta['channel_order']}")
    losses = ", ".join(meta["losses"])
    print(f"  from     {meta['method']} ({losses}), {meta['iteration']} iterations on {meta['dataset']}")
    print(f"  masks    {meta['mask_source']}{labels}")
    print(f"  digest   {meta['digest']}")
    return 0


if __name__ == "__main__":
    run_tool(main)
