"""Scores are calculated in float32 where it is asked for, not in the 10 bits of TF32."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from auheat.evaluation.faithfulness import blur
from auheat.evaluation.imputation import impute
from auheat.evaluation.map_changes import correlate_ranks
from auheat.heatmaps import plan_heatmaps
from auheat.heatmaps.class_maps import ClassMapRenderer

PRODUCTS = (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul, torch.bmm)


class Watch(TorchFunctionMode):
    """Notes whether TF32 was allowed at each matrix product."""

    def __init__(self):
        super().__init__()
        self.rounded = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            self.rounded.append(torch.backends.cuda.matmul.allow_tf32)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def work(martinez):
    images = torch.rand(1, 3, 16, 16)
    renderer = ClassMapRenderer(plan_heatmaps(martinez, ["Happiness"]), 16)
    face = torch.tensor(martinez.frame.mean * 8 + 8, dtype=torch.float32)[None]
    return {
        "blur": lambda: blur(images),
        "impute": lambda: impute(images, images[:, 0] > 0.5, images, iterations=1),
        "ranks": lambda: correlate_ranks(images[0], images[0]),
        "class maps": lambda: renderer.draw(face),
    }


@pytest.mark.parametrize("name", ["blur", "impute", "ranks", "class maps"])
def test_products_are_exact_where_the_process_allows_tf32(work, name):
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        with Watch() as watch:
            work[name]()
    finally:
        products.allow_tf32 = before
    assert watch.rounded
    assert not any(watch.rounded)
