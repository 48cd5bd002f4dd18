"""Nothing of torchvision is patched: other code in the same process gets what it imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process of its own: "before" means before any of our modules was imported. The objects themselves are kept, so
# that an address cannot be used again.
SCRIPT = """
import importlib, inspect, json, pkgutil, sys
from pathlib import Path

import torchvision
import torchvision.models.detection, torchvision.ops, torchvision.transforms

for package in (torchvision.models.detection, torchvision.ops):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

def contents():
    found = {}
    for name, module in list(sys.modules.items()):
        if name == "torchvision" or name.startswith("torchvision."):
            for key, value in vars(module).items():
                found[name, key] = value
                if inspect.isclass(value) and value.__module__.startswith("torchvision"):
                    found.update({(name, key, member): held for member, held in vars(value).items()})
    return found

before = contents()
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "tests")]
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe
from ssl_loc.transfer.run import run_transfer

out = Path(sys.argv[2])
names = draw_detection_data(out / "data")
for kind in ("C4", "mask"):
    run_transfer(tiny_recipe(kind, names, out / kind, "SOLVER.MAX_ITER", 1), "random", "torchvision")
after = contents()
changed = [".".join(key) for key, value in before.items() if after.get(key, None) is not value]
print(json.dumps({"compared": len(before), "changed": changed}))
"""


def test_torchvision_is_the_same_after_a_fine_tuning(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["compared"] > 1000
    assert result["changed"] == []
