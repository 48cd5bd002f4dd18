"""What a fine-tuning would amount to: epochs, learning rate, warm-up, in numbers that two machines can compare."""

from __future__ import annotations

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.sampling import without_empty
from ssl_loc.utils.errors import DataError


def planned(recipe: Recipe, dataset: DetectionDataset, processes: int) -> dict[str, str]:
    """Name -> value in words.

    Args:
        recipe: already scaled to ``processes``.
        dataset: what is trained on.

    Raises:
        DataError: no image to train on.
    """
    solver = recipe.SOLVER
    rows = without_empty(dataset.dicts) if recipe.DATALOADER.FILTER_EMPTY_ANNOTATIONS else dataset.dicts
    if not rows:
        raise DataError(f"{dataset.name} has no image with an object; nothing to train on")
    batch, images = solver.IMS_PER_BATCH, len(rows)

    def epochs(iterations: int) -> str:
        return f"{iterations * batch / images:.3g}"

    steps = [step for step in solver.STEPS if step < solver.MAX_ITER]
    numbers = {
        "training images": f"{images}" + (f" of {len(dataset)} (with objects)" if images < len(dataset) else ""),
        "iterations": f"{solver.MAX_ITER} = {epochs(solver.MAX_ITER)} epochs",
        "batch": f"{batch}" + (f" = {processes} x {batch // processes}" if processes > 1 else " in one process"),
        "learning rate": f"{solver.BASE_LR:g} ({solver.BASE_LR / batch:.3g} per image of the batch)",
        "warm-up": f"{solver.WARMUP_ITERS} iterations = {solver.WARMUP_ITERS * batch} images",
    }
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        at = ", ".join(f"{step} ({epochs(step)} epochs)" for step in steps) or "never"
        numbers[f"x {solver.GAMMA:g} at"] = at
    if recipe.TEST.PRECISE_BN.ENABLED:
        passes = recipe.TEST.PRECISE_BN.NUM_ITER
        numbers["statistics of norms"] = f"from {passes} batches = {passes * batch} images, before each evaluation"
    return numbers | {"device": _device(recipe)}


def _device(recipe: Recipe) -> str:
    import torch

    wanted = recipe.MODEL.DEVICE
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        return f"cpu (MODEL.DEVICE is {wanted}, but there is no GPU here)"
    return str(wanted)
