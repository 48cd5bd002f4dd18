"""Draw a set of procedural scenes with exact masks, boxes and classes.

A folder gets everything the other tools read: a COCO tree, a VOC tree, saliency maps, one-object pictures for kNN and
linear classification, and the eight settings of a backgrounds challenge. The same command line draws the same files;
a stopped drawing goes on where it was.

Examples:
  # the set that the names scenes_train and scenes_val stand for
  python tools/make_scenes.py datasets/scenes

  # larger pictures with more objects, where the background tells nothing about the class
  python tools/make_scenes.py /data/hard --size 224 --objects 2 6 --correlation 0 --clutter 1 --train 20000

  # then
  python tools/train_net.py --config-file configs/quick/cast.yaml DATA.TRAIN scenes:/data/hard:train \\
      DATA.MASKS.SOURCE folder DATA.MASKS.ROOT /data/hard/saliency/train
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.write import SetPlan, write_scenes
from ssl_loc.utils.cli import run_tool

_LOOK, _PLAN = SceneParams(), SetPlan()


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The examples as they are written, and every default."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    p.add_argument("root", metavar="DIR", help="folder to draw into: new, empty, or the same set unfinished")
    add = p.add_argument_group("what a scene looks like").add_argument
    span = ("MIN", "MAX")
    add("--size", type=int, nargs="+", default=[_LOOK.width, _LOOK.height], metavar="PX", help="width and height")
    add("--objects", type=int, nargs=2, default=[1, 4], metavar=span, help="objects per scene")
    add("--object-size", type=float, nargs=2, default=_LOOK.object_size, metavar=span, help="diameter / shorter side")
    add("--families", type=int, default=_LOOK.families, help="shape families: fish, mushroom, beetle, flower, ...")
    add("--kinds", type=int, default=_LOOK.kinds, help="fine-grained classes per family: same shape, other texture")
    add("--correlation", type=float, default=_LOOK.correlation, help="how often the background tells the class, 0..1")
    add("--same-class", type=float, default=_LOOK.same_class, help="how often further objects are of one class, 0..1")
    add("--clutter", type=float, default=_LOOK.clutter, help="distractors and strength of background texture, 0..1")
    add("--seed", type=int, default=_LOOK.seed, help="another seed draws other pictures of the same kind")
    add = p.add_argument_group("how much of it").add_argument
    add("--train", type=int, default=_PLAN.train, help="training scenes")
    add("--val", type=int, default=_PLAN.val, help="evaluation scenes")
    add("--objects-train", type=int, default=_PLAN.objects_train, help="one-object pictures, training, all classes")
    add("--objects-val", type=int, default=_PLAN.objects_val, help="one-object pictures, evaluation, all classes")
    add("--backgrounds", type=int, default=_PLAN.backgrounds, help="foregrounds of the backgrounds challenge")
    add("--format", choices=("jpg", "png"), default=_PLAN.image_format, help="file format (VOC tree: always jpg)")
    add("--segmentation", choices=("polygon", "rle"), default=_PLAN.segmentation, help="COCO masks; rle is exact")
    add("--workers", type=int, default=0, help="processes that draw (0: this one); the files do not depend on it")
    return p


def main() -> None:
    a = parser().parse_args()
    params = SceneParams(
        width=a.size[0],
        height=a.size[-1],
        objects_min=a.objects[0],
        objects_max=a.objects[1],
        object_size=tuple(a.object_size),
        families=a.families,
        kinds=a.kinds,
        correlation=a.correlation,
        same_class=a.same_class,
        clutter=a.clutter,
        seed=a.seed,
    )
    plan = SetPlan(a.train, a.val, a.objects_train, a.objects_val, a.backgrounds, a.format, a.segmentation)
    root = write_scenes(Path(a.root), params, plan, a.workers)
    print(f"{root}: {plan.train} + {plan.val} scenes of {len(params.classes)} classes ({', '.join(params.classes)})")


if __name__ == "__main__":
    run_tool(main)
