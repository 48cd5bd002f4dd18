#!/usr/bin/env python
"""Compare pretrainings fairly: draw scenes per seed, make maps, pretrain every row of a study, measure all rows by the
same protocols, and print one table with mean and standard deviation over the seeds."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from pathlib import Path

from ssl_loc.demo.run import Runner
from ssl_loc.demo.study import read_study
from ssl_loc.demo.study_plan import KINDS, plan_study
from ssl_loc.demo.study_table import draw_study, render_study
from ssl_loc.engine.signals import STATUS_BASE
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.device import cpu_cores, wants_bf16
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.file_io import write_text
from ssl_loc.utils.seeds import SEEDS_HELP, parse_seeds

EPILOG = """\
examples
  python tools/study.py --study configs/study/scenes.yaml --out output/study --seeds 3      hours on 2 CPU cores
  python tools/study.py --study my_study.yaml --out output/mine --list       the commands, without running them
  python tools/study.py --study my_study.yaml --out output/mine --table      only the table of what is there

A study is a yaml: ROWS (label: {CONFIG, KEYS, MAPS, MEASURE, INIT}), SCENES, KEYS for every row, CLAIMS that the
table is asked; configs/study/scenes.yaml shows each. To compare a method of your own, add its yaml as a row. The same
command goes on where it was stopped; finished stages are skipped as long as their command, their yaml and the files it
imports are the same (not the package: after an update take a new --out). Each stage is an ordinary command.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", required=True, metavar="FILE", help="yaml of the study")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of all that is made")
    parser.add_argument("--seeds", default="3", metavar="N", help=f"{SEEDS_HELP} (default 3)")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="stages side by side (default: CPU cores)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of the pretraining")
    parser.add_argument("--kinds", default="", metavar="K[,K]", help=f"only these stages, of: {', '.join(KINDS)}")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--table", action="store_true", help="print the table of the finished results and stop")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING)
    study, out, seeds = read_study(args.study), Path(args.out).resolve(), parse_seeds(args.seeds)
    jobs, bf16 = args.jobs or cpu_cores(), wants_bf16(args.precision)
    kinds = args.kinds.split(",") if args.kinds else []
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"--kinds names {', '.join(wrong)}; choices: {', '.join(KINDS)}")
    stages = plan_study(study, out, seeds, workers=jobs, bf16=bf16)
    if args.list:
        wanted = [s for s in stages if not kinds or s.kind in kinds]
        print("\n".join(f"# {s.title}\npython {shlex.join(s.command)}" for s in wanted))
        return 0
    if not args.table:
        print(f"study in {out}: {len(stages)} stages, {jobs} side by side, {'bf16' if bf16 else 'fp32'}", flush=True)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STATUS_BASE + number))
        try:
            Runner(out, slots=jobs, threads=max(1, cpu_cores() // jobs), title="study").run(stages, kinds)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return STATUS_BASE + signal.SIGINT
    text = render_study(study, out, seeds)
    write_text(out / "table.md", text)
    print(text)
    print(f"table: {out / 'table.md'}; picture: {draw_study(study, out, seeds, out / 'study.png') or 'no numbers yet'}")
    return 0


if __name__ == "__main__":
    run_tool(main)
