"""Files of action units as other tools and the published sets write them, in miniature."""

from pathlib import Path

OPENFACE_R = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
OPENFACE_C = (*OPENFACE_R[:-1], 28, 45)


def openface(rows, sequence=True, points=False) -> str:
    """OpenFace 2.2: `FeatureExtraction` (a sequence) or `FaceLandmarkImg`; AU -> (r, c) a row.

    A row may say frame, face, confidence, success, and x, y of all points (`at`).
    """
    start = ["frame", "face_id", "timestamp", "confidence", "success"]
    header = start if sequence else ["face", "confidence"]
    if points:
        header = [*header, *(f"x_{i}" for i in range(68)), *(f"y_{i}" for i in range(68))]
    header = [*header, *(f"AU{au:02d}_r" for au in OPENFACE_R)]
    header = [*header, *(f"AU{au:02d}_c" for au in OPENFACE_C)]
    # FaceLandmarkImg has no blanks after its commas, FeatureExtraction of 2.0 and 2.1 has
    lines = [", ".join(header)]
    for row in rows:
        units, face = row["units"], row.get("face", 0)
        confidence = f"{row.get('confidence', 0.98):.2f}"
        cells = [str(row.get("frame", 1)), str(face), "0.000", confidence]
        cells = [*cells, str(row.get("success", 1))] if sequence else [str(face), confidence]
        if points:
            x, y = row["at"]
            cells += [f"{x + 10 * (i % 5):.1f}" for i in range(68)]
            cells += [f"{y + 10 * (i // 14):.1f}" for i in range(68)]
        cells += [f"{units.get(au, (0.0, 0))[0]:.2f}" for au in OPENFACE_R]
        cells += [f"{units.get(au, (0.0, 0))[1]:.2f}" for au in OPENFACE_C]
        lines.append(", ".join(cells))
    return "\n".join(lines) + "\n"


PYFEAT = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)


def pyfeat(rows) -> str:
    """py-feat's `Fex.to_csv`: AU -> probability, `box` x, y, width, height, and `input` a row."""
    header = ["", "frame", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"]
    header += ["FaceScore", "x_0", "y_0", "Pitch", "Roll", "Yaw"]
    header += [f"AU{au:02d}" for au in PYFEAT] + ["anger", "happiness", "input"]
    lines = [",".join(header)]
    for i, row in enumerate(rows):
        box = row.get("box", (10.0, 10.0, 80.0, 80.0))
        score, units = row.get("score", 0.997), row.get("units")
        cells = [str(i), str(row.get("frame", i)), *map(str, box), str(score), "1.0", "2.0"]
        cells += ["0.1", "0.2", "0.3"]
        cells += ["" if units is None else f"{units.get(au, 0.02)}" for au in PYFEAT]
        lines.append(",".join([*cells, "0.1", "0.9", row["input"]]))
    return "\n".join(lines) + "\n"


def libreface(rows) -> str:
    """LibreFace: intensities of 12 AUs, presence of 12, and an index of the frame a row."""
    levels = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
    present = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
    header = ["frame_idx", "frame_time_in_ms", "lm_mp_0_x", "pitch", "yaw", "roll"]
    header += ["facial_expression", *(f"au_{au}" for au in present)]
    lines = [",".join([*header, *(f"au_{au}_intensity" for au in levels)])]
    for row in rows:
        cells = [str(row.get("frame", 0)), "0.0", "0.51", "-3.2", "1.0", "0.4", "Happiness"]
        cells += [str(int(au in row["present"])) for au in present]
        cells += [str(row["levels"].get(au, 0.0)) for au in levels]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def write_ckplus(folder: Path, labels) -> Path:
    """FACS/S005/001/S005_001_00000011_facs.txt: photo -> AU -> intensity, 0 where not given."""
    for photo, units in labels.items():
        subject, take, _ = photo.split("_")
        file = folder / subject / take / f"{photo}_facs.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"   {au:.7e}   {level:.7e}\n" for au, level in units.items()))
    return folder


def write_disfa(folder: Path, films) -> Path:
    """ActionUnit_Labels/SN001/SN001_au12.txt: film -> AU -> intensity of frames 1, 2, ..."""
    for film, units in films.items():
        (folder / film).mkdir(parents=True, exist_ok=True)
        for au, levels in units.items():
            lines = [f"{frame},{level}\r\n" for frame, level in enumerate(levels, 1)]
            (folder / film / f"{film}_au{au}.txt").write_bytes("".join(lines).encode())
    return folder
