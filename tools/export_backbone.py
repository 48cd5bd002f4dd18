#!/usr/bin/env python
"""Take the trained trunk out of a run, in the file that the program of your choice reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_loc.checkpoint import BackboneFile, export_backbone, read_backbone
from ssl_loc.checkpoint.backbone_formats import (
    FORMATS,
    choose_format,
    has_room_for_meta,
    meta_beside,
)
from ssl_loc.checkpoint.backbone_source import EXAMPLE
from ssl_loc.checkpoint.foreign_families import FAMILIES
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.logger import setup_logger


def families() -> str:
    """The known families, a line for each: where the trunk is."""
    return "\n".join(f"    {f.name:<52} {' or '.join(f.trunk[:2]) or '(no prefix)'}" for f in FAMILIES)


EPILOG = f"""\
examples
  tools/export_backbone.py runs/cast --out cast.pth                          the run's last checkpoint, our format
  tools/export_backbone.py runs/cast/checkpoints/iter_0010000.pth --out cast_10k.pth
  tools/export_backbone.py runs/cast --out cast.safetensors                  the format follows the suffix
  tools/export_backbone.py cast.pth --out cast_d2.pth --format detectron2    from an export, for another program

formats, and the program that reads each (CAST here stands for a ResNet-50)
  ssl_loc      cast.pth: tools/finetune_det.py, tools/evaluate.py; and by hand
                 torch.load("cast.pth")["model"] in torchvision's names, ["meta"]: pixel mean and std (0..255),
                 channel order, method, data, masks, config, digest of the tensors
  torchvision  cast_tv.pth, a plain state dict; the meta goes to cast_tv.pth.json beside it
                 net = torchvision.models.resnet50()
                 net.load_state_dict(torch.load("cast_tv.pth"), strict=False)        only fc stays random
  detectron2   cast_d2.pth (tensors) or cast_d2.pkl (numpy); one file for C4 and FPN; in the yaml
                 MODEL.WEIGHTS cast_d2.pth, and by all means INPUT.FORMAT RGB, PIXEL_MEAN, PIXEL_STD as printed,
                 RESNETS.STRIDE_IN_1X1 False, BACKBONE.FREEZE_AT 0: detectron2's defaults fit none of these
  timm         cast.safetensors or cast_timm.pth
                 timm.create_model("resnet50", num_classes=0, checkpoint_path="cast.safetensors")
  safetensors  cast.safetensors; the meta is in the header, key "ssl_loc.meta"
                 safetensors.torch.load_file("cast.safetensors")        needs pip install safetensors

All tools read all of them but .pkl (--weights, MODEL.INIT_FROM), and check the digest.

other code's checkpoint (all tools take these too; the log says what was recognised, taken and assumed)
  tools/export_backbone.py moco_v2_800ep_pretrain.pth.tar --out moco.pth
  known by their names (ResNet trunks; the query or online one of several):
{families()}
  Another trunk of the file: --prefix module.encoder_k. What no tensor tells, if the family's habit is wrong: --meta J
  or J beside the file as moco_v2_800ep_pretrain.pth.tar.json, which may hold "prefix" too:
  {EXAMPLE}
  (means and stds in the order of channel_order, 0..255; original MSRA and Caffe2 weights are BGR and stride in 1x1)
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Export the trunk of a pretraining run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="checkpoint of a run (.pth), the run's folder (OUTPUT_DIR), an exported backbone, or a checkpoint of "
        "other code",
    )
    parser.add_argument("--out", required=True, metavar="F", help="file to write")
    parser.add_argument(
        "--format", choices=list(FORMATS), default="", help="default: by F's suffix (.safetensors, .pkl), else ssl_loc"
    )
    parser.add_argument("--prefix", metavar="P", help="other code's checkpoint: what the trunk's names begin with")
    parser.add_argument("--meta", metavar="JSON", help="other code's checkpoint: pixel statistics, order, stride")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    out, name = args.out, choose_format(args.out, args.format)
    setup_logger()
    file = export_backbone(args.checkpoint, out, name, args.prefix, args.meta)
    # Read back: what is reported is what is on disk. A pickle is never opened.
    if Path(out).suffix.lower() != ".pkl":
        file = read_backbone(out)
    print(f"wrote {out} ({name} format, {Path(out).stat().st_size / 1e6:.1f} MB)")
    if not has_room_for_meta(out, name):
        beside = meta_beside(out)
        print(f"wrote {beside}: a plain state dict has no room for the meta; keep the two together")
    print(summary(file))
    return 0


def summary(file: BackboneFile) -> str:
    """What was exported, in a few lines."""
    meta = file.meta
    numbers = sum(t.numel() for t in file.model.values()) / 1e6
    kwargs = ", ".join(f"{k}={v!r}" for k, v in meta["backbone"]["kwargs"].items())
    lines = [f"  tensors  {len(file.model)}, {numbers:.2f}M numbers, digest {meta['digest']}"]
    lines.append(f"  trunk    {meta['backbone']['name']}({kwargs})")
    lines.append(f"  pixels   {meta['channel_order']}, mean {meta['pixel_mean']}, std {meta['pixel_std']}")
    if "method" in meta and "iteration" in meta:
        losses = ", ".join(meta.get("losses", []))
        lines.append(f"  from     {meta['method']} ({losses}), {meta['iteration']} iterations on {meta['dataset']}")
        labels = ", made with labels" if meta.get("uses_labels") else ""
        lines.append(f"  masks    {meta['mask_source']}{labels}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_tool(main)
