"""Films, made here frame by frame: what is decoded is what was drawn, in order and upright."""

import re
import struct

import numpy as np
import pytest
from films import gray, turn_film, write_film, write_sound

from auheat.errors import MissingExtraError, RequestError
from auheat.images.decoding import decode
from auheat.images.videos import Step, VideoLog, parse_step, read_frames

av = pytest.importorskip("av", reason="PyAV makes and reads the films")


def read(file, step=Step()):  # noqa: B008 (a step is frozen)
    """Return numbers and pixels of the frames taken, and the log."""
    log = VideoLog()
    taken = [(number, decode(data)) for number, data in read_frames(file, step, log)]
    return [number for number, _ in taken], [image for _, image in taken], log


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mov", "a.mkv"])
def test_each_nth_frame_is_taken_from_the_first_on(tmp_path, name):
    file = write_film(tmp_path / name, [gray(k) for k in range(10)])
    numbers, images, log = read(file, Step(4))
    assert numbers == [0, 4, 8]
    assert [round(image.mean() / 20) for image in images] == [1, 5, 9]
    assert (log.decoded, log.faults, log.remarks) == (10, [], set())
    assert read(file, Step(100))[0] == [0]  # longer than the film


def test_webm_is_read(tmp_path):
    file = write_film(tmp_path / "a.webm", [gray(k) for k in range(3)], codec="libvpx")
    assert read(file)[0] == [0, 1, 2]


def test_steps_in_seconds_go_by_the_times_of_frames_not_their_number(tmp_path):
    times = [0, 40, 80, 500, 1000, 1040]
    frames = [gray(k) for k in range(6)]
    file = write_film(tmp_path / "a.mkv", frames, codec="libx264", times=times)
    assert read(file, Step(seconds=0.5))[0] == [0, 3, 4]


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [("libx264", "yuv420p10le"), ("ffv1", "gray"), ("ffv1", "yuv444p16le"), ("ffv1", "bgra")],
)
def test_pixel_formats_of_every_kind_become_rgb(tmp_path, codec, pixels):
    file = write_film(tmp_path / "a.mkv", [gray(3)], codec, pixels)
    (image,) = read(file)[1]
    assert (image.shape, image.dtype) == ((32, 48, 3), np.uint8)
    assert np.abs(image.astype(int) - 80).max() <= 2


def test_a_film_coded_without_loss_keeps_every_pixel(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    (image,) = read(write_film(tmp_path / "a.avi", [frame], "ffv1", "bgr0"))[1]
    np.testing.assert_array_equal(image, frame)


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # as telephones note it
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), np.fliplr),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_the_file_says(tmp_path, matrix, seen):
    frame = np.full((32, 48, 3), 120, np.uint8)
    frame[:, :24], frame[:16, 24:] = (250, 0, 0), (0, 0, 250)
    file = write_film(tmp_path / "a.mp4", [frame])
    turn_film(file, *matrix)
    (image,), log = read(file)[1:]
    assert image.shape == seen(frame).shape
    assert np.abs(image.astype(int) - seen(frame)).mean() < 4
    assert log.remarks == {"are turned, as their files say"}


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    frame = [gray(0)]
    wide = write_film(tmp_path / "a.mp4", frame, "libx264", sample_aspect_ratio=2)
    (image,), log = read(wide)[1:]
    assert image.shape == (32, 96, 3)
    assert "not square" in " ".join(log.remarks)


def test_a_film_that_breaks_off_gives_the_frames_before(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 48, 3), np.uint8)
    file = write_film(tmp_path / "a.mkv", list(noise), "ffv1", "bgr0")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    numbers, images, log = read(file)
    assert 3 <= len(numbers) < 7
    assert numbers == list(range(len(numbers)))
    np.testing.assert_array_equal(images, noise[numbers])
    assert [fault.partition(" after")[0] for fault in log.faults][-1:] == ["breaks off"]


def test_an_mp4_that_breaks_off_behind_its_index_says_so(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8)
    file = write_film(tmp_path / "a.mp4", list(noise), container={"movflags": "faststart"})
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.5)])
    numbers, _, log = read(file)
    assert 3 <= len(numbers) <= 12
    assert re.search(r"breaks off after \d+ frames \(0\.[1-5] of 0\.8 s\)", log.faults[-1])


def test_a_film_trimmed_by_its_edit_list_is_whole(tmp_path):
    frames = [gray(k) for k in range(50)]
    file = write_film(tmp_path / "a.mp4", frames, "libx264", options={"bf": "0", "g": "10"})
    data = bytearray(file.read_bytes())
    at = data.index(b"elst") + 12  # ISO/IEC 14496-12, 8.6.6: duration in ms, begin in ticks
    data[at : at + 8] = struct.pack(">Ii", 400, 20 * 512)
    file.write_bytes(data)
    numbers, images, log = read(file)
    assert (len(numbers), log.faults) == (10, [])
    assert [round(image.mean() / 20) for image in images] == [1 + k % 11 for k in range(20, 30)]


def test_the_frames_behind_a_damaged_one_are_read(tmp_path):
    frames = [gray(k) for k in range(6)]
    file = write_film(tmp_path / "a.webm", frames, "libvpx", options={"g": "1"})
    whole = read(file)[1]
    with av.open(str(file)) as container:
        third = [bytes(packet) for packet in container.demux() if packet.size][2]
    assert third[3:6] == b"\x9d\x01\x2a"  # a key frame's start code, RFC 6386, 9.1
    data = file.read_bytes()
    assert data.count(third) == 1
    file.write_bytes(data.replace(third, third[:3] + bytes(len(third) - 3)))
    images, log = read(file)[1:]
    assert log.faults == ["damaged frames: 1"]
    np.testing.assert_array_equal(images, [whole[k] for k in (0, 1, 3, 4, 5)])


def test_what_has_no_frames_says_why(tmp_path):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("no film")
    sound = write_sound(tmp_path / "sound.mp4")
    for file, why in (
        (empty, "cannot be opened"),
        (text, "cannot be opened"),
        (sound, "sound alone"),
    ):
        numbers, _, log = read(file)
        assert (numbers, len(log.faults)) == ([], 1)
        assert why in log.faults[0]


@pytest.mark.parametrize(
    "playlist", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"]
)
def test_no_file_opens_another(tmp_path, playlist):
    inner = write_film(tmp_path / "inner.mp4", [gray(0)])
    outer = tmp_path / "outer.mp4"
    outer.write_text(playlist.format(inner.name))
    numbers, _, log = read(outer)
    assert numbers == []
    assert "cannot be opened" in log.faults[0]


def test_a_film_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    file = write_film(tmp_path / "a.mp4", [gray(0)])
    monkeypatch.setattr("auheat.images.videos.MAX_PIXELS", 32 * 48 - 1)
    assert read(file)[0] == []
    assert read(file)[2].faults == ["too many pixels"]


def test_frames_are_decoded_as_they_are_asked_for(tmp_path):
    file, log = write_film(tmp_path / "a.mp4", [gray(0)] * 200), VideoLog()
    frames = read_frames(file, Step(2), log)
    next(frames), next(frames)
    assert log.decoded == 3
    frames.close()


@pytest.mark.parametrize(
    ("every", "step"),
    [(5, Step(5)), ("12", Step(12)), ("0.5s", Step(1, 0.5)), ("2s", Step(1, 2.0))],
)
def test_steps_are_numbers_of_frames_or_seconds(every, step):
    assert parse_step(every) == step
    assert parse_step(str(step)) == step


@pytest.mark.parametrize("every", [0, -1, "0s", "1.5", "five", "", "1 s", "1e3", "٣", "infs"])
def test_what_is_no_step_is_refused(every):
    with pytest.raises(RequestError, match=r"--every: .*expected a number of frames"):
        parse_step(every)


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'pip install "auheat\[video\]"'):
        next(read_frames(tmp_path / "a.mp4", Step(), VideoLog()))
