"""The embedded detection engine: torchvision's parts with detectron2's semantics. Registers "torchvision"."""

from __future__ import annotations

from ssl_loc.transfer.build import DETECTION_ENGINE_REGISTRY, TransferJob
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe


@DETECTION_ENGINE_REGISTRY.register(name="torchvision")
class TorchvisionEngine:
    """Runs a recipe with torchvision; its library is imported when it is asked for, not before."""

    name = "torchvision"

    def available(self) -> tuple[bool, str]:
        """Always: torchvision is a requirement of the package."""
        return True, "torchvision is installed with this package"

    def version(self) -> str:
        import torchvision

        return str(torchvision.__version__)

    def problems(self, recipe: Recipe) -> list[str]:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        from ssl_loc.transfer.torchvision_engine.honoured import recipe_problems

        return recipe_problems(recipe)

    def rehearse(self, job: TransferJob) -> str:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        from ssl_loc.transfer.torchvision_engine.rehearsal import rehearse

        return rehearse(job)

    def run(self, job: TransferJob) -> dict[str, list[ImagePrediction]]:
        """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
        from ssl_loc.transfer.torchvision_engine.engine import run_job

        return run_job(job)
