#!/usr/bin/env python
"""The main job end to end at small size: draw scenes, pretrain MoCo, MoCo + constrained crop and CAST from the same
seed, evaluate, fine-tune detectors, print one table and write a report."""

from __future__ import annotations

import argparse
import logging
import resource
import shlex
import signal
import sys
import time
from pathlib import Path

from ssl_loc.demo.plan import SIZES, Stage, build_plan, seed_folder
from ssl_loc.demo.run import Runner
from ssl_loc.demo.table import collect, render
from ssl_loc.engine.signals import STATUS_BASE
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.device import cpu_cores, wants_bf16
from ssl_loc.utils.file_io import write_text
from ssl_loc.utils.seeds import SEEDS_HELP, parse_seeds

EPILOG = """\
examples
  python tools/demo.py --out output/demo                    one seed, minutes on 2 CPU cores
  python tools/demo.py --out output/demo --seeds 3          mean and standard deviation over seeds 0, 1, 2
  python tools/demo.py --out /tmp/x --size smoke            do all commands fit together? numbers mean nothing
  python tools/demo.py --out output/demo --list             the commands, one per line, without running them

The same command goes on where it was stopped (Ctrl-C included): finished stages are skipped as long as their command,
their config files and the stages before them are the same. Each stage is an ordinary command line of this project;
its output is in OUT/logs/. OUT/table.txt holds the table, OUT/seedN/report/report.html the pictures.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="output/demo", metavar="DIR", help="folder of the demo (default output/demo)")
    parser.add_argument("--seeds", default="1", metavar="N", help=f"{SEEDS_HELP} (default 1: seed 0)")
    parser.add_argument("--size", default="full", choices=sorted(SIZES), help="amount of work (default full)")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="stages side by side (default: CPU cores)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of the pretraining")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING)
    out, seeds, bf16 = Path(args.out).resolve(), parse_seeds(args.seeds), wants_bf16(args.precision)
    jobs = args.jobs or min(cpu_cores(), 4 * len(seeds))
    plans = {seed: build_plan(out, seed, args.size, workers=jobs, bf16=bf16) for seed in seeds}
    stages: list[Stage] = [stage for plan in plans.values() for stage in plan]
    if args.list:
        print("\n".join(f"# {s.title}\npython {shlex.join(s.command)}" for s in stages))
        return 0
    precision = "bf16 mixed precision" if bf16 else "fp32"
    print(f"demo in {out}: {len(stages)} stages, {jobs} side by side, pretraining in {precision}", flush=True)
    runner, start = Runner(out, slots=jobs, threads=max(1, cpu_cores() // jobs)), time.perf_counter()
    # So that SIGTERM, too, stops the stages before it stops the demo.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STATUS_BASE + number))
    try:
        runner.run(stages)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return STATUS_BASE + signal.SIGINT
    text = render(collect(out, seeds), runner.seconds, stages, SIZES[args.size].meaningful)
    text += f"\nwall time of this command: {(time.perf_counter() - start) / 60:.1f} min"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    text += f", CPU time {(used.ru_utime + used.ru_stime) / 60:.1f} min"
    text += f", {len(runner.skipped)} of {len(stages)} stages were finished before\n"
    write_text(out / "table.txt", text)
    print(f"\n{text}")
    for seed in seeds:
        print(f"report: {seed_folder(out, seed) / 'report' / 'report.html'}")
    return 0


if __name__ == "__main__":
    run_tool(main)
