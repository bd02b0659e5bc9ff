"""What a project is trusted by: its metadata, workflows, citation and source distribution."""

import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from email.parser import BytesParser
from pathlib import Path

import pytest
import yaml

from auheat import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
NEWEST, OLDEST = "3.14", "3.11"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
link_readme = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["link_readme"]


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def jobs(file: Path) -> dict:
    return read(file)["jobs"]


def versions_of(job: dict) -> list[str]:
    """The Pythons that a job runs on."""
    matrix = job.get("strategy", {}).get("matrix", {})
    rows = [*matrix.get("python", ()), *(row["python"] for row in matrix.get("include", ()))]
    fixed = [
        s["with"]["python-version"] for s in job["steps"] if "setup-python" in s.get("uses", "")
    ]
    return rows + [version for version in fixed if "matrix" not in version]


def test_the_classifiers_name_the_pythons_that_are_allowed_and_tested():
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={OLDEST}" == f">={named[0]}"
    assert named[-1] == NEWEST
    assert [int(n.partition(".")[2]) for n in named] == [*range(11, 15)]
    assert set(versions_of(jobs(GITHUB / "workflows" / "ci.yml")["test"])) == set(named)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_job_runs_and_ends_on_a_python_that_is_allowed(file):
    named = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    assert jobs(file)
    for name, job in jobs(file).items():
        assert job["runs-on"], name
        assert 0 < job["timeout-minutes"] <= 90, name
        assert job["steps"], name
        assert all(("run" in step) != ("uses" in step) for step in job["steps"]), name
        assert all(isinstance(version, str) for version in versions_of(job)), "3.10 is not 3.1"
        assert set(versions_of(job)) <= named
        assert job.get("needs", name) in jobs(file)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_have_versions_and_no_more_rights_than_they_need(file):
    uses = [s["uses"] for job in jobs(file).values() for s in job["steps"] if "uses" in s]
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*|[\w-]+/[\w-]+@[0-9a-f]{40}", action)
    assert read(file)["permissions"] == {"contents": "read"}
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"secrets\.|password|(index|find)-(url|links)|pull_request_target", text)


def test_the_tests_run_on_three_systems_and_what_is_released_on_them_too():
    ci = jobs(GITHUB / "workflows" / "ci.yml")
    systems = {"ubuntu-latest", "macos-latest", "windows-latest"}
    matrix = ci["test"]["strategy"]["matrix"]
    assert {*matrix["os"], *(row["os"] for row in matrix["include"])} == systems
    assert set(ci["chain"]["strategy"]["matrix"]["os"]) == systems
    assert ci["chain"]["needs"] == "wheel"
    commands = [step["run"].split()[1] for step in ci["chain"]["steps"] if "run" in step][1:]
    assert commands == ["demo", "extract", "render", "train", "evaluate", "explain", "report",
                        "verify"]  # fmt: skip
    assert "make docs" in [step.get("run") for step in ci["docs"]["steps"]]


def test_a_release_is_published_without_a_secret_by_a_job_that_does_nothing_else():
    release = read(GITHUB / "workflows" / "release.yml")
    triggers = release[True]  # YAML 1.1 takes `on` for a truth value
    assert triggers == {"release": {"types": ["published"]}}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "release"
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert all(
        "permissions" not in job for name, job in release["jobs"].items() if name != "publish"
    )


def test_make_targets_of_the_workflows_exist():
    targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    runs = [s.get("run", "") for f in WORKFLOWS for job in jobs(f).values() for s in job["steps"]]
    assert set(re.findall(r"\bmake ([\w-]+)", "\n".join(runs))) == {"check", "docs"} <= set(targets)


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_the_forms_for_issues_are_whole(file):
    form = read(file)
    if file.stem == "config":
        assert form.keys() == {"blank_issues_enabled"}
        return
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) >= 1
    kinds = {"input", "textarea", "dropdown", "checkboxes"}
    assert {field["type"] for field in fields} <= kinds
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_hooks_before_a_commit_are_make_check():
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    wanted = [line.split("/", 1)[1].removesuffix(" .") for line in recipe.splitlines()[1:]]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]]
    assert [entry.replace(" --force-exclude", "") for entry in entries] == wanted
    assert all(hook["language"] == "system" for hook in repo["hooks"])


def test_the_citation_is_of_this_version_and_of_the_paper_that_the_readme_names():
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in PROJECT["authors"]]
    (paper,) = citation["references"]
    bibtex = README.partition("```bibtex")[2]
    fields = dict(re.findall(r"(\w+)\s*=\s*\{(.*?)\}", bibtex, re.DOTALL))
    assert paper["title"] == fields["title"]
    assert str(paper["year"]) == fields["year"]
    assert paper["collection-title"] == fields["booktitle"]
    names = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    assert re.sub(r"\s+", " ", fields["author"]).split(" and ") == names
    assert paper["url"] == PROJECT["urls"]["Paper"]


def test_the_constraints_name_plain_versions_once_and_all_that_the_extras_ask_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line) for line in lines]
    assert all(pins)
    names = [re.sub(r"[-_.]+", "-", pin[1]).lower() for pin in pins]
    assert len(set(names)) == len(names)
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["dev"], *extras["demo"], *extras["docs"]]
    wanted = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;]", need)[0]).lower() for need in asked}
    assert wanted <= set(names)
    assert "torch==2.13.0" in lines


HOME = "https://example.org/someone/auheat"


@pytest.mark.parametrize("home", [None, HOME])
def test_no_link_of_the_package_page_leads_to_a_file_that_is_not_beside_it(home):
    page = link_readme(README, home)
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert all(re.match(r"https?:|#", target) for target in targets)
    if home:
        assert f"({HOME}/blob/main/docs/metrics.md#faithfulness)" in page
        assert f"]({HOME}/raw/main/docs/explain.jpg)" in page
        assert len(targets) == len(re.findall(r"\]\(([^)]*)\)", README))
    else:
        assert "![" not in page
        assert "(docs/metrics.md)" in page  # as words
    for kept in ("make demo", "auheat-data/shards", "```python", "@inproceedings"):
        assert page.count(kept) == README.count(kept)


def test_links_to_places_on_the_page_and_elsewhere_stay():
    text = "[a](#b) [c](https://d.e) ![f](https://g.h/i.png) [j](k.md#l) ![m](n.jpg)"
    assert link_readme(text, None) == "[a](#b) [c](https://d.e) ![f](https://g.h/i.png) j "
    assert link_readme(text, "https://o/p") == (
        "[a](#b) [c](https://d.e) ![f](https://g.h/i.png) [j](https://o/p/blob/main/k.md#l) "
        "![m](https://o/p/raw/main/n.jpg)"
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> tarfile.TarFile:
    """A source distribution, built offline by the build backend from the files git knows."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("sdist")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("no git checkout")
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    (tree / "auheat/landmarks/mesh/models").mkdir(exist_ok=True)
    (tree / "auheat/landmarks/mesh/models/left.tflite").touch()
    program = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, str(out)], cwd=tree, check=True, capture_output=True
    )
    (file,) = out.iterdir()
    assert file.name == f"auheat-{__version__}.tar.gz"
    with tarfile.open(file) as archive:
        yield archive


@pytest.mark.slow
def test_a_source_distribution_has_all_that_is_needed_to_build_test_and_read(sdist):
    names = {name.partition("/")[2] for name in sdist.getnames()}
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    wanted = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert wanted - names == {".gitignore"}
    assert not [n for n in names if n.endswith((".tflite", ".pyc")) or n.startswith("demo-run")]


@pytest.mark.slow
def test_its_metadata_are_those_of_the_project(sdist):
    (file,) = (name for name in sdist.getnames() if name.count("/") == 1 and "PKG-INFO" in name)
    about = BytesParser().parsebytes(sdist.extractfile(file).read())
    assert (about["Name"], about["Version"]) == ("auheat", __version__)
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert about.get_all("Classifier") == PROJECT["classifiers"]
    assert about["Description-Content-Type"] == "text/markdown"
    home = PROJECT["urls"].get("Repository")
    assert about.get_payload(decode=True).decode().strip() == link_readme(README, home).strip()
