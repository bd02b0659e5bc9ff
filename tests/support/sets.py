"""Miniature data sets in their true layouts, traps included, for the tests of adapters."""

import csv
import functools
from pathlib import Path

import cv2
import numpy as np

from auheat.facs import Codebook, load_codebook

FER_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt"
FER_HEADER += ",unknown,NF\n"


def photo(file: Path, value: int = 0, size=(40, 40)) -> Path:
    """Write a flat photo whose gray value tells it apart; the suffix says how."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, np.uint8)
    assert cv2.imwrite(str(file), image)
    return file


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


RAFDB = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")


def rafdb_basic(root: Path) -> Path:
    """The basic set numbered as published: train_00001.jpg on, test_0001.jpg on, boxes beside."""
    lines = []
    for i in range(14):
        name = f"train_{i + 1:05d}" if i < 7 else f"test_{i - 6:04d}"
        photo(root / f"basic/Image/aligned/{name}_aligned.jpg", i)
        photo(root / f"basic/Image/original/{name}.jpg", i)
        write(root / f"basic/Annotation/boundingbox/{name}_boundingbox.txt", "1 2 30 40 \n")
        lines.append(f"{name}.jpg {i % 7 + 1}\n")
    write(root / "basic/EmoLabel/list_patition_label.txt", "".join(lines))
    return root


def rafdb_compound(root: Path) -> Path:
    """One photo of each of the eleven classes, in compound/, beside a basic set."""
    lines = []
    for key in range(1, 12):
        name = f"{'train' if key % 2 else 'test'}_{key:05d}"
        photo(root / f"compound/Image/aligned/{name}_aligned.jpg", key)
        lines.append(f"{name}.jpg {key}\n")
    write(root / "compound/EmoLabel/list_patition_label.txt", "".join(lines))
    return root


def rafdb_numbered(root: Path, swap: bool = False) -> Path:
    """The re-upload DATASET/{train,test}/1..7 with its two label files, two photos a class."""
    for split, width in (("train", 5), ("test", 4)):
        rows = ["image,label"]
        for i in range(14):
            key, name = i % 7 + 1, f"{split}_{i + 1:0{width}d}_aligned.jpg"
            home = key % 7 + 1 if swap else key
            photo(root / f"DATASET/{split}/{home}/{name}", i)
            rows.append(f"{name},{key}")
        write(root / f"{split}_labels.csv", "\r\n".join(rows) + "\r\n")
    return root


@functools.cache
def martinez() -> Codebook:
    """The codebook, read once."""
    return load_codebook("martinez")


def points_of(i: int) -> np.ndarray:
    """The mean face (68, 2) inside a photo of 40 x 40, elsewhere for each i."""
    return 14 * martinez().frame.mean + [19, 14] + i / 8


AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,"
    "valence,arousal"
)


def affectnet(root: Path) -> Path:
    """The full set: one photo of each id 0 to 10 in training, two in a list without a header."""
    rows = [AFFECTNET_HEADER]
    for key in range(11):
        name = f"{key % 3}/{key:056x}.jpg"
        photo(root / "Manually_Annotated_Images" / name, 10 * key)
        marks = ";".join(f"{value:.2f}" for value in points_of(key).ravel())
        box = "NULL,NULL,NULL,NULL,NULL" if key == 10 else f"5,6,20,21,{marks}"
        rows.append(f"{name},{box},{key},-0.1,0.2")
    lists = root / "Manually_Annotated_file_lists"
    write(lists / "training.csv", "\n".join(rows) + "\n")
    rows = []
    for key in (6, 7):
        name = f"9/{key + 100:056x}.jpg"
        photo(root / "Manually_Annotated_Images" / name, 5 * key)
        rows.append(f"{name},1,2,30,31,,{key},-2,-2")
    write(lists / "validation.csv", "\n".join(rows) + "\n")
    return root


def affectnet_reduced(root: Path) -> Path:
    """The reduced set: classes as text in train_set, as a number in val_set; points flat."""
    for split in ("train_set", "val_set"):
        marks = root / split / "annotations"
        marks.mkdir(parents=True)
        for i in range(8):
            photo(root / split / "images" / f"{i}.jpg", 20 * i)
            value = np.array(str(i)) if split == "train_set" else np.int64(i)
            np.save(marks / f"{i}_exp.npy", value)
            np.save(marks / f"{i}_lnd.npy", points_of(i).ravel())
            np.save(marks / f"{i}_val.npy", np.array("-0.5"))
    return root


def fer_table(root: Path, emotions="0123456", usages=("Training", "PublicTest", "PrivateTest")):
    """fer2013.csv: row i has pixels of value i, but for the first, which is 255."""
    with (root / "fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for i, emotion in enumerate(emotions):
            pixels = " ".join(["255", *[str(i)] * (48 * 48 - 1)])
            writer.writerow([emotion, pixels, usages[i % 3]])
    return root


def ferplus(root: Path) -> Path:
    """Votes for seven rows: two clear ones, a tie, unknown, NF, no name, a narrow one.

    As published, numbers go on where a row has no name: row 5 is fer0000004.png.
    """
    root.mkdir(parents=True, exist_ok=True)
    fer_table(root)
    votes = [
        "0,8,0,0,0,1,0,1,0,0",  # happiness
        "4,0,0,4,1,0,0,0,1,0",  # neutral and sadness tie
        "1,0,0,0,0,0,0,9,0,0",  # contempt, in the column before unknown
        "3,0,0,2,0,0,0,0,5,0",  # unknown
        "0,0,0,0,0,0,0,0,0,10",  # NF, and no name
        "3,2,2,2,1,0,0,0,0,0",  # neutral, with less than half
        "1,0,0,1,1,0,1,0,0,6",  # NF, named
    ]
    usages = ("Training", "PublicTest", "PrivateTest")
    rows = [
        f"{usages[i % 3]},{'' if i == 4 else f'fer{i - (i > 4):07d}.png'},{row}\n"
        for i, row in enumerate(votes)
    ]
    write(root / "fer2013new.csv", FER_HEADER + "".join(rows))
    return root


def expw(root: Path) -> Path:
    """Three faces in two photos; a box whose order is top, left, right, bottom."""
    photo(root / "image/origin/angry actor_1.jpg", 30, (120, 200))
    photo(root / "image/origin/happy_2.jpg", 40, (120, 200))
    lines = [
        "angry actor_1.jpg 0 10 20 60 45 22.9362 0\n",
        "angry actor_1.jpg 1 15 120 180 80 12.5 6\n",
        "happy_2.jpg 0 5 50 90 60 33.1 3\n",
    ]
    write(root / "label/label.lst", "".join(lines))
    return root


def sfew(root: Path) -> Path:
    """Seven named folders in Train and Val, flat test photos without labels."""
    names = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    for split in ("Train", "Val"):
        for i, name in enumerate(names):
            photo(root / f"{split}/{split}_Aligned_Faces/{name}/Film_{i:09d}_00000001.png", i)
    photo(root / "Test/Test_Aligned_Faces/Film_000000009_00000003.png", 9)
    return root


def ckplus(root: Path) -> Path:
    """Three sequences of six frames, one without a label, and one of two frames."""
    lengths = {"S005/001": 6, "S005/002": 6, "S010/001": 2, "S999/003": 6}
    labels = {"S005/001": 3, "S010/001": 2, "S999/003": 7}
    for place, n in lengths.items():
        person, take = place.split("/")
        for frame in range(1, n + 1):
            name = f"{person}_{take}_{frame:08d}"
            photo(root / f"cohn-kanade-images/{place}/{name}.png", frame)
        home = root / "Emotion" / place
        home.mkdir(parents=True)
        if place in labels:
            write(home / f"{name}_emotion.txt", f"   {labels[place]:.7e}\n")
    return root


def jaffe(root: Path) -> Path:
    codes = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
    for person in ("KA", "YM"):
        for i, code in enumerate(codes):
            photo(root / f"{person}.{code}1.{i + 39}.tiff", i)
    write(root / "README", "Semantic ratings\n")
    return root


def kdef(root: Path) -> Path:
    """Both sessions of a woman and a man, from two angles, and two misnamed files."""
    for who in ("AF01", "BF01", "AM01", "BM01"):
        for i, code in enumerate(("AF", "AN", "DI", "HA", "NE", "SA", "SU")):
            for angle in ("S", "HL"):
                photo(root / f"{who}/{who}{code}{angle}.JPG", 3 * i)
    photo(root / "AF31/AF31V.JPG", 9)
    photo(root / "AM31/AM31H.JPG", 9)
    return root
