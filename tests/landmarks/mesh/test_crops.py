"""Crops from photos of mixed sizes: equal to bilinear interpolation, on either engine."""

import cv2
import numpy as np
import pytest
import torch

from auheat.errors import AuheatError
from auheat.landmarks.mesh import crops, openvino


@pytest.mark.parametrize("replicate", [False, True])
def test_crops_of_mixed_sizes_equal_bilinear_interpolation_of_each(replicate):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in [(1, 1), (30, 7), (12, 50)]]
    image = torch.tensor([2, 0, 1, 2])
    matrix = np.array(
        [
            [[1.7, -0.9, -5], [0.4, 0.8, -3]],
            [[0.1, 0, -0.5], [0, 0.1, -0.5]],
            [[0.3, 0.2, 0], [-0.5, 1.3, 4]],
            [[900.0, 0, -9000], [0, 900, -9000]],
        ],
        np.float32,
    )
    pixels = crops.pack(images, torch.device("cpu"))
    crop = torch.from_numpy(matrix)
    found = crops.sample_crops(pixels, image, crop, 20, replicate=replicate).numpy()
    rows, columns = np.mgrid[:20, :20]
    for i, k in enumerate(image.tolist()):
        x, y = np.einsum("ij,jhw->ihw", matrix[i].astype(float), [columns, rows, rows * 0 + 1])
        # One pixel of border drawn by hand: scipy's own borders do not fade half way.
        mode = "edge" if replicate else "constant"
        padded = np.pad(images[k].astype(float), ((2, 2), (2, 2), (0, 0)), mode=mode)
        at = [np.clip(y + 2, 0, padded.shape[0] - 1), np.clip(x + 2, 0, padded.shape[1] - 1)]
        for channel in range(3):
            expected = ndimage.map_coordinates(padded[..., channel], at, order=1)
            # rounded to a level, and each place to 1/4096 px
            atol = 0.5 + 2 * 255 / 4096
            np.testing.assert_allclose(found[i, channel], expected, atol=atol)
    assert (found == np.round(found)).all()


@pytest.mark.parametrize("replicate", [False, True])
def test_crops_of_a_photo_are_the_same_bits_wherever_it_lies_among_others(replicate):
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 900), (2000, 30), *rng.integers(1, 500, (30, 2)).tolist()]
    images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in sizes]
    matrix = torch.from_numpy(rng.normal(0, 1, (len(images), 2, 3)).astype(np.float32))
    matrix[..., 2] *= 200
    together = crops.pack(images, torch.device("cpu"))
    assert together.atlas.shape[1] == 2048  # (so that most lie far from where they would alone)
    everything = torch.arange(len(images))
    found = crops.sample_crops(together, everything, matrix, 16, replicate=replicate)
    for i, image in enumerate(images):
        pixels = crops.pack([image], torch.device("cpu"))
        one = slice(i, i + 1)
        alone = crops.sample_crops(pixels, everything[:1], matrix[one], 16, replicate=replicate)
        assert torch.equal(found[one], alone)


def test_photos_lie_apart_in_the_picture_that_holds_them_all():
    sizes = np.random.default_rng(4).integers(1, 300, (50, 2))
    corners, (height, width) = crops._arrange(sizes)
    taken = np.zeros((height, width), int)
    for (y, x), (h, w) in zip(corners, sizes, strict=True):
        taken[y - 1 : y + h + 1, x - 1 : x + w + 1] += 2  # with its black pixels
        taken[y : y + h, x : x + w] += 1
    inside = taken[np.pad(taken[1:-1, 1:-1] % 2 == 1, 1)]
    assert len(inside) == sizes.prod(1).sum()
    assert (inside == 3).all()
    assert height * width < 2.2 * (sizes + 1).prod(1).sum()


def test_a_region_that_is_nowhere_is_black_on_a_device_too():
    pixels = crops.pack([np.full((9, 9, 3), 200, np.uint8)], torch.device("cpu"))
    matrix = torch.full((1, 2, 3), torch.nan)
    found = crops.sample_crops(pixels, torch.zeros(1, dtype=int), matrix, 8, replicate=True)
    assert found.max() == 0


def test_images_of_another_kind_are_an_error_naming_them():
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(AuheatError, match=r"image 1: .*uint8 of shape \(H, W, 3\)"):
            crops.pack([np.zeros((2, 2, 3), np.uint8), bad], torch.device("cpu"))


def test_images_too_long_to_crop_from_are_an_error_with_the_limit():
    with pytest.raises(AuheatError, match=r"image 0: 40000 x 2 pixels \(at most 32766 a side\)"):
        crops.check_images([np.zeros((2, 40000, 3), np.uint8)])


@pytest.mark.parametrize(
    ("replicate", "border"), [(False, cv2.BORDER_CONSTANT), (True, cv2.BORDER_REPLICATE)]
)
def test_both_engines_cut_the_same_crops(replicate, border):
    rng = np.random.default_rng(2)
    smooth = [
        cv2.GaussianBlur(rng.integers(0, 256, (*s, 3)).astype(np.uint8), (0, 0), 3)
        for s in [(90, 70), (64, 200)]
    ]
    matrix = np.array(
        [[[0.4, -0.2, 5], [0.2, 0.4, -8]], [[1.9, 0, -20], [0.1, 0.7, 3]]], np.float32
    )
    image = torch.tensor([1, 0])
    pixels = crops.pack(smooth, torch.device("cpu"))
    theirs = crops.sample_crops(pixels, image, torch.from_numpy(matrix), 96, replicate=replicate)
    images = openvino.Images(smooth, pixels.size)
    ours = openvino.cut(images, image.numpy(), matrix, 96, border)
    # OpenCV counts in 1/32 of a pixel; in a smooth picture that is a level or two.
    assert np.abs(theirs.permute(0, 2, 3, 1).numpy() - ours).max() <= 2


def test_a_region_that_is_nowhere_is_black():
    images = openvino.Images([np.full((9, 9, 3), 200, np.uint8)], torch.tensor([[9, 9]]))
    matrix = np.full((2, 2, 3), np.nan, np.float32)
    matrix[1] = 1e9
    assert openvino.cut(images, np.zeros(2, int), matrix, 8, cv2.BORDER_REPLICATE).max() == 0
