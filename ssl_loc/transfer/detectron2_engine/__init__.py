"""detectron2 as detection engine: the engine of record. Registers "detectron2".

The only room that imports detectron2, and only when the engine is asked to work: ``import ssl_loc`` needs none of it.
``detectron2.model_zoo`` is never imported (it needs ``pkg_resources``, which current setuptools no longer ships).
"""

from __future__ import annotations

import importlib
import importlib.util

from ssl_loc.transfer.build import DETECTION_ENGINE_REGISTRY, TransferJob
from ssl_loc.transfer.detectron2_engine.noise import quiet
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe

# What the engine uses; each needs the compiled extension or what comes with it.
_NEEDED = ("detectron2._C", "detectron2.config", "detectron2.modeling", "detectron2.engine")
_HOW = (
    "install a recent main commit of it: pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2' (needs torch, a C++ compiler and some minutes; the 0.6 "
    "wheels of 2021 are too old), or take --engine torchvision"
)


@DETECTION_ENGINE_REGISTRY.register(name="detectron2")
class Detectron2Engine:
    """Runs a recipe with detectron2."""

    name = "detectron2"

    def available(self) -> tuple[bool, str]:
        """Whether detectron2 imports here; the reason names what is missing and how to install it."""
        if importlib.util.find_spec("detectron2") is None:
            return False, f"detectron2 is not installed; {_HOW}"
        for module in _NEEDED:
            try:
                with quiet():
                    importlib.import_module(module)
            except (ImportError, AttributeError, OSError) as error:
                return False, f"detectron2 is installed but {module} does not import ({error}); {_HOW}"
        return True, "detectron2 imports"

    def version(self) -> str:
        import detectron2

        return str(detectron2.__version__)

    def problems(self, recipe: Recipe) -> list[str]:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        with quiet():
            from ssl_loc.transfer.detectron2_engine.rehearsal import problems

        return problems(recipe)

    def rehearse(self, job: TransferJob) -> str:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        with quiet():
            from ssl_loc.transfer.detectron2_engine.rehearsal import rehearse

        return rehearse(job)

    def run(self, job: TransferJob) -> dict[str, list[ImagePrediction]]:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        with quiet():
            from ssl_loc.transfer.detectron2_engine.engine import run_job

        return run_job(job)
