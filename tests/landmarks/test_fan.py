"""The detector `fan`: against face-alignment's own crop, forward and decoding, one face at a time.

No weights are here: networks have random ones, with batch norms calibrated on the crops, so that
the heatmaps are uneven and their peaks stand out by far more than rounding.
"""

import importlib
import io
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from auheat.errors import AuheatError
from auheat.landmarks import fan
from auheat.landmarks.mesh.crops import pack
from auheat.records import Status
from auheat.utils.cuda import BatchLimit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def library():
    """face-alignment's own functions, run as plain Python: compiling them takes longer."""
    utils = pytest.importorskip("face_alignment.utils", reason="the [fan] extra is missing")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("transform_np", "_get_preds_fromhm"):
            patch.setattr(utils, name, getattr(utils, name).py_func)
        yield utils


@pytest.fixture(scope="module")
def face(portrait):
    return np.ascontiguousarray(portrait[0][10:230, 110:330])


@pytest.fixture(scope="module")
def views(portrait, face, detector):
    """Eight views of the portrait, 64 to 900 px, one cut tight, and the boxes of the face."""
    photo, _ = portrait
    images = [photo, face, face[::2, ::2], cv2.resize(photo, (900, 700))]
    images += [photo[60:180, 165:285], photo[::3, ::3], photo[:, ::-1]]
    images += [cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA)]
    images = [np.ascontiguousarray(image) for image in images]
    return images, fan.box_points(detector(images).points)


def cut(images, boxes):
    centre, side = fan.place_crops(boxes)
    return fan.cut_crops(pack(images, CPU), torch.arange(len(images)), centre, side)


def random_fan(stacks, crops):
    """A FAN whose random weights are calibrated on crops, as if it had been trained on them."""
    torch.manual_seed(stacks)
    network = importlib.import_module("face_alignment.models").FAN(stacks).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()(crops)
    return network.eval()


@pytest.fixture(scope="module")
def one_stack(library, views):
    return random_fan(1, cut(*views))


def library_frame(library, box):
    """Centre and scale of a box, as FaceAlignment.get_landmarks_from_image computes them."""
    (left, top), (right, bottom) = box.tolist()
    centre = np.array([right - (right - left) / 2.0, bottom - (bottom - top) / 2.0])
    centre[1] -= (bottom - top) * library.CENTER_Y_OFFSET
    return centre, (right - left + bottom - top) / library.REFERENCE_SCALE


def library_crop(library, image, box):
    patch = library.crop(image, *library_frame(library, box))
    return patch.transpose(2, 0, 1).astype(np.float32) / 255.0


def library_locate(library, network, image, box, flip):
    """What the library does for one face: (68, 2) before and after it drops the fraction."""
    centre, scale = library_frame(library, box)
    crop = torch.from_numpy(library_crop(library, image, box))[None]
    out = network(crop)[-1]
    if flip:
        out = out + library.flip(network(library.flip(crop))[-1], is_label=True)
    place, whole, _ = library.get_preds_fromhm(out.numpy(), centre, scale)
    side = scale * library.SCALE_FACTOR
    return place[0] * (side / library.HEATMAP_RESOLUTION) + centre - side / 2, whole[0]


def compare(library, network, images, boxes, flip):
    """Return our points, the library's with fractions, and its whole ones, each (M, 68, 2)."""
    ours = fan.locate(network, pack(images, CPU), torch.arange(len(images)), boxes, flip=flip)
    pairs = zip(images, boxes, strict=True)
    theirs = [library_locate(library, network, image, box, flip) for image, box in pairs]
    return ours, *(np.stack(part) for part in zip(*theirs, strict=True))


@pytest.mark.parametrize("side", [3.0, 17.2, 100.0, 195.0, 390.0, 700.0])
def test_crops_of_any_scale_and_place_are_the_librarys_to_the_last_bit(library, side):
    # Of OpenCV's builds those for x86 are meant; others may round a grey level differently.
    rng = np.random.default_rng(int(side))
    images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in [(90, 120), (400, 300)]]
    low = rng.uniform(-0.5 * side, 100, (2, 2))
    boxes = np.stack([low, low + side * rng.uniform(0.5, 1, (2, 2))], 1)
    theirs = [library_crop(library, *pair) for pair in zip(images, boxes, strict=True)]
    np.testing.assert_array_equal(cut(images, boxes), np.stack(theirs))


@pytest.mark.slow
@pytest.mark.parametrize(("stacks", "flip", "count"), [(1, True, 8), (1, False, 2), (4, False, 2)])
def test_a_batch_gets_the_librarys_points(library, one_stack, views, stacks, flip, count):
    images, boxes = (part[:count] for part in views)
    network = one_stack if stacks == 1 else random_fan(stacks, cut(images, boxes))
    ours, theirs, whole = compare(library, network, images, boxes, flip)
    # The library drops the fraction: half a pixel on average, and here subtracted as such.
    assert np.abs(ours - (theirs - 0.5)).max() < 0.1
    assert np.mean(np.trunc(ours + 0.5) == whole) > 0.999
    assert len(np.unique(ours[0], axis=0)) > 40  # the peaks are not all in one place


@pytest.mark.slow
def test_other_photos_get_the_librarys_points(library, one_stack, outside_data, detector):
    paths = sorted((outside_data / "demo_faces").glob("*.[jp][pn]g"))
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths[::4]]
    faces = detector(images)
    found = np.flatnonzero(faces.status != Status.NO_FACE)
    assert len(found) >= 6
    args = [images[i] for i in found], fan.box_points(faces.points[found])
    ours, theirs, _ = compare(library, one_stack, *args, flip=False)
    assert np.abs(ours - (theirs - 0.5)).max() < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_decoding_equals_the_librarys_on_random_heatmaps(library, seed):
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(size=(5, 68, 64, 64)).astype(np.float32)
    rows = np.arange(68)
    for k, end in ((0, 0), (1, 63)):  # peaks in the outermost rows and columns
        heatmaps[k, rows, end, rng.integers(0, 64, 68)] = 9
        heatmaps[k + 2, rows, rng.integers(0, 64, 68), end] = 9
    heatmaps[4] = np.round(heatmaps[4] * 2)  # neighbours of equal height: no quarter
    heatmaps[4, rows, rng.integers(0, 64, 68), rng.integers(0, 64, 68)] = 99
    place, peak = fan.decode_heatmaps(torch.from_numpy(heatmaps))
    theirs, _, scores = library.get_preds_fromhm(heatmaps.copy())
    np.testing.assert_array_equal(place, theirs)
    np.testing.assert_array_equal(peak, scores)


class Spot(nn.Module):
    """A network of known answers: every heatmap is how bright the crop is there."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 3, 4, 4), factor / 48), requires_grad=False)

    def forward(self, crops):
        bright = nn.functional.conv2d(crops, self.weight, stride=4)
        return [bright * 0, bright.expand(-1, 68, -1, -1)]


def draw_spots(n, seed=0):
    """Dark images of mixed sizes with one bright spot, whose middles are known, and boxes."""
    rng = np.random.default_rng(seed)
    images, middles, boxes = [], [], []
    for _ in range(n):
        height, width = rng.integers(100, 260, 2)
        x, y = rng.uniform(0.4, 0.6, 2) * [width, height]
        rows, columns = np.mgrid[:height, :width]
        grey = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
        images.append(np.repeat(grey[..., None], 3, 2).astype(np.uint8))
        middles.append((x, y))
        boxes.append(np.array([[x, y]] * 2) + rng.uniform(20, 50, (2, 2)) * [[-1], [1]])
    return images, np.array(middles), np.array(boxes)


def test_a_spot_is_found_where_it_is_to_a_heatmap_pixel_and_without_bias():
    images, middles, boxes = draw_spots(60)
    found = fan.locate(Spot(), pack(images, CPU), torch.arange(60), boxes, flip=False)
    assert (found == found[:, :1]).all()
    apart = found[:, 0] - middles
    assert (np.abs(apart) < fan.place_crops(boxes)[1][:, None] / 64 + 0.5).all()
    assert np.abs(apart.mean(0)).max() < 0.5


def test_half_precision_finds_the_same_spots():
    images, _, boxes = draw_spots(20)
    args = pack(images, CPU), torch.arange(20), boxes
    full, half = fan.locate(Spot(), *args), fan.locate(Spot().half(), *args)
    apart = np.abs(full - half).max((1, 2)) / (fan.place_crops(boxes)[1] / 64)
    assert apart.max() <= 1.01
    assert (apart == 0).mean() > 0.5


def test_chunks_and_order_change_nothing(monkeypatch):
    images, _, boxes = draw_spots(7)
    args = Spot(), pack(images, CPU), torch.arange(7), boxes
    whole = fan.locate(*args)
    monkeypatch.setattr(fan, "CPU_CHUNK", 3)
    np.testing.assert_array_equal(fan.locate(*args), whole)
    pick = torch.tensor([5, 0, 5])  # several faces of one image, in any order
    np.testing.assert_array_equal(fan.locate(*args[:2], pick, boxes[pick]), whole[pick])
    assert fan.locate(*args[:2], pick[:0], boxes[:0]).shape == (0, 68, 2)


def test_a_box_wholly_outside_its_image_or_under_a_pixel_is_located_all_the_same():
    images = [np.full((9, 9, 3), 200, np.uint8)] * 2
    boxes = np.array([[[500.0, 500], [600, 600]], [[4, 4], [4.1, 4.1]]])
    found = fan.locate(Spot(), pack(images, CPU), torch.arange(2), boxes)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "box", [[[1, 1], [1, 5]], [[5, 5], [1, 9]], [[np.nan, 0], [3, 3]], [[0, 0], [np.inf, 3]]]
)
def test_a_box_without_area_or_a_number_in_it_is_an_error_with_its_row(box):
    boxes = np.array([[[0, 0], [9, 9]], box], float)
    with pytest.raises(AuheatError, match=r"box 1: .*finite, high corner above low"):
        fan.place_crops(boxes)


def test_float32_is_not_rounded_to_tf32_in_the_network():
    images, _, boxes = draw_spots(1)
    flags, spot = [], Spot()
    spot.register_forward_pre_hook(lambda *_: flags.append(torch.backends.cudnn.allow_tf32))
    fan.locate(spot, pack(images, CPU), torch.arange(1), boxes)
    assert flags == [False, False]  # as it is, and mirrored


@pytest.mark.parametrize("network", [Spot(float("nan")), Spot(1e8).half()])
def test_heatmaps_that_are_not_finite_are_an_error(network):
    images, _, boxes = draw_spots(2)
    with pytest.raises(AuheatError, match=r"heatmaps are not finite .*--engine float32"):
        fan.locate(network, pack(images, CPU), torch.arange(2), boxes)


@pytest.fixture(scope="module")
def weights(one_stack, tmp_path_factory):
    """The one-stack network's weights, in both formats."""
    folder = tmp_path_factory.mktemp("fan")
    torch.save(one_stack.state_dict(), folder / "one.pth.tar")
    safetensors.torch.save_file(one_stack.state_dict(), folder / "one.safetensors")
    return folder


@pytest.fixture(scope="module")
def detect(weights):
    return fan.FanDetector("cpu", weights / "one.pth.tar", flip=False)


@pytest.mark.slow
def test_the_detector_places_by_fan_what_mesh_finds(detect, detector, one_stack, face):
    black, empty = np.zeros((50, 60, 3), np.uint8), np.zeros((0, 5, 3), np.uint8)
    photos = [black, face, empty, np.hstack([face, face[:, ::-1]])]
    found, mesh = detect(photos), detector(photos)
    assert found.status.tolist() == [Status.NO_FACE, Status.OK, Status.NO_FACE, Status.MANY_FACES]
    np.testing.assert_array_equal(found.score, mesh.score)
    assert np.isnan(found.points[::2]).all()
    args = pack(photos[1::2], CPU), torch.arange(2), fan.box_points(mesh.points[1::2])
    expected = fan.locate(one_stack, *args, flip=False)
    np.testing.assert_array_equal(found.points[1::2], expected)
    assert [a.dtype for a in (found.points, found.score, found.status)] == ["f4", "f4", "u1"]
    nothing = detect([])
    assert (nothing.points.shape, nothing.score.shape) == ((0, 68, 2), nothing.status.shape)


@pytest.mark.slow
def test_faces_of_low_confidence_get_points_too(detect, face, monkeypatch):
    found = detect._mesh([face])
    found.status[:] = Status.LOW_CONFIDENCE
    monkeypatch.setattr(detect, "_mesh", lambda images: found)
    doubtful = detect([face])
    assert doubtful.status.tolist() == [Status.LOW_CONFIDENCE]
    assert np.isfinite(doubtful.points).all()


@pytest.mark.slow
def test_more_photos_than_a_chunk_get_the_points_they_get_alone(detect, face, monkeypatch):
    photos = [face, np.zeros((9, 9, 3), np.uint8), face[::2, ::2], face]
    alone = [detect([photo]).points[0] for photo in photos]
    monkeypatch.setattr(detect, "_limit", BatchLimit(2, "cpu"))
    np.testing.assert_allclose(detect(photos).points, alone, atol=0.02)


@pytest.mark.slow
def test_both_formats_give_the_same_network_in_the_precision_asked_for(
    weights, detect, monkeypatch
):
    monkeypatch.setattr(fan, "MeshDetector", lambda device: detect._mesh)  # loads it but once
    before = torch.get_rng_state()
    same = fan.FanDetector("cpu", weights / "one.safetensors", flip=False, half=True)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers stay
    pairs = zip(detect._network.parameters(), same._network.parameters(), strict=True)
    for first, second in pairs:
        assert (first.dtype, second.dtype) == (torch.float32, torch.float16)
        assert torch.equal(first.half(), second)
    assert not same._network.training


def test_digest_changes_with_weights_settings_and_mesh(weights, detect, monkeypatch):
    path, other = weights / "one.pth.tar", weights / "one.safetensors"
    monkeypatch.setattr(fan, "MeshDetector", lambda device: detect._mesh)  # loads it but once
    options = [{"flip": False}, {}, {"half": True}, {"flip": False, "half": True}]
    digests = [fan.FanDetector("cpu", path, **option).digest for option in options]
    digests.append(fan.FanDetector("cpu", other, flip=False).digest)
    monkeypatch.setattr(detect._mesh, "digest", "0" * 64)
    digests.append(fan.FanDetector("cpu", path, flip=False).digest)
    assert len(set(digests)) == len(digests)
    assert digests[0] == detect.digest
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
    assert (detect.name, detect.device) == ("fan", "cpu")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where the hub cache keeps the weights; it is empty, and no variable is set."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("AUHEAT_FAN", raising=False)
    path = tmp_path / "torch" / "hub" / "checkpoints" / "2DFAN4-11f355bf06.pth.tar"
    path.parent.mkdir(parents=True)
    return path


def test_a_path_precedes_the_variable_and_that_the_cache(places, tmp_path, monkeypatch):
    named, mine = tmp_path / "named.pth", tmp_path / "mine.pth"
    for path in (places, named, mine):
        path.write_bytes(b"x")
    assert fan.find_fan_weights() == places
    monkeypatch.setenv("AUHEAT_FAN", str(named))
    assert fan.find_fan_weights() == named
    assert fan.find_fan_weights(mine) == mine


def test_absent_weights_are_an_error_that_names_the_option_and_the_cache_file(places):
    with pytest.raises(AuheatError, match=r"--detector-model or AUHEAT_FAN") as caught:
        fan.FanDetector("cpu")
    assert str(places) in str(caught.value)


@pytest.mark.parametrize("name", ["gone.pth", "."])
def test_named_weights_that_are_no_file_are_an_error_even_if_the_cache_has_some(
    places, tmp_path, monkeypatch, name
):
    places.write_bytes(b"x")
    with pytest.raises(AuheatError, match=rf"{tmp_path / name}: FAN's weights are not there"):
        fan.find_fan_weights(tmp_path / name)
    monkeypatch.setenv("AUHEAT_FAN", str(tmp_path / name))
    with pytest.raises(AuheatError, match=rf"{tmp_path / name}: FAN's weights are not there"):
        fan.find_fan_weights()


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("made-by-a-pickle",))


def saved(value):
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (b"no weights at all", "a.pth", "not readable as weights"),
        (b"no weights at all", "a.safetensors", "not readable as weights"),
        (pickle.dumps(Evil()), "a.pth.tar", "not readable as weights"),
        (saved([torch.zeros(2)]), "a.pth", "holds no tensors by name"),
        (saved({"state_dict": {"m0.x": torch.zeros(2)}}), "a.pth", "holds no tensors by name"),
    ],
)
def test_files_that_are_no_weights_are_errors_and_never_run(
    library, tmp_path, monkeypatch, data, name, text
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AuheatError, match=rf"^{name}: {text}") as caught:
        fan.load_network(Path(name), data)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"l0.bias": None}, r"1 missing keys: l0\.bias"),
        ({"extra.weight": torch.zeros(1)}, r"1 unexpected keys: extra\.weight"),
        ({"l0.bias": torch.zeros(3)}, r"size mismatch for l0\.bias"),
        ({"m1.b1_4.bn1.weight": torch.zeros(256)}, r"missing keys: "),  # a second stack's scrap
    ],
)
def test_weights_of_another_network_are_an_error_that_names_keys(weights, change, text):
    path = weights / "one.safetensors"
    state = safetensors.torch.load_file(path) | change
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(AuheatError, match=text) as caught:
        fan.load_network(path, safetensors.torch.save(state))
    assert str(path) in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "face_alignment.models", None)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(AuheatError, match=r'pip install "auheat\[fan\]"'):
        fan.FanDetector("cpu", tmp_path / "a.pth")
